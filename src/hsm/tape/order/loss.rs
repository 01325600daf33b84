//! LOSS: the step is fixed first whose second-best choice would cost most more.

use super::Steps;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A place whose next step is open, and what it loses without its best.
struct Open {
    regret: f32,
    from: usize,
}

impl Ord for Open {
    fn cmp(&self, other: &Self) -> Ordering {
        self.regret
            .total_cmp(&other.regret)
            .then_with(|| other.from.cmp(&self.from))
    }
}
impl PartialOrd for Open {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Open {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Open {}

/// Pieces of the order so far.
struct Pieces<'a> {
    steps: &'a Steps,
    /// What follows each place, and whether anything comes before each visit.
    next: Vec<Option<usize>>,
    reached: Vec<bool>,
    /// Of the piece that ends with a place its first one, and the other way round.
    first: Vec<usize>,
    last: Vec<usize>,
}

pub(super) fn loss(steps: &Steps) -> Vec<usize> {
    let places = steps.visits + 1;
    let mut pieces = Pieces {
        steps,
        next: vec![None; places],
        reached: vec![false; steps.visits],
        first: (0..places).collect(),
        last: (0..places).collect(),
    };
    let mut open: BinaryHeap<Open> = (0..places).filter_map(|from| pieces.open(from)).collect();
    while let Some(top) = open.pop() {
        // What it had in mind may be taken by now; the regrets of others only wait to be looked at.
        let Some((regret, to)) = pieces.choice(top.from) else {
            continue;
        };
        if regret.total_cmp(&top.regret) == Ordering::Equal {
            pieces.join(top.from, to);
        } else {
            let from = top.from;
            open.push(Open { regret, from });
        }
    }
    pieces.strung()
}

impl Pieces<'_> {
    fn open(&self, from: usize) -> Option<Open> {
        let (regret, _) = self.choice(from)?;
        Some(Open { regret, from })
    }

    /// The best step from the end of a piece among the near ones, and what the next best costs more.
    fn choice(&self, from: usize) -> Option<(f32, usize)> {
        let own = self.first[from];
        let mut free = self
            .steps
            .near(from)
            .filter(|to| !self.reached[*to] && *to != own);
        let best = free.next()?;
        let seconds = self.steps.step(from, best);
        // Where no other is near, all others are further than the furthest that is.
        let other = free.next().or_else(|| self.steps.near(from).last())?;
        Some((self.steps.step(from, other) - seconds, best))
    }

    fn join(&mut self, from: usize, to: usize) {
        self.next[from] = Some(to);
        self.reached[to] = true;
        let (first, last) = (self.first[from], self.last[to]);
        self.first[last] = first;
        self.last[first] = last;
    }

    /// The pieces behind each other, always the one that begins nearest.
    fn strung(mut self) -> Vec<usize> {
        let mut heads: Vec<usize> = (0..self.steps.visits)
            .filter(|visit| !self.reached[*visit])
            .collect();
        let mut order = Vec::with_capacity(self.steps.visits);
        let mut from = self.steps.start();
        loop {
            while let Some(to) = self.next[from] {
                order.push(to);
                from = to;
            }
            let step = |at: &usize| self.steps.step(from, heads[*at]);
            let nearest = (0..heads.len()).min_by(|a, b| step(a).total_cmp(&step(b)));
            let Some(at) = nearest else {
                return order;
            };
            self.next[from] = Some(heads.swap_remove(at));
        }
    }
}
