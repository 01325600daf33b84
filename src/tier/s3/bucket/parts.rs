//! How an object is cut into parts for a multipart upload.
//!
//! Invariants (P14): no object of at most [`longest`] bytes needs more than 10,000 parts, whatever
//! was said of its length beforehand; no part but the last is shorter than the one before it, nor
//! shorter than 5 MiB, nor longer than six times the part size asked for, which bounds memory. If what
//! was said of the length holds, all parts but the last have one length, as some services want it.

/// The service takes no more (S3 user guide, "Multipart upload limits").
pub(super) const PARTS: u32 = 10_000;
/// The service takes no longer object.
const LONGEST: u64 = 5 << 40;
/// From after which part on a part is so many times the part size.
const STEPS: [(u32, u64); 4] = [(0, 1), (2_000, 2), (4_000, 4), (6_000, 6)];
/// A part's length at most, in part sizes.
pub(super) const LARGEST: u64 = 6;

/// The parts of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    size: u64,
    /// Every part has so many at least.
    least: u64,
}

impl Parts {
    /// For an object of about `hint` bytes, with parts of `size` bytes where that is enough.
    pub(super) fn plan(size: u64, hint: u64) -> Self {
        let until = |step: usize| STEPS.get(step + 1).map_or(PARTS, |(after, _)| *after);
        let fits = |(step, (_, times)): &(usize, (u32, u64))| {
            u64::from(until(*step)).saturating_mul(times * size) >= hint
        };
        let found = STEPS.into_iter().enumerate().find(fits);
        let times = found.map_or(LARGEST, |(_, (_, times))| times);
        let least = times * size;
        Self { size, least }
    }

    /// Bytes of part `number`, from 1.
    pub(super) fn len(self, number: u32) -> u64 {
        let step = STEPS.into_iter().rev().find(|(after, _)| number > *after);
        let times = step.map_or(1, |(_, times)| times);
        (times * self.size).max(self.least)
    }
}

/// The longest object that always fits, bytes.
pub(super) fn longest(size: u64) -> u64 {
    let plan = Parts::plan(size, 0);
    let sum = (1..=PARTS).fold(0_u64, |sum, n| sum.saturating_add(plan.len(n)));
    sum.min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 8 << 20;

    #[test]
    fn the_longest_is_38000_part_sizes() {
        assert_eq!(longest(SIZE), 38_000 * SIZE);
        assert_eq!(longest(256 << 20), 5 << 40);
    }

    #[test]
    fn usual_aggregates_have_parts_of_the_size_asked_for() {
        let plan = Parts::plan(SIZE, 256 << 20);
        assert!((1..=32).all(|n| plan.len(n) == SIZE));
    }

    #[test]
    fn a_true_hint_gives_equal_parts() {
        for hint in [
            1,
            2_000 * SIZE,
            2_000 * SIZE + 1,
            8_000 * SIZE,
            23_999 * SIZE,
            38_000 * SIZE,
        ] {
            let plan = Parts::plan(SIZE, hint);
            let count = hint.div_ceil(plan.len(1));
            assert!(count <= u64::from(PARTS), "{hint}");
            let count = u32::try_from(count).expect("few");
            assert!((1..=count).all(|n| plan.len(n) == plan.len(1)), "{hint}");
        }
    }

    proptest! {
        #[test]
        fn whatever_was_said_the_longest_fits_and_memory_is_bounded(
            size in (5_u64 << 20)..=(256 << 20), hint: u64
        ) {
            let plan = Parts::plan(size, hint);
            let lens: Vec<u64> = (1..=PARTS).map(|n| plan.len(n)).collect();
            prop_assert!(lens.iter().sum::<u64>() >= longest(size));
            prop_assert!(lens.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(lens.iter().all(|len| (size..=LARGEST * size).contains(len)));
        }
    }
}
