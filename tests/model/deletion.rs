//! From unlink to the last byte on a tier, and back: P8 and P9, with repack, undelete, quarantine, and
//! a catalog that is an old one.
//!
//! Two files share an aggregate; a third inode is what an undelete makes. What happens to one file's
//! blocks is the other model's: here a release, a recall and an archive are a step or two.

mod catalog;
mod collector;
mod place;
mod process;
mod properties;
mod release;
mod scanner;
mod state;
mod undelete;
mod users;

pub(crate) use state::{Bounds, Rules, State};

use crate::explorer::{Protocol, Step};

/// The protocol with its rules, one of which a control may leave out, and how often what may happen.
pub(crate) struct Deletion {
    pub(crate) rules: Rules,
    pub(crate) bounds: Bounds,
}

impl Protocol for Deletion {
    type State = State;

    fn start(&self) -> State {
        State::new(self.bounds, &self.rules)
    }

    fn steps(&self, from: &State, to: &mut Vec<(Step, State)>) {
        let mut next = Next {
            rules: &self.rules,
            from,
            to,
        };
        users::steps(&mut next);
        release::steps(&mut next);
        scanner::steps(&mut next);
        collector::steps(&mut next);
        place::steps(&mut next);
        undelete::steps(&mut next);
        process::steps(&mut next);
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
    fn step(&mut self, name: &'static str, change: impl FnOnce(&mut State)) {
        self.of(name, 0, change);
    }

    /// A step about one of several: the number is shown, counted from 1.
    fn of(&mut self, name: &'static str, number: usize, change: impl FnOnce(&mut State)) {
        let mut state = self.from.clone();
        change(&mut state);
        state.mourn();
        self.to.push((Step(name, number as u16), state));
    }
}
