//! A job that would keep more on disk than jobs may waits until others have ended.

use super::super::{CliError, Session};
use super::sources::Wanted;
use super::staging::{Known, Staging, Teller, place};
use super::view;
use crate::client::Client;
use crate::error::Failure;
use crate::server::wire::{JobAct, JobOrder, JobPhase, JobView, SubmitOptions, Submitted};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How often it is looked whether others have ended, at first and later.
const LOOK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

impl Staging {
    /// The job's generation at an instance, as it was when this process first asked there.
    pub(super) fn generation(
        &self,
        client: &mut Client,
        known: &mut Known,
    ) -> Result<u64, CliError> {
        if let Some(generation) = known.get(client.socket()) {
            return Ok(*generation);
        }
        let held = client.job(&self.order(JobAct::Show, None))?;
        known.insert(client.socket().to_owned(), held.generation);
        Ok(held.generation)
    }

    fn order(&self, act: JobAct, generation: Option<u64>) -> JobOrder {
        JobOrder {
            job: self.job.clone(),
            act,
            pin_for_s: None,
            generation,
        }
    }

    /// Gives back what the job holds, and waits until there is room for all of it; whether it has to go on
    /// waiting, where nobody does any more.
    pub(super) fn waits_for_others(
        &self,
        session: &Session,
        all: &[Wanted],
        teller: &mut Teller,
        known: &mut Known,
    ) -> Result<bool, CliError> {
        self.patiently(session, teller, || self.let_go(session, all, known))?;
        let mut pause = LOOK.0;
        loop {
            let look = || self.looks_for_room(session, all);
            let Some(why) = self.patiently(session, teller, look)? else {
                return Ok(false);
            };
            let last = teller.last.as_ref().map(|(_, last)| last.clone());
            teller.tell(&JobView {
                phase: JobPhase::Staging,
                over_budget: true,
                waiting: Some(why),
                ..last.unwrap_or_else(|| view::empty(&self.job))
            })?;
            if !self.waits_on() {
                return Ok(true);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK.1);
        }
    }

    /// What this gives up is its own: who released the job since this began is not overruled.
    fn let_go(&self, session: &Session, all: &[Wanted], known: &mut Known) -> Result<(), CliError> {
        for place in Self::places(all, session)? {
            let mut client = session.client_within(Some(place), view::SILENCE)?;
            let before = self.generation(&mut client, known)?;
            let held = client.job(&self.order(JobAct::Release, Some(before)))?;
            known.insert(client.socket().to_owned(), held.generation);
        }
        Ok(())
    }

    /// What keeps the job from having all that it needs at one time.
    ///
    /// # Errors
    /// Waiting cannot help.
    fn looks_for_room(
        &self,
        session: &Session,
        all: &[Wanted],
    ) -> Result<Option<String>, CliError> {
        let mut by_instance: BTreeMap<PathBuf, (Client, Vec<Vec<u8>>)> = BTreeMap::new();
        let needed = |w: &&Wanted| !w.optional && !w.paths.is_empty();
        for wanted in all.iter().filter(needed) {
            let client = session.client_within(place(wanted), view::SILENCE)?;
            let socket = client.socket().to_owned();
            let (_, paths) = by_instance.entry(socket).or_insert((client, Vec::new()));
            paths.extend(wanted.paths.iter().cloned());
        }
        for (mut client, paths) in by_instance.into_values() {
            let options = SubmitOptions {
                dry_run: true,
                job: Some(self.job.clone()),
                pin_for_s: Some(1),
                ..SubmitOptions::default()
            };
            let mut paths = paths.into_iter();
            let asked = client.submit(self.verb, &mut paths, &options)?;
            let Some(Submitted::Plan(plan)) = asked.submitted else {
                continue;
            };
            if plan.waits.is_some() {
                return Ok(plan.waits);
            }
            if let Some(refused) = plan.refused {
                return Err(CliError::new(Failure::NoSpace, refused));
            }
        }
        Ok(None)
    }
}
