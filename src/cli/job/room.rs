//! Before it asks for anything, a job claims all that it needs on disk; if jobs would keep more than they may, it waits
//! until others have ended.

use super::super::{CliError, Session};
use super::sources::Wanted;
use super::staging::{Known, Staging, Teller, place};
use super::view;
use crate::client::Client;
use crate::server::wire::{
    JobAct, JobNeed, JobOrder, JobPhase, JobView, Plan, SubmitOptions, Submitted, Verb,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is looked whether others have ended, at first and later; within the two minutes after which a
/// job that does not ask waits no more.
const LOOK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// What a stage for the job would do: a question, as whoever pins asks it.
pub(super) fn look(job: &str) -> SubmitOptions {
    SubmitOptions {
        dry_run: true,
        job: Some(job.to_owned()),
        pin_for_s: Some(1),
        ..SubmitOptions::default()
    }
}

/// What the required files would take, all of an instance at once: what two directives name is counted once.
pub(super) fn weigh(
    session: &Session,
    all: &[Wanted],
    job: &str,
) -> Result<Vec<(PathBuf, Plan)>, CliError> {
    let mut by_instance: BTreeMap<PathBuf, (PathBuf, Client, Vec<Vec<u8>>)> = BTreeMap::new();
    let needed = all.iter().filter(|w| !w.optional);
    for (wanted, at) in needed.filter_map(|w| Some((w, place(w)?))) {
        let client = session.client_within(Some(at), view::SILENCE)?;
        let socket = client.socket().to_owned();
        let new = (at.to_owned(), client, Vec::new());
        let (_, _, paths) = by_instance.entry(socket).or_insert(new);
        paths.extend(wanted.paths.iter().cloned());
    }
    let mut plans = Vec::new();
    for (at, mut client, paths) in by_instance.into_values() {
        let asked = client.submit(Verb::Stage, &mut paths.into_iter(), &look(job))?;
        if let Some(Submitted::Plan(plan)) = asked.submitted {
            plans.push((at, plan));
        }
    }
    Ok(plans)
}

/// An order about the job's place among others; what it waits for.
pub(super) fn tell(
    session: &Session,
    at: &Path,
    job: &str,
    (act, need): (JobAct, Option<JobNeed>),
) -> Result<Option<String>, CliError> {
    let order = JobOrder {
        job: job.to_owned(),
        act,
        pin_for_s: None,
        generation: None,
        need,
    };
    let mut client = session.client_within(Some(at), view::SILENCE)?;
    Ok(client.job(&order)?.waits)
}

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
            need: None,
        }
    }

    /// Claims all that the job needs, and waits for it. The view of a job that has to go on waiting, where
    /// nobody does any more.
    ///
    /// # Errors
    /// Waiting cannot help, besides what stands in the way of the question.
    pub(super) fn claims(
        &self,
        session: &Session,
        all: &[Wanted],
        teller: &mut Teller,
    ) -> Result<Option<JobView>, CliError> {
        let mut needs = None;
        if self.poll {
            // It was weighed by a look before this one.
            let places = Self::places(all, session)?.into_iter();
            let last: Vec<_> = places.map(|at| (at.to_owned(), None)).collect();
            if let Some(why) = self.patiently(session, teller, || self.claim(session, &last))? {
                return Ok(Some(self.waiting(teller, why)));
            }
        }
        let mut pause = LOOK.0;
        loop {
            let ask = || {
                if needs.is_none() {
                    let plans = weigh(session, all, &self.job)?.into_iter();
                    let need = plans.filter_map(|(at, plan)| Some((at, Some(plan.pins?))));
                    needs = Some(need.collect::<Vec<_>>());
                }
                self.claim(session, needs.as_deref().unwrap_or_default())
            };
            let Some(why) = self.patiently(session, teller, ask)? else {
                return Ok(None);
            };
            let waiting = self.waiting(teller, why);
            teller.tell(&waiting)?;
            if !self.waits_on() {
                return Ok(Some(waiting));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK.1);
        }
    }

    fn waiting(&self, teller: &Teller, why: String) -> JobView {
        let last = teller.last.as_ref().map(|(_, last)| last.clone());
        JobView {
            phase: JobPhase::Staging,
            waiting: Some(why),
            ..last.unwrap_or_else(|| view::empty(&self.job))
        }
    }

    /// Claims it at each instance; if one has to be waited for, nothing is claimed at the others meanwhile.
    fn claim(
        &self,
        session: &Session,
        needs: &[(PathBuf, Option<JobNeed>)],
    ) -> Result<Option<String>, CliError> {
        for (n, (at, need)) in needs.iter().enumerate() {
            let waits = tell(session, at, &self.job, (JobAct::Claim, *need));
            if matches!(waits, Ok(None)) {
                continue;
            }
            for (before, _) in needs.iter().take(n) {
                tell(session, before, &self.job, (JobAct::Unclaim, None))?;
            }
            return waits;
        }
        Ok(None)
    }

    /// Gives back what the job holds. Who released it since this began is not overruled.
    pub(super) fn let_go(
        &self,
        session: &Session,
        all: &[Wanted],
        known: &mut Known,
    ) -> Result<(), CliError> {
        for place in Self::places(all, session)? {
            let mut client = session.client_within(Some(place), view::SILENCE)?;
            let before = self.generation(&mut client, known)?;
            let held = client.job(&self.order(JobAct::Release, Some(before)))?;
            known.insert(client.socket().to_owned(), held.generation);
        }
        Ok(())
    }
}
