//! The best order of a few visits, by Held and Karp's dynamic programme over sets.

use super::Steps;

/// Takes time and memory of `2^visits * visits`: for up to some 15 visits.
pub(super) fn exact(steps: &Steps) -> Vec<usize> {
    let visits = steps.visits;
    if visits == 0 {
        return Vec::new();
    }
    let sets = 1usize << visits;
    // The least time to have made the visits of a set and end with this one, and the one before it.
    let mut least = vec![(f32::INFINITY, visits); sets * visits];
    for first in 0..visits {
        least[(1 << first) * visits + first] = (steps.step(steps.start(), first), visits);
    }
    for set in 1..sets {
        for last in (0..visits).filter(|v| set & (1 << v) != 0) {
            let (so_far, _) = least[set * visits + last];
            for next in (0..visits).filter(|v| set & (1 << v) == 0) {
                let seconds = so_far + steps.step(last, next);
                let entry = &mut least[(set | 1 << next) * visits + next];
                if seconds < entry.0 {
                    *entry = (seconds, last);
                }
            }
        }
    }
    let mut set = sets - 1;
    let ends = |last: &usize| least[set * visits + last].0;
    let mut last = (0..visits)
        .min_by(|a, b| ends(a).total_cmp(&ends(b)))
        .unwrap_or(0);
    let mut order = Vec::with_capacity(visits);
    while last != visits {
        order.push(last);
        let (_, before) = least[set * visits + last];
        set &= !(1 << last);
        last = before;
    }
    order.reverse();
    order
}
