//! A day of puts, reads and deletions through a proxy that breaks one request of a few.
//!
//! What must hold in the end, looked at without the proxy: what had a receipt is there and right, until it was
//! deleted; no byte was given that the checksum would not have told (as every reader looks at it); no upload is left
//! half.

use super::proxy::{ALL, Fault, Proxy, Script};
use super::servers::{Kind, access, start};
use super::{MIB, content, ours};
use crate::MARK;
use cairn::id::AggregateId;
use cairn::tier::retry::{Attempts, Retry};
use cairn::tier::s3::S3Tier;
use cairn::tier::{ErrorKind, OpenHow, Tier};
use cairn_mover::Crc32c;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

const OBJECTS: u64 = 40;
/// A day on which some fault did not come goes on, so long at most: which request the dice meet depends on timing.
const LONGEST: u64 = 4 * OBJECTS;

#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    put_failed: u64,
    reads: u64,
    read_failed: u64,
    caught: u64,
    deleted: u64,
}

fn attempts() -> Attempts {
    Attempts {
        tries: 8,
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(50),
    }
}

fn data(seq: u64) -> Vec<u8> {
    let len = match seq % 4 {
        0 => 11 * MIB + 17,
        1 => 100,
        2 => 70_000,
        _ => 6 * MIB,
    };
    content(seq, len)
}

/// One object: until it has a receipt, under a new name each time, as whoever archives does it.
fn put(tier: &dyn Tier, next: &mut u64, data: &[u8], tally: &mut Tally) -> AggregateId {
    loop {
        *next += 1;
        let name = AggregateId {
            epoch: 1,
            seq: *next,
        };
        let done = tier.put(name, data.len() as u64).and_then(|mut put| {
            let written = put.write_all(data);
            written.map_err(|e| cairn::tier::TierError::from_write(e, "s3", name))?;
            put.finish(Crc32c::of(data))
        });
        match done {
            Ok(receipt) => {
                assert_eq!(
                    (receipt.len, receipt.crc),
                    (data.len() as u64, Crc32c::of(data))
                );
                tally.stored += 1;
                return name;
            }
            Err(error) => {
                let passing = [
                    ErrorKind::Transient,
                    ErrorKind::Unavailable,
                    ErrorKind::Corrupt,
                ];
                assert!(passing.contains(&error.kind()), "{error}");
                tally.put_failed += 1;
            }
        }
    }
}

/// Some of an object, read until its checksum is right.
fn read(tier: &dyn Tier, name: AggregateId, data: &[u8], at: usize, len: usize, tally: &mut Tally) {
    let wanted = &data[at..at + len];
    loop {
        tally.reads += 1;
        match tier.read(name, at as u64, len as u64) {
            Ok(bytes) => {
                assert_eq!(bytes.len(), len, "a read gives all or nothing");
                if Crc32c::of(&bytes) == Crc32c::of(wanted) {
                    assert_eq!(bytes, wanted);
                    return;
                }
                tally.caught += 1;
            }
            Err(error) => {
                let passing = [ErrorKind::Transient, ErrorKind::Unavailable];
                assert!(passing.contains(&error.kind()), "{error}");
                tally.read_failed += 1;
            }
        }
    }
}

fn delete(tier: &dyn Tier, name: AggregateId) {
    while let Err(error) = tier.delete(name) {
        let passing = [ErrorKind::Transient, ErrorKind::Unavailable];
        assert!(passing.contains(&error.kind()), "{error}");
    }
}

fn a_day(kind: Kind, test: &str) {
    let Some(server) = start(kind, test) else {
        return;
    };
    let seed = 20_261_130;
    let script = Script {
        seed,
        one_in: 5,
        faults: ALL.to_vec(),
        ..Script::quiet()
    };
    let proxy = Proxy::before(server.at, script.clone());
    let place = server.place(proxy.at, "p", "&part-size=5MiB");
    let opened = S3Tier::open_as(&place, ours(), access()).expect("opens in spite of it");
    let tier: Arc<dyn Tier> = Arc::new(Retry::new(Arc::new(opened), attempts()));
    let (mut tally, mut next, mut there) = (Tally::default(), 0, BTreeMap::new());
    let all_came = || ALL.iter().all(|fault| proxy.counts().contains_key(fault));
    for n in 0..LONGEST {
        if n >= OBJECTS && all_came() {
            break;
        }
        let bytes = data(n);
        let name = put(&*tier, &mut next, &bytes, &mut tally);
        let half = bytes.len() / 2;
        read(&*tier, name, &bytes, 0, half, &mut tally);
        read(&*tier, name, &bytes, half, bytes.len() - half, &mut tally);
        there.insert(name, n);
        if n % 5 == 4 {
            let (old, _) = there.pop_first().expect("some");
            delete(&*tier, old);
            tally.deleted += 1;
        }
    }
    let counts = proxy.counts();
    for fault in ALL {
        assert!(
            counts.contains_key(&fault),
            "no {fault:?}: the day was too good"
        );
    }
    println!(
        "{}, seed {seed}: {} requests, {counts:?}, {tally:?}",
        kind.as_str(),
        proxy.requests()
    );
    drop(tier);
    // A good day, and the next life.
    let how = OpenHow::known(MARK.owner, MARK.tier);
    let tier = S3Tier::open_as(&server.place(server.at, "p", ""), how, access()).expect("opens");
    for (name, n) in &there {
        let bytes = data(*n);
        assert_eq!(tier.stat(*name).expect("is there"), bytes.len() as u64);
        assert_eq!(
            tier.read(*name, 0, bytes.len() as u64).expect("reads"),
            bytes
        );
    }
    let listed = tier.list(None, usize::MAX).expect("lists");
    assert!(there.keys().all(|name| listed.contains(name)));
    crate::store(&tier, AggregateId { epoch: 2, seq: 1 }, b"the next life");
    let left = match kind {
        Kind::Moto => {
            server.until_none_is_unfinished();
            0
        }
        // It lists none: of one whose beginning was answered to nobody, nobody knows. A lifecycle rule aborts it.
        Kind::S3s => {
            let left = server.unfinished();
            assert!(left as u64 <= counts[&Fault::Lost], "{left} uploads remain");
            left
        }
    };
    let without = listed.len() - there.len();
    println!(
        "{} objects are right, {without} without a receipt, {left} uploads are left",
        there.len()
    );
}

#[test]
fn s3_bad_days_at_a_server_that_checks_nothing_lose_nothing() {
    a_day(
        Kind::Moto,
        "s3_bad_days_at_a_server_that_checks_nothing_lose_nothing",
    );
}

#[test]
fn s3_bad_days_at_a_strict_server_lose_nothing() {
    a_day(Kind::S3s, "s3_bad_days_at_a_strict_server_lose_nothing");
}

/// What is damaged on the way up gets no receipt, whatever the server checks.
#[test]
fn s3_bytes_that_are_damaged_on_the_way_up_get_no_receipt() {
    let test = "s3_bytes_that_are_damaged_on_the_way_up_get_no_receipt";
    for kind in [Kind::Moto, Kind::S3s] {
        let Some(server) = start(kind, test) else {
            continue;
        };
        let quiet = Script {
            faults: vec![Fault::FlippedUp],
            ..Script::quiet()
        };
        let proxy = Proxy::before(server.at, quiet.clone());
        let place = server.place(proxy.at, "p", "&part-size=5MiB");
        let tier = S3Tier::open_as(&place, ours(), access()).expect("opens");
        proxy.set(Script {
            one_in: 1,
            ..quiet.clone()
        });
        for (seq, len) in [(1, 1000), (2, 6 * MIB)] {
            let name = AggregateId { epoch: 1, seq };
            let bytes = content(seq, len);
            let mut put = tier.put(name, len as u64).expect("starts");
            let written = put
                .write_all(&bytes)
                .map_err(|e| cairn::tier::TierError::from_write(e, "s3", name));
            let done = written.and_then(|()| put.finish(Crc32c::of(&bytes)));
            let error = done.expect_err("every upload is damaged");
            println!("{}: {error}", kind.as_str());
            proxy.set(quiet.clone());
            assert_eq!(
                tier.stat(name).expect_err("nothing is there").kind(),
                ErrorKind::Missing
            );
            assert_eq!(tier.list(None, 10).expect("lists"), []);
            proxy.set(Script {
                one_in: 1,
                ..quiet.clone()
            });
        }
        server.until_none_is_unfinished();
    }
}

/// The request that makes the object is done, and nobody hears of it: what is there says whose it is.
#[test]
fn s3_an_answer_that_was_lost_is_no_failure() {
    let test = "s3_an_answer_that_was_lost_is_no_failure";
    for kind in [Kind::Moto, Kind::S3s] {
        let Some(server) = start(kind, test) else {
            continue;
        };
        let proxy = Proxy::before(server.at, Script::quiet());
        let place = server.place(proxy.at, "p", "&part-size=5MiB");
        let tier = S3Tier::open_as(&place, ours(), access()).expect("opens");
        for (seq, len, words) in [
            (1, 1000, ["PUT ", "/aggregates/"]),
            (2, 6 * MIB, ["POST ", "?uploadId="]),
            (3, 6 * MIB, ["PUT ", "partNumber=2"]),
        ] {
            let name = AggregateId { epoch: 1, seq };
            let bytes = content(seq, len);
            proxy.set(Script {
                once: Some((Fault::Lost, words)),
                ..Script::quiet()
            });
            crate::store(&tier, name, &bytes);
            assert_eq!(proxy.counts().get(&Fault::Lost), Some(&seq), "{words:?}");
            assert_eq!(tier.read(name, 0, len as u64).expect("reads"), bytes);
        }
        server.until_none_is_unfinished();
    }
}
