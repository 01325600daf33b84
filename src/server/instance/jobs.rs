//! What batch jobs hold, for their own users.

use super::{Instance, views};
use crate::error::Failure;
use crate::hsm::engine::PinNeed;
use crate::server::control::{ControlError, Peer};
use crate::server::wire::{JobAct, JobHeld, JobOrder, RequestFilter, RequestView};
use std::time::Duration;

impl Instance {
    /// A job is told by its name and the peer: nobody reaches another user's.
    pub(super) fn job_order(&self, order: &JobOrder, peer: &Peer) -> Result<JobHeld, ControlError> {
        let (job, tells) = (order.job.as_str(), self.tells(peer));
        let (mut cancelled, mut dropped, mut generation) = (0, 0, None);
        let mut waits = None;
        match order.act {
            JobAct::Show => {}
            JobAct::Claim | JobAct::Weigh => {
                let need = order.need.map(|need| {
                    let pins = PinNeed {
                        total: need.total,
                        all: need.all,
                        user: need.user,
                    };
                    (pins, need.bytes)
                });
                let hold = order.act == JobAct::Claim;
                waits = self
                    .engine
                    .claim_for_job(peer.uid, job, need, hold)
                    .map_err(&tells)?;
            }
            JobAct::Unclaim => self.engine.unclaim_for_job(peer.uid, job).map_err(&tells)?,
            JobAct::Pin | JobAct::Lapse => {
                let Some(seconds) = order.pin_for_s else {
                    let why = "how long the pins are to hold is not said";
                    return Err(ControlError::new(Failure::Usage, why));
                };
                let how_long = Duration::from_secs(seconds);
                let changed = match order.act {
                    JobAct::Lapse => self.engine.lapse_job(peer.uid, job, how_long),
                    _ => self.engine.pin_job(peer.uid, job, how_long),
                };
                changed.map_err(&tells)?;
            }
            JobAct::Release => {
                let ended = self.engine.release_job(peer.uid, job, order.generation);
                let (requests, pins, now) = ended.map_err(&tells)?;
                (cancelled, dropped, generation) = (requests, pins, Some(now));
            }
        }
        let held = self.engine.held_by_job(peer.uid, job).map_err(&tells)?;
        let generation = match generation {
            Some(now) => now,
            None => self.engine.job_generation(peer.uid, job).map_err(&tells)?,
        };
        Ok(JobHeld {
            cancelled,
            dropped,
            files: held.files,
            bytes: held.bytes,
            until: held.until.map(views::when),
            generation,
            waits: waits.or_else(|| self.engine.job_waits(peer.uid, job)),
        })
    }

    /// All requests of the peer's job; for who rules the instance, of anybody's of that name.
    pub(super) fn requests_of_job(
        &self,
        job: &str,
        filter: &RequestFilter,
        peer: &Peer,
    ) -> Result<Vec<RequestView>, ControlError> {
        let tells = self.tells(peer);
        let whose = (!self.rules(peer)).then_some(peer.uid);
        let mut rows = self
            .engine
            .requests_of_job(whose, job, filter.limit)
            .map_err(&tells)?;
        rows.retain(|row| {
            let before = filter.before.is_none_or(|before| row.id.0 < before);
            before && (!filter.failed || row.counts.failed.files > 0)
        });
        rows.into_iter()
            .map(|row| {
                let problems = RequestView::MAX_PROBLEMS.min(100);
                let report = self.engine.request(row.id, problems).map_err(&tells)?;
                Ok(self.view(&report, peer))
            })
            .collect()
    }
}
