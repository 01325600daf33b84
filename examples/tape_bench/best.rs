//! The best order that can be found with much time, and a bound that no order is below.
//!
//! The order comes from simulated annealing over moves of runs, from several starts. The bound is that of
//! the assignment problem: everything has one predecessor and one successor, but may fall into rings.

use crate::random::Random;

/// The seconds of all steps, row by row; the last row is from where the head stands.
pub(crate) struct Steps {
    pub(crate) visits: usize,
    seconds: Vec<f32>,
}

impl Steps {
    pub(crate) fn new(visits: usize, seconds: impl Fn(Option<usize>, usize) -> f32) -> Self {
        let froms = (0..visits).map(Some).chain([None]);
        let rows = froms.flat_map(|from| (0..visits).map(move |to| (from, to)));
        let seconds = rows.map(|(from, to)| {
            if from == Some(to) {
                f32::INFINITY
            } else {
                seconds(from, to)
            }
        });
        Self {
            visits,
            seconds: seconds.collect(),
        }
    }

    /// From a place (`visits` is where the head stands) to a visit; to `visits`, the end, it is free.
    fn step(&self, from: usize, to: usize) -> f32 {
        if to == self.visits {
            0.0
        } else {
            self.seconds[from * self.visits + to]
        }
    }

    pub(crate) fn total(&self, order: &[usize]) -> f64 {
        let froms = [self.visits].into_iter().chain(order.iter().copied());
        froms
            .zip(order)
            .map(|(from, to)| f64::from(self.step(from, *to)))
            .sum()
    }

    /// Always to what is nearest.
    pub(crate) fn by_nearest(&self) -> Vec<usize> {
        let mut left: Vec<usize> = (0..self.visits).collect();
        let (mut from, mut order) = (self.visits, Vec::new());
        while let Some(at) = (0..left.len()).min_by(|a, b| {
            self.step(from, left[*a])
                .total_cmp(&self.step(from, left[*b]))
        }) {
            from = left.swap_remove(at);
            order.push(from);
        }
        order
    }

    fn near(&self, width: usize) -> Vec<Vec<usize>> {
        let row = |from: usize| {
            let mut all: Vec<usize> = (0..self.visits).filter(|to| *to != from).collect();
            all.sort_by(|a, b| self.step(from, *a).total_cmp(&self.step(from, *b)));
            all.truncate(width);
            all
        };
        (0..=self.visits).map(row).collect()
    }
}

/// The best of annealing from each start, `moves` tried from each.
pub(crate) fn anneal(steps: &Steps, starts: &[Vec<usize>], moves: usize, seed: u64) -> Vec<usize> {
    let near = steps.near(12);
    let runs = starts.iter().enumerate().map(|(n, start)| {
        let mut random = Random::new(seed ^ (n as u64) << 32);
        // A start that is good already is not melted.
        let heat = if n == 0 { 1.5 } else { 12.0 };
        anneal_one(steps, &near, start, moves, heat, &mut random)
    });
    let total = |order: &Vec<usize>| steps.total(order);
    let best = runs.chain(starts.iter().cloned());
    best.min_by(|a, b| total(a).total_cmp(&total(b)))
        .unwrap_or_default()
}

fn anneal_one(
    steps: &Steps,
    near: &[Vec<usize>],
    start: &[usize],
    moves: usize,
    heat: f64,
    random: &mut Random,
) -> Vec<usize> {
    let end = steps.visits;
    // Where the head stands, the visits, and the end.
    let mut tour: Vec<usize> = [end].iter().chain(start).chain(&[end]).copied().collect();
    let mut position = vec![0; end + 1];
    start
        .iter()
        .enumerate()
        .for_each(|(at, visit)| position[*visit] = at + 1);
    let (mut now, mut least, mut best) = (steps.total(start), f64::INFINITY, start.to_vec());
    for turn in 0..moves {
        let temperature = heat * (0.01_f64 / heat).powf(turn as f64 / moves as f64);
        // The run that begins with `begin` goes right behind `before`.
        let before = random.below(end + 1);
        let begin = near[before][random.below(near[before].len())];
        let (at, first) = (position[before], position[begin]);
        let room = if first > at {
            end - first
        } else {
            at - 1 - first
        };
        let long = if random.below(4) == 0 {
            room
        } else {
            room.min(30)
        };
        let last = first + random.below(long + 1);
        if first == at + 1 {
            continue;
        }
        let joins = |from: usize, to: usize| f64::from(steps.step(tour[from], tour[to]));
        let gain = joins(at, at + 1) + joins(first - 1, first) + joins(last, last + 1)
            - joins(at, first)
            - joins(last, at + 1)
            - joins(first - 1, last + 1);
        if gain < 0.0 && random.unit() >= (gain / temperature).exp() {
            continue;
        }
        let moved = if first > at {
            tour[at + 1..=last].rotate_right(last + 1 - first);
            at + 1..last + 1
        } else {
            tour[first..=at].rotate_left(last + 1 - first);
            first..at + 1
        };
        moved.for_each(|at| position[tour[at]] = at);
        now -= gain;
        if now < least - 1e-6 {
            least = now;
            best.copy_from_slice(&tour[1..=end]);
        }
    }
    best
}

/// Seconds that no order is below (the Hungarian method).
pub(crate) fn bound(steps: &Steps) -> f64 {
    let n = steps.visits + 1;
    // Rows are places that are left, columns places that are gone to; the last column is the end.
    let cost = |row: usize, column: usize| {
        let step = f64::from(steps.step(row, column));
        // Going nowhere at all is no order.
        if row == column && n > 1 || !step.is_finite() {
            1e12
        } else {
            step
        }
    };
    let (mut by_row, mut by_column) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    let mut taken = vec![0_usize; n + 1];
    for row in 1..=n {
        let mut way = vec![0_usize; n + 1];
        let (mut least, mut used) = (vec![f64::INFINITY; n + 1], vec![false; n + 1]);
        let mut at = 0;
        taken[0] = row;
        while taken[at] != 0 {
            used[at] = true;
            let (from, mut step, mut next) = (taken[at], f64::INFINITY, 0);
            for to in 1..=n {
                if used[to] {
                    continue;
                }
                let seconds = cost(from - 1, to - 1) - by_row[from] - by_column[to];
                if seconds < least[to] {
                    (least[to], way[to]) = (seconds, at);
                }
                if least[to] < step {
                    (step, next) = (least[to], to);
                }
            }
            for to in 0..=n {
                if used[to] {
                    by_row[taken[to]] += step;
                    by_column[to] -= step;
                } else {
                    least[to] -= step;
                }
            }
            at = next;
        }
        while at != 0 {
            taken[at] = taken[way[at]];
            at = way[at];
        }
    }
    -by_column[0]
}
