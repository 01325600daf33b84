//! In which order to visit places on one cartridge: the least time between them, as far as can be had in
//! milliseconds.
//!
//! A drive reads on where it stands for nothing, and everything else costs seconds that depend on where
//! it comes from and where it goes to (and not as much the other way round), so this is the asymmetric
//! travelling salesman without a way home. Small sets are solved exactly ([`exact`]). Others begin as LOSS
//! (Hillyer and Silberschatz, SIGMOD 1996: first the step whose second-best choice would cost most),
//! and then runs of visits are moved to where they cost less. Very many are read in the
//! order in which they lie, part by part.
//!
//! Invariants: the answer has each visit once. Of each part it costs no more than the order in which the
//! visits lie, nor than going to the nearest each time. Equal input gives an equal answer. No clock, no I/O.

mod exact;
mod improve;
mod loss;
#[cfg(test)]
mod tests;

/// Most visits whose order is found exactly.
pub const EXACT: usize = 10;
/// Most visits that are ordered together: the table of all steps takes 4 bytes for each pair.
const TOGETHER: usize = 2048;
/// How many of the cheapest steps from each place are looked at.
const NEAR: usize = 10;
/// Steps that are compared at once.
const STRETCH: usize = 32;
/// Rounds of improvement at most; most sets are done after five.
const ROUNDS: usize = 30;

/// The seconds of each step: from the end of one visit, or from where the head stands, to the
/// beginning of another.
struct Steps {
    visits: usize,
    /// Row by row; the last row is from where the head stands.
    seconds: Vec<f32>,
    /// For each row its cheapest steps, [`NEAR`] of them or as many as there are, the cheapest first.
    near: Vec<u32>,
}

impl Steps {
    fn new(visits: usize, seconds: impl Fn(Option<usize>, usize) -> f32) -> Self {
        let mut steps = Self {
            visits,
            seconds: Vec::with_capacity((visits + 1) * visits),
            near: Vec::new(),
        };
        let mut nearest = Vec::with_capacity(steps.width() + 1);
        for from in (0..visits).map(Some).chain([None]) {
            steps.seconds.extend((0..visits).map(|to| {
                if from == Some(to) {
                    f32::INFINITY
                } else {
                    seconds(from, to)
                }
            }));
            // Now, while the row is in the processor's cache.
            steps.add_nearest(from.unwrap_or(visits), &mut nearest);
        }
        steps
    }

    /// The row of where the head stands.
    fn start(&self) -> usize {
        self.visits
    }

    fn row(&self, from: usize) -> &[f32] {
        &self.seconds[from * self.visits..][..self.visits]
    }

    fn step(&self, from: usize, to: usize) -> f32 {
        self.seconds[from * self.visits + to]
    }

    fn width(&self) -> usize {
        NEAR.min(self.visits.saturating_sub(1)).max(1)
    }

    fn near(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        let width = self.width();
        let near = &self.near[from * width..][..width];
        near.iter().map(|to| *to as usize)
    }

    /// Finds what is near the last row; `best` is room for that.
    fn add_nearest(&mut self, from: usize, best: &mut Vec<(f32, u32)>) {
        let width = self.width();
        let mut bound = f32::INFINITY;
        best.clear();
        for (at, stretch) in self.row(from).chunks(STRETCH).enumerate() {
            // Nearly all stretches have nothing near, which many at a time can be asked at once.
            if !stretch.iter().fold(false, |any, s| any | (*s < bound)) {
                continue;
            }
            for (to, &seconds) in (at * STRETCH..).zip(stretch) {
                if seconds < bound {
                    let at = best.partition_point(|(s, _)| *s <= seconds);
                    best.insert(at, (seconds, to as u32));
                    best.truncate(width);
                    if best.len() == width {
                        bound = best[width - 1].0;
                    }
                }
            }
        }
        self.near.extend(best.iter().map(|(_, to)| *to));
        // Of one visit alone there is no step to another.
        self.near.resize((from + 1) * width, 0);
    }

    fn total(&self, order: &[usize]) -> f64 {
        let mut from = self.start();
        let mut seconds = 0.0;
        for &to in order {
            seconds += f64::from(self.step(from, to));
            from = to;
        }
        seconds
    }

    fn by_nearest(&self) -> Vec<usize> {
        let mut left: Vec<usize> = (0..self.visits).collect();
        let (mut from, mut order) = (self.start(), Vec::with_capacity(self.visits));
        while let Some(at) = (0..left.len()).min_by(|a, b| {
            self.step(from, left[*a])
                .total_cmp(&self.step(from, left[*b]))
        }) {
            from = left.swap_remove(at);
            order.push(from);
        }
        order
    }
}

/// The order in which to make `visits` visits, which are numbered as they lie on the medium.
/// `seconds` estimates a step: from where the head stands (`None`) or from the end of a visit,
/// to the beginning of another; finite, not negative.
#[must_use]
pub fn order(visits: usize, seconds: impl Fn(Option<usize>, usize) -> f32) -> Vec<usize> {
    let parts = visits.div_ceil(TOGETHER).max(1);
    let each = visits.div_ceil(parts);
    let (mut order, mut from) = (Vec::with_capacity(visits), None);
    for first in (0..visits).step_by(each.max(1)) {
        let many = each.min(visits - first);
        let part = together(many, |at, to| {
            seconds(at.map(|a| a + first).or(from), to + first)
        });
        order.extend(part.into_iter().map(|visit| visit + first));
        from = order.last().copied();
    }
    order
}

fn together(visits: usize, seconds: impl Fn(Option<usize>, usize) -> f32) -> Vec<usize> {
    let steps = Steps::new(visits, seconds);
    if visits <= EXACT {
        return exact::exact(&steps);
    }
    let mut best = (0..visits).collect::<Vec<_>>();
    for mut order in [loss::loss(&steps), steps.by_nearest()] {
        improve::improve(&steps, &mut order);
        if steps.total(&order) < steps.total(&best) {
            best = order;
        }
    }
    best
}
