//! Orders compared with the exact one, with every one there is, and with simple ones.

use super::*;
use proptest::prelude::*;

/// A table of steps that is nobody's geometry.
fn table(visits: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % 10_000) as f32 / 100.0
    };
    (0..(visits + 1) * visits).map(|_| next()).collect()
}

/// Places on a serpentine of 40 wraps, each visit one unit long, numbered as they lie.
fn serpentine(visits: usize, seed: u64) -> impl Fn(Option<usize>, usize) -> f32 {
    let mut places: Vec<f32> = table(visits, seed)[..visits].to_vec();
    places.iter_mut().for_each(|p| *p *= 40.0);
    places.sort_by(f32::total_cmp);
    move |from, to| {
        let at = |place: f32| {
            let (wrap, along) = ((place / 100.0).floor(), place % 100.0);
            let back = wrap as u32 % 2 == 1;
            (wrap, if back { 100.0 - along } else { along })
        };
        let (from, to) = (from.map_or(0.0, |f| places[f] + 1.0), places[to]);
        let ((wrap, here), (other, there)) = (at(from), at(to));
        let turn = if wrap == other && to >= from {
            0.0
        } else {
            10.0
        };
        turn + (here - there).abs() * 0.6
    }
}

fn steps(visits: usize, seed: u64) -> Steps {
    let table = table(visits, seed);
    Steps::new(visits, |from, to| {
        table[from.unwrap_or(visits) * visits + to]
    })
}

/// Every order there is.
fn least(steps: &Steps, made: &mut Vec<usize>) -> f64 {
    if made.len() == steps.visits {
        return steps.total(made);
    }
    let mut best = f64::INFINITY;
    for visit in 0..steps.visits {
        if !made.contains(&visit) {
            made.push(visit);
            best = best.min(least(steps, made));
            made.pop();
        }
    }
    best
}

#[test]
fn a_few_visits_are_ordered_as_well_as_can_be() {
    for visits in 0..=6 {
        for seed in 1..20 {
            let steps = steps(visits, seed);
            let found = steps.total(&exact::exact(&steps));
            assert!((found - least(&steps, &mut Vec::new())).abs() < 1e-3);
        }
    }
}

#[test]
fn what_is_not_solved_exactly_is_near_it() {
    let mut worse = Vec::new();
    for seed in 1..40 {
        let visits = 12;
        let steps = Steps::new(visits, serpentine(visits, seed));
        let mut found = loss::loss(&steps);
        improve::improve(&steps, &mut found);
        worse.push(steps.total(&found) / steps.total(&exact::exact(&steps)));
    }
    worse.sort_by(f64::total_cmp);
    let (median, worst) = (worse[worse.len() / 2], worse[worse.len() - 1]);
    assert!(median < 1.05 && worst < 1.4, "{median} {worst}");
}

#[test]
fn many_visits_take_a_third_of_the_order_they_came_in() {
    let visits = 500;
    let seconds = serpentine(visits, 7);
    let found = order(visits, &seconds);
    let mut came: Vec<usize> = (0..visits).collect();
    came.sort_by_key(|v| (v * 7919) % 503);
    let steps = Steps::new(visits, &seconds);
    let (ours, theirs) = (steps.total(&found), steps.total(&came));
    assert!(ours * 2.8 < theirs, "{ours} {theirs}");
}

#[test]
fn more_than_fit_a_table_are_ordered_part_by_part() {
    let visits = 2 * TOGETHER + 3;
    // Only the step to the next costs nothing.
    let seconds = |from: Option<usize>, to: usize| {
        let next = from.map_or(0, |f| f + 1);
        (to as f32 - next as f32).abs()
    };
    let found = order(visits, seconds);
    assert_eq!(found, (0..visits).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn each_visit_is_made_once_and_no_simple_order_is_better(visits in 0usize..120, seed: u64) {
        let steps = steps(visits, seed);
        let table = table(visits, seed);
        let found = order(visits, |from, to| table[from.unwrap_or(visits) * visits + to]);
        let mut sorted = found.clone();
        sorted.sort_unstable();
        let lying: Vec<usize> = (0..visits).collect();
        prop_assert_eq!(&sorted, &lying);
        let total = steps.total(&found);
        prop_assert!(total <= steps.total(&lying) + 1e-3);
        prop_assert!(total <= steps.total(&steps.by_nearest()) + 1e-3);
    }
}
