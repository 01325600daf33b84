//! A library on virtual time: four drives, one robot, cartridges on the timing model. It serves a day of recalls by the queue,
//! or as they come.

use crate::BLOCK;
use crate::trace::{DRIVES, geometry};
use cairn::hsm::tape::estimate::Model;
use cairn::hsm::tape::order;
use cairn::hsm::tape::queue::{Job, Moment, Turn};
use cairn::tier::tape::timing::{LOAD_POINT, ROBOT_MOVE, Spot};
use std::time::Duration;

/// Where a head stands behind a block.
fn spot(block: Option<u64>) -> Spot {
    block.map_or(LOAD_POINT, |block| geometry().spot(block * BLOCK))
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn read(job: &Job<usize>, from: Option<u64>) -> Duration {
    let locate = geometry().locate(spot(from), spot(Some(job.begin)));
    seconds(locate + geometry().transfer(job.bytes))
}

/// The order of least time, by the model.
pub(crate) fn least(_: &usize, at: Option<u64>, jobs: &[Job<usize>]) -> Vec<usize> {
    let geometry = geometry();
    let head = spot(at);
    let spots: Vec<_> = jobs
        .iter()
        .map(|job| (spot(Some(job.begin)), spot(Some(job.end))))
        .collect();
    order::order(jobs.len(), |from, to| {
        let from = from.map_or(head, |from| spots[from].1);
        geometry.locate(from, spots[to].0) as f32
    })
}

/// What somebody who knows the model, but not where the head of a cartridge stands that is put away, expects.
pub(crate) struct Expected;

impl Model<usize> for Expected {
    fn mount(&self, turn: &Turn<usize>) -> Duration {
        if !turn.load {
            return Duration::ZERO;
        }
        let middle = Spot {
            wrap: 0,
            metres: geometry().generation.parameters().length / 2.0,
        };
        let away = turn
            .unload
            .map_or(0.0, |_| geometry().unmount(middle, ROBOT_MOVE));
        seconds(away + geometry().mount(ROBOT_MOVE))
    }

    fn read(&self, job: &Job<usize>, from: Option<u64>) -> Duration {
        read(job, from)
    }
}

/// A drive of the library.
#[derive(Clone, Default)]
pub(crate) struct Drive {
    /// Until then it is at something.
    pub(crate) busy: Moment,
    pub(crate) holds: Option<usize>,
    /// Behind which block its head stands.
    pub(crate) at: Option<u64>,
}

/// All drives, and the robot that they share.
#[derive(Clone)]
pub(crate) struct Library {
    pub(crate) drives: Vec<Drive>,
    robot: Moment,
    pub(crate) mounts: u64,
}

impl Library {
    pub(crate) fn new() -> Self {
        Self {
            drives: vec![Drive::default(); DRIVES],
            robot: Moment::ZERO,
            mounts: 0,
        }
    }

    /// Puts a cartridge into a drive, whatever is in there put away, from `now` on.
    pub(crate) fn mount(&mut self, drive: usize, cartridge: usize, now: Moment) {
        let bay = &mut self.drives[drive];
        if bay.holds == Some(cartridge) {
            bay.busy = bay.busy.max(now);
            return;
        }
        let rewound = match bay.holds {
            Some(_) => now + seconds(geometry().unmount(spot(bay.at), 0.0)),
            None => now,
        };
        let moves = if bay.holds.is_some() { 2.0 } else { 1.0 };
        let moved = rewound.max(self.robot) + seconds(moves * ROBOT_MOVE);
        self.robot = moved;
        bay.busy = moved + seconds(geometry().mount(0.0));
        (bay.holds, bay.at) = (Some(cartridge), None);
        self.mounts += 1;
    }

    /// Reads a member in a drive that holds its cartridge; gives the time at which that is done.
    pub(crate) fn read(&mut self, drive: usize, job: &Job<usize>, now: Moment) -> Moment {
        let bay = &mut self.drives[drive];
        bay.busy = bay.busy.max(now) + read(job, bay.at);
        bay.at = Some(job.end);
        bay.busy
    }
}
