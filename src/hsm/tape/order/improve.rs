//! Or-opt: a run of visits is moved, in its own direction, to where it costs less.

use super::{ROUNDS, Steps};

/// The order with where the head stands in front, and where each place is in it.
struct Tour<'a> {
    steps: &'a Steps,
    places: Vec<usize>,
    position: Vec<usize>,
}

/// Moves runs until nothing is gained, or for [`ROUNDS`] rounds.
///
/// A move takes out three steps and puts in three. Whatever it gains, from one of the three on the gain never
/// falls below zero; so each place is tried as that one, and only near ones are looked at: `NEAR` squared for each
/// place, where trying every end of a run would be as many as there are visits.
pub(super) fn improve(steps: &Steps, order: &mut [usize]) {
    let mut tour = Tour::new(steps, order);
    for _ in 0..ROUNDS {
        let mut moved = false;
        for before in 0..=steps.visits {
            while let Some((begin, end)) = tour.gain(before) {
                tour.shift(before, begin, end);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    order.copy_from_slice(&tour.places[1..]);
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

    /// A run that costs less right behind `before`: the visit that it begins with, and the position of its last.
    fn gain(&self, before: usize) -> Option<(usize, usize)> {
        let at = self.position[before];
        let old = self.step(at, at + 1);
        for begin in self.steps.near(before) {
            let first = self.position[begin];
            let saved = old - self.steps.step(before, begin);
            if saved <= LEAST || first == at + 1 {
                return None;
            }
            let found = self.end_of_run(at, first, saved + self.step(first - 1, first));
            if let Some(end) = found {
                return Some((begin, end));
            }
        }
        None
    }

    /// Where a run from `first` on ends that is worth moving behind `at`; `saved` so far, without its end and
    /// what then closes the gap.
    fn end_of_run(&self, at: usize, first: usize, saved: f32) -> Option<usize> {
        let last = self.places.len() - 1;
        let close = |end: usize| match self.places.get(at + 1) {
            Some(&visit) => self.steps.step(self.places[end], visit),
            None => 0.0,
        };
        // It ends before `at`, or anywhere behind it; with the whole rest, nothing is left behind.
        let ends = if first > at { first..last } else { first..at };
        if first > at && saved - close(last) > LEAST {
            return Some(last);
        }
        let gap = self.places[first - 1];
        for next in self.steps.near(gap) {
            let bridge = self.steps.step(gap, next);
            if saved - bridge <= LEAST {
                break;
            }
            let end = self.position[next].wrapping_sub(1);
            if ends.contains(&end) && saved - bridge + self.step(end, end + 1) - close(end) > LEAST
            {
                return Some(end);
            }
        }
        None
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
