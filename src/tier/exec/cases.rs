//! Cases for those who write programs: what the suite of all tiers cannot see, because it never speaks to the
//! program itself.

use super::options::ExecOptions;
use super::protocol::{self, Verdict};
use super::run::Failure;
use super::verbs::Verbs;
use super::{nobody, place::says};
use crate::id::AggregateId;
use crate::tier::conformance::Outcome;
use cairn_mover::Crc32c;
use std::path::Path;

type Case = (&'static str, fn(&Bench) -> Result<(), String>);

const CASES: &[Case] = &[
    ("the_program_says_what_it_can", described),
    ("a_verb_that_nobody_knows_is_118", unknown),
    ("what_is_not_there_is_111", missing),
    ("a_put_and_a_commit_make_an_object", made),
    ("a_commit_replaces_nothing", replaces_nothing),
    (
        "of_two_commits_of_one_name_at_once_one_is_done",
        two_commits,
    ),
    ("a_commit_of_what_is_not_there_makes_nothing", of_nothing),
    ("a_put_whose_cairn_dies_is_no_object", cairn_dies),
    ("a_put_that_is_killed_is_no_object", killed),
    ("the_longest_names_are_kept_apart", names),
    ("an_object_of_no_bytes_is_one", empty),
    ("every_byte_comes_back_at_the_borders_of_ranges", ranges),
    ("a_length_beyond_the_end_gives_what_is_there", beyond),
    ("several_verbs_at_once_do_not_disturb_each_other", at_once),
    ("a_get_ends_when_it_is_told_to", told),
    ("a_listing_shows_each_object_and_temporary_once", listed),
];

/// Two of one name meet by chance: so often it is tried.
const ROUNDS: u64 = 5;

/// A place of its own for one case.
struct Bench {
    verbs: Verbs,
    prefix: String,
}

/// Runs them, each under a prefix of its own: `fresh` gives the options with it.
pub(in crate::tier) fn run(
    program: &Path,
    fresh: &dyn Fn() -> ExecOptions,
    each: &mut dyn FnMut(Outcome),
) {
    for (case, test) in CASES {
        let options = fresh();
        let bench = Bench {
            verbs: Verbs::new(program, &options),
            prefix: options.prefix,
        };
        let result = test(&bench);
        each(Outcome { case, result });
    }
}

/// Deletes everything below a prefix; says how many names there were.
pub(in crate::tier) fn clear(
    program: &Path,
    options: &ExecOptions,
) -> Result<usize, crate::tier::TierError> {
    const STEP: &str = "clearing what was tried";
    let place = super::at(program, options, nobody());
    let mut names = Vec::new();
    let listed = place
        .verbs
        .list(&options.prefix, &mut |name| names.push(name.to_owned()));
    listed.map_err(|failure| place.fail(STEP, None, failure))?;
    for name in &names {
        match place.verbs.delete(name) {
            Err(failure) if says(&failure) != Some(Verdict::Missing) => {
                return Err(place.fail(STEP, None, failure));
            }
            _ => {}
        }
    }
    Ok(names.len())
}

impl Bench {
    fn object(&self, seq: u64) -> String {
        protocol::object(&self.prefix, AggregateId { epoch: 1, seq })
    }

    fn temporary(&self, n: u64) -> String {
        protocol::temporary(&self.prefix, super::place::now(), n, "case")
    }

    fn put(&self, temporary: &str, data: &[u8]) -> Result<(), String> {
        let text = |failure: Failure| format!("put: {failure}");
        let mut putting = self.verbs.put(temporary, data.len() as u64).map_err(text)?;
        putting.feed(data).map_err(text)?;
        putting.end().map_err(text)
    }

    fn commit(&self, temporary: &str, name: &str, data: &[u8]) -> Result<(), Failure> {
        self.verbs
            .commit(temporary, name, data.len() as u64, Crc32c::of(data))
    }

    fn store(&self, n: u64, name: &str, data: &[u8]) -> Result<(), String> {
        let temporary = self.temporary(n);
        self.put(&temporary, data)?;
        self.commit(&temporary, name, data)
            .map_err(|failure| format!("commit: {failure}"))
    }

    fn get(&self, name: &str, offset: u64, len: u64) -> Result<Vec<u8>, Failure> {
        let known = self.verbs.describe()?;
        let mut bytes = Vec::new();
        self.verbs.get((name, &known), offset, len, &mut |b| {
            bytes.extend_from_slice(b)
        })?;
        Ok(bytes)
    }

    fn holds(&self, name: &str, data: &[u8]) -> Result<(), String> {
        let len = self.verbs.stat(name).map_err(|f| format!("stat: {f}"))?;
        ensure(len == data.len() as u64, || {
            format!("stat says {len} bytes of {}", data.len())
        })?;
        if data.is_empty() {
            return Ok(());
        }
        let found = self
            .verbs
            .read_back(name, len)
            .map_err(|f| format!("get: {f}"))?;
        ensure(found == Crc32c::of(data), || {
            "other bytes come back".to_owned()
        })
    }

    fn absent(&self, name: &str) -> Result<(), String> {
        says_missing(self.verbs.stat(name), "stat")?;
        says_missing(self.get(name, 0, 1), "get")?;
        let listed = self.listed(&self.prefix)?;
        ensure(!listed.iter().any(|l| l == name), || {
            format!("{name} is listed")
        })
    }

    fn listed(&self, prefix: &str) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        let listed = self
            .verbs
            .list(prefix, &mut |name| names.push(name.to_owned()));
        listed.map_err(|failure| format!("list: {failure}"))?;
        names.sort();
        Ok(names)
    }
}

fn ensure(good: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(why()) }
}

fn says_missing<T>(result: Result<T, Failure>, what: &str) -> Result<(), String> {
    match result {
        Err(failure) if says(&failure) == Some(Verdict::Missing) => Ok(()),
        Err(failure) => Err(format!(
            "{what} of what is not there: wanted exit code 111, got {failure}"
        )),
        Ok(_) => Err(format!("{what} of what is not there succeeded")),
    }
}

/// All values of a byte, in runs that no line or block ends with.
fn content(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|n| {
            let mixed = (n + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed >> 32) as u8
        })
        .collect()
}

fn described(bench: &Bench) -> Result<(), String> {
    bench.verbs.describe().map_err(|f| f.to_string())?;
    bench.verbs.space().map_err(|f| f.to_string())?;
    Ok(())
}

fn unknown(bench: &Bench) -> Result<(), String> {
    match bench.verbs.order(&["cairn-asks-what-nobody-knows"]) {
        Err(failure) if says(&failure) == Some(Verdict::Unknown) => Ok(()),
        Err(failure) => Err(format!("wanted exit code 118, got {failure}")),
        Ok(()) => {
            Err("it succeeded: later versions of the protocol would be believed to work".to_owned())
        }
    }
}

fn missing(bench: &Bench) -> Result<(), String> {
    bench.absent(&bench.object(1))?;
    // Success, or 111.
    match bench.verbs.delete(&bench.object(1)) {
        Err(failure) if says(&failure) != Some(Verdict::Missing) => {
            Err(format!("delete: {failure}"))
        }
        _ => Ok(()),
    }
}

fn made(bench: &Bench) -> Result<(), String> {
    let (data, name) = (content(1, 300_001), bench.object(1));
    bench.store(1, &name, &data)?;
    bench.holds(&name, &data)?;
    bench.absent(&bench.temporary(1))?;
    bench
        .verbs
        .delete(&name)
        .map_err(|f| format!("delete: {f}"))?;
    bench.absent(&name)
}

fn replaces_nothing(bench: &Bench) -> Result<(), String> {
    let (first, second, name) = (content(1, 10_000), content(2, 20_000), bench.object(1));
    bench.store(1, &name, &first)?;
    let temporary = bench.temporary(2);
    bench.put(&temporary, &second)?;
    match bench.commit(&temporary, &name, &second) {
        Err(failure) if says(&failure) == Some(Verdict::Exists) => {}
        Err(failure) => return Err(format!("wanted exit code 112, got {failure}")),
        Ok(()) => return Err("a commit to a name that is taken succeeded".to_owned()),
    }
    bench.holds(&name, &first)?;
    bench
        .verbs
        .delete(&temporary)
        .map_err(|f| format!("delete: {f}"))
}

/// Two that look whether the name is free before either has taken it: the place has to tell them apart.
fn two_commits(bench: &Bench) -> Result<(), String> {
    for round in 0..ROUNDS {
        let name = bench.object(round);
        // Named once: the time is in the name.
        let both = [2 * round, 2 * round + 1].map(|n| (n, bench.temporary(n)));
        for (n, temporary) in &both {
            bench.put(temporary, &content(*n, 10_000 + *n as usize))?;
        }
        let (name, barrier) = (&name, &std::sync::Barrier::new(2));
        let ends: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = both
                .iter()
                .map(|(n, temporary)| {
                    scope.spawn(move || {
                        let data = content(*n, 10_000 + *n as usize);
                        barrier.wait();
                        bench.commit(temporary, name, &data)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join()).collect()
        });
        let mut winner = None;
        for ((n, _), end) in both.into_iter().zip(ends) {
            match end.map_err(|_| "a caller panicked".to_owned())? {
                Ok(()) if winner.is_some() => {
                    return Err("both commits of one name succeeded".to_owned());
                }
                Ok(()) => winner = Some(n),
                Err(failure) if says(&failure) == Some(Verdict::Exists) => {}
                Err(failure) => return Err(format!("wanted exit code 112, got {failure}")),
            }
        }
        let n = winner.ok_or("neither commit of one name succeeded")?;
        bench.holds(name, &content(n, 10_000 + n as usize))?;
    }
    Ok(())
}

fn of_nothing(bench: &Bench) -> Result<(), String> {
    let name = bench.object(1);
    let commit = bench.commit(&bench.temporary(1), &name, b"never put");
    ensure(commit.is_err(), || "it succeeded".to_owned())?;
    bench.absent(&name)
}

/// Its stdin ends as it does when Cairn is killed: early, and otherwise like any other end.
fn cairn_dies(bench: &Bench) -> Result<(), String> {
    let (temporary, data) = (bench.temporary(1), content(1, 400_000));
    let mut putting = bench
        .verbs
        .put(&temporary, 1_000_000)
        .map_err(|f| format!("put: {f}"))?;
    putting.feed(&data).map_err(|f| format!("put: {f}"))?;
    // It may call that a success; it cannot know better.
    let _ = putting.end();
    only_temporaries(bench)
}

fn killed(bench: &Bench) -> Result<(), String> {
    let mut putting = bench
        .verbs
        .put(&bench.temporary(1), 1_000_000)
        .map_err(|f| format!("put: {f}"))?;
    putting
        .feed(&content(1, 400_000))
        .map_err(|f| format!("put: {f}"))?;
    drop(putting);
    only_temporaries(bench)
}

/// What a put left has no object's name, is found, and goes when it is deleted.
fn only_temporaries(bench: &Bench) -> Result<(), String> {
    for name in bench.listed(&bench.prefix)? {
        ensure(
            protocol::parse_temporary(&bench.prefix, &name).is_some(),
            || format!("{name:?} is there, and nobody put it"),
        )?;
        bench
            .verbs
            .delete(&name)
            .map_err(|f| format!("delete: {f}"))?;
        bench.absent(&name)?;
    }
    Ok(())
}

fn names(bench: &Bench) -> Result<(), String> {
    let last = AggregateId {
        epoch: u32::MAX,
        seq: (1 << AggregateId::PART_BITS) - 1,
    };
    let all = [last, last.part(1), last.part(AggregateId::MOST_PARTS)];
    let at = |name| protocol::object(&bench.prefix, name);
    for (n, name) in (0_u64..).zip(all) {
        bench.store(n, &at(name), &content(n, 1000))?;
    }
    for (n, name) in (0_u64..).zip(all) {
        bench.holds(&at(name), &content(n, 1000))?;
    }
    Ok(())
}

fn empty(bench: &Bench) -> Result<(), String> {
    bench.store(1, &bench.object(1), b"")?;
    bench.holds(&bench.object(1), b"")
}

fn ranges(bench: &Bench) -> Result<(), String> {
    let (data, name) = (content(1, 200_003), bench.object(1));
    bench.store(1, &name, &data)?;
    let borders = [0, 1, 511, 512, 4095, 4096, 65_535, 65_536, 131_072, 200_002];
    for offset in borders {
        for len in [1, 2, 4096, 65_537] {
            let end = (offset + len).min(data.len());
            let found = bench
                .get(&name, offset as u64, (end - offset) as u64)
                .map_err(|f| format!("get of {} at {offset}: {f}", end - offset))?;
            ensure(found == data[offset..end], || {
                format!(
                    "get of {} at {offset} gave {} bytes, or others",
                    end - offset,
                    found.len()
                )
            })?;
        }
    }
    Ok(())
}

fn beyond(bench: &Bench) -> Result<(), String> {
    let (data, name) = (content(1, 1000), bench.object(1));
    bench.store(1, &name, &data)?;
    for offset in [0, 999] {
        let found = bench
            .get(&name, offset as u64, 65_536)
            .map_err(|f| format!("get of 65536 at {offset}: {f}"))?;
        ensure(found == data[offset..], || {
            format!(
                "get of 65536 at {offset} gave {} bytes, or others",
                found.len()
            )
        })?;
    }
    Ok(())
}

fn at_once(bench: &Bench) -> Result<(), String> {
    let old = content(9, 50_000);
    bench.store(9, &bench.object(9), &old)?;
    let old = &old;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64)
            .map(|n| {
                scope.spawn(move || {
                    let (data, name) = (content(n, 100_000), bench.object(n));
                    bench.store(n, &name, &data)?;
                    bench.holds(&bench.object(9), old)?;
                    bench.holds(&name, &data)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join()).collect()
    });
    results
        .into_iter()
        .try_for_each(|r| r.map_err(|_| "a caller panicked".to_owned())?)
}

fn told(bench: &Bench) -> Result<(), String> {
    let (data, name) = (content(1, 8 << 20), bench.object(1));
    bench.store(1, &name, &data)?;
    let heard = bench
        .verbs
        .get_and_stop(&name, data.len() as u64)
        .map_err(|f| format!("get: {f}"))?;
    ensure(heard, || {
        "it did not end within five seconds of SIGTERM, and had to be killed".to_owned()
    })?;
    bench.holds(&name, &data)
}

fn listed(bench: &Bench) -> Result<(), String> {
    let mut wanted = Vec::new();
    for n in 1..=5 {
        bench.store(n, &bench.object(n), &content(n, 100))?;
        wanted.push(bench.object(n));
    }
    let found = bench.listed(&format!("{}e", bench.prefix))?;
    ensure(found == wanted, || {
        format!("wanted {wanted:?}, got {found:?}")
    })?;
    let half = bench.temporary(7);
    bench.put(&half, b"half")?;
    let found = bench.listed(&format!("{}{}", bench.prefix, protocol::TEMPORARY))?;
    ensure(found == [half.clone()], || {
        format!("wanted {half:?}, got {found:?}")
    })?;
    bench
        .verbs
        .delete(&half)
        .map_err(|f| format!("delete: {f}"))
}
