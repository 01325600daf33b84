//! Or-opt: a run of visits is moved, in its own direction, to where it costs less.

use super::{ROUNDS, Steps};

/// The order with where the head stands in front, and where each place is in it.
struct Tour<'a> {
    steps: &'a Steps,
    places: Vec<usize>,
    position: Vec<usize>,
}

/// Moves runs until nothing is gained, or for [`ROUNDS`] rounds.
pub(super) fn improve(steps: &Steps, order: &mut [usize]) {
    let mut tour = Tour::new(steps, order);
    for _ in 0..ROUNDS {
        let mut moved = false;
        for before in 0..=steps.visits {
            for begin in steps.near(before) {
                match tour.gain(before, begin) {
                    Found::Gain { end } => {
                        tour.shift(before, begin, end);
                        moved = true;
                        break;
                    }
                    Found::None => {}
                    Found::NoMore => break,
                }
            }
        }
        if !moved {
            break;
        }
    }
    order.copy_from_slice(&tour.places[1..]);
}

/// What moving a run could bring.
enum Found {
    /// The run up to this position costs less behind `before`.
    Gain {
        end: usize,
    },
    None,
    /// It is there already, and what comes later in the list of near ones costs more.
    NoMore,
}

/// Gains below it are rounding.
const LEAST: f32 = 1e-3;

impl<'a> Tour<'a> {
    fn new(steps: &'a Steps, order: &[usize]) -> Self {
        let places: Vec<usize> = [steps.start()].iter().chain(order).copied().collect();
        let mut position = vec![0; places.len()];
        for (at, &place) in places.iter().enumerate() {
            position[place] = at;
        }
        Self {
            steps,
            places,
            position,
        }
    }

    /// The step from one position to another; behind the last one comes nothing.
    fn step(&self, from: usize, to: usize) -> f32 {
        match self.places.get(to) {
            Some(&visit) => self.steps.step(self.places[from], visit),
            None => 0.0,
        }
    }

    /// Is there a run that begins with the visit `begin` and costs less right behind `before`?
    fn gain(&self, before: usize, begin: usize) -> Found {
        let (at, first) = (self.position[before], self.position[begin]);
        let new = self.steps.step(before, begin);
        let old = self.step(at, at + 1);
        let cut = self.step(first - 1, first);
        if first == at + 1 {
            return Found::NoMore;
        }
        if new >= old + cut {
            return Found::None;
        }
        // It ends before `before`, or anywhere behind it.
        let ends = if first > at {
            first..self.places.len()
        } else {
            first..at
        };
        for end in ends {
            let bridge = self.step(first - 1, end + 1);
            let close = match self.places.get(at + 1) {
                Some(&visit) => self.steps.step(self.places[end], visit),
                None => 0.0,
            };
            if old + cut + self.step(end, end + 1) - (new + bridge + close) > LEAST {
                return Found::Gain { end };
            }
        }
        Found::None
    }

    /// Moves the run of positions from that of `begin` to `end` behind `before`.
    fn shift(&mut self, before: usize, begin: usize, end: usize) {
        let (at, first) = (self.position[before], self.position[begin]);
        let moved = if first > at {
            self.places[at + 1..=end].rotate_right(end + 1 - first);
            at + 1..end + 1
        } else {
            self.places[first..=at].rotate_left(end + 1 - first);
            first..at + 1
        };
        for position in moved {
            self.position[self.places[position]] = position;
        }
    }
}
