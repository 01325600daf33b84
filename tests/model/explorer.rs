//! Breadth-first search over all states that a protocol can get into.
//!
//! Invariants:
//! - Every state is looked at once, in order of its distance from the start; so a trace to a broken
//!   one is a shortest one.
//! - States are told apart by 128 bits of hash. With ten million states the chance that two of them
//!   share these is below 10^-24.
//! - A search that had to stop early says so ([`Report::whole`]).

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// One atomic step: what was done, and which of several outcomes it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step(pub(crate) &'static str, pub(crate) u16);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            0 => write!(f, "{}", self.0),
            n => write!(f, "{} [{n}]", self.0),
        }
    }
}

/// What can be explored.
pub(crate) trait Protocol {
    /// All that matters, by value.
    type State: Clone + Hash;
    /// Where it begins.
    fn start(&self) -> Self::State;
    /// All steps that anybody can take next, crashes among them.
    fn steps(&self, from: &Self::State, to: &mut Vec<(Step, Self::State)>);
    /// What is wrong in a state, if anything is.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
}

/// What a search found.
#[derive(Debug)]
pub(crate) struct Report {
    /// Different states.
    pub(crate) states: usize,
    /// Steps between them.
    pub(crate) transitions: u64,
    /// Longest shortest way from the start.
    pub(crate) depth: u32,
    /// Nothing was left out.
    pub(crate) whole: bool,
    /// Names of all steps that were taken.
    pub(crate) taken: BTreeSet<&'static str>,
    /// The nearest broken state: what is wrong, and the way to it.
    pub(crate) violation: Option<(&'static str, Vec<Step>)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.whole { "" } else { ", not all" };
        write!(
            f,
            "{} states{whole}, {} transitions, depth {}, {} kinds of steps",
            self.states,
            self.transitions,
            self.depth,
            self.taken.len()
        )?;
        if let Some((wrong, trace)) = &self.violation {
            write!(f, "\n  broken: {wrong}")?;
            for (number, step) in trace.iter().enumerate() {
                write!(f, "\n  {:>3}. {step}", number + 1)?;
            }
        }
        Ok(())
    }
}

/// How a state was reached first: from which, by what, and how far that is from the start.
struct Way {
    from: u32,
    by: Step,
    depth: u32,
}

/// Explores until a broken state is found, all states were seen, or there are more than `most`.
pub(crate) fn explore<P: Protocol>(protocol: &P, most: usize) -> Report {
    let start = protocol.start();
    let mut seen: HashSet<u128, BuildHasherDefault<Ready>> = HashSet::default();
    seen.insert(fingerprint(&start));
    let mut ways = vec![Way {
        from: 0,
        by: Step("start", 0),
        depth: 0,
    }];
    let mut report = Report {
        states: 1,
        transitions: 0,
        depth: 0,
        whole: true,
        taken: BTreeSet::new(),
        violation: protocol.broken(&start).map(|wrong| (wrong, Vec::new())),
    };
    let mut queue = VecDeque::from([(0_u32, start)]);
    let mut next = Vec::new();
    while let Some((at, state)) = queue.pop_front() {
        if report.violation.is_some() {
            break;
        }
        protocol.steps(&state, &mut next);
        for (by, reached) in next.drain(..) {
            report.transitions += 1;
            report.taken.insert(by.0);
            if !seen.insert(fingerprint(&reached)) {
                continue;
            }
            if seen.len() > most {
                report.whole = false;
                continue;
            }
            let depth = ways[at as usize].depth + 1;
            report.depth = report.depth.max(depth);
            let number = u32::try_from(ways.len()).expect("fewer than 2^32 states");
            ways.push(Way {
                from: at,
                by,
                depth,
            });
            if let Some(wrong) = protocol.broken(&reached)
                && report.violation.is_none()
            {
                report.violation = Some((wrong, trace(&ways, number)));
            }
            queue.push_back((number, reached));
        }
    }
    report.states = ways.len();
    report
}

fn trace(ways: &[Way], mut at: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    while at != 0 {
        let way = &ways[at as usize];
        steps.push(way.by);
        at = way.from;
    }
    steps.reverse();
    steps
}

fn fingerprint<S: Hash>(state: &S) -> u128 {
    let mut lanes = Lanes(0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f);
    state.hash(&mut lanes);
    u128::from(mix(lanes.0)) << 64 | u128::from(mix(lanes.1))
}

/// The last step of `SplitMix64`: every bit of the result depends on every bit given.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Two independent multiplicative hashes side by side.
struct Lanes(u64, u64);

impl Hasher for Lanes {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.1 = (self.1.rotate_left(29) ^ n).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n.cast_unsigned() as u64);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// The set's own hash of what is a hash already.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are kept");
    }
    fn write_u128(&mut self, n: u128) {
        self.0 = (n >> 64) as u64;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
