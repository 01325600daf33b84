//! One file, from its first byte to its stub and back: P1 to P5.
//!
//! Two blocks of data, a user who writes, maps and truncates, one who reads through a descriptor, an
//! archiver, a releaser, a recall, a scan, kill -9 of Cairn and the loss of power. What each step
//! is, is said where it is made; in what order they come, in `docs/faults.md`.

mod archiver;
mod crash;
mod disk;
mod properties;
mod recall;
mod releaser;
mod scanner;
mod state;
mod users;

pub(crate) use state::{Bounds, Rules, State};

use crate::explorer::{Protocol, Step};

/// The protocol with its rules, one of which a control may leave out, and how often what may happen.
pub(crate) struct File {
    pub(crate) rules: Rules,
    pub(crate) bounds: Bounds,
}

impl Protocol for File {
    type State = State;

    fn start(&self) -> State {
        State::new(self.bounds)
    }

    fn steps(&self, from: &State, to: &mut Vec<(Step, State)>) {
        let mut next = Next {
            rules: &self.rules,
            from,
            to,
        };
        users::steps(&mut next);
        archiver::steps(&mut next);
        releaser::steps(&mut next);
        recall::steps(&mut next);
        scanner::steps(&mut next);
        crash::steps(&mut next);
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        properties::broken(state)
    }
}

/// Where steps are gathered.
struct Next<'a> {
    rules: &'a Rules,
    from: &'a State,
    to: &'a mut Vec<(Step, State)>,
}

impl Next<'_> {
    /// A step with one outcome.
    fn step(&mut self, name: &'static str, change: impl FnOnce(&mut State)) {
        self.outcome(name, 0, change);
    }

    /// One of several outcomes of a step.
    fn outcome(&mut self, name: &'static str, number: u16, change: impl FnOnce(&mut State)) {
        let mut state = *self.from;
        change(&mut state);
        self.to.push((Step(name, number), state));
    }
}
