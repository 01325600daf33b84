//! The suite over the network, against two real servers that differ in what they check; what only a bucket
//! meets; and a proxy with bad days between a tier and its server.

mod bad_days;
mod cold;
mod fake;
mod odd_answers;
mod proxy;
#[path = "../servers/s3.rs"]
#[allow(dead_code, reason = "the tests on a mount use the rest")]
mod servers;
mod ways;

use crate::{MARK, name, store};
use cairn::id::{InstanceId, TierId};
use cairn::tier::conformance::{self, Outcome};
use cairn::tier::s3::{Access, S3Tier};
use cairn::tier::{ErrorKind, OpenHow, Proof, Tier};
use cairn_mover::Crc32c;
use proxy::{Proxy, Script};
use servers::{BUCKET, Kind, Server, access, start};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const MIB: usize = 1 << 20;

fn ours() -> OpenHow {
    OpenHow::new(MARK.owner, MARK.tier)
}

fn judge(outcomes: Vec<Outcome>) {
    assert!(!outcomes.is_empty());
    let count = outcomes.len();
    let failures: Vec<String> = outcomes
        .into_iter()
        .filter_map(|o| o.result.err().map(|why| format!("{}: {why}", o.case)))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{count} cases");
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(len);
    data
}

/// The suite, each case under a prefix of its own; parts are as small as can be, so that objects have several.
fn conforms(server: &Server) {
    let count = AtomicU32::new(0);
    judge(conformance::run(&|| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let tier = server.open(&format!("suite/{n}"), "&part-size=5MiB", ours());
        Arc::new(tier.expect("opens"))
    }));
    server.until_none_is_unfinished();
    judge(conformance::run_opening(&|how| {
        let tier = server.open("opening", "", how)?;
        Ok(Arc::new(tier) as Arc<dyn Tier>)
    }));
}

#[test]
fn s3_conforms_at_a_server_that_checks_nothing() {
    let test = "s3_conforms_at_a_server_that_checks_nothing";
    if let Some(server) = start(Kind::Moto, test) {
        conforms(&server);
    }
}

#[test]
fn s3_conforms_at_a_strict_server() {
    if let Some(server) = start(Kind::S3s, "s3_conforms_at_a_strict_server") {
        conforms(&server);
    }
}

fn receipt(tier: &dyn Tier, seq: u64, data: &[u8]) -> cairn::tier::Receipt {
    let mut put = tier.put(name(seq), data.len() as u64).expect("starts");
    put.write_all(data).expect("bytes are taken");
    put.finish(Crc32c::of(data)).expect("receipt")
}

/// moto refuses nothing; s3s-fs refuses objects with a wrong checksum, and takes such parts.
#[test]
fn a_receipt_says_service_checksum_only_where_a_wrong_one_was_refused() {
    let test = "a_receipt_says_service_checksum_only_where_a_wrong_one_was_refused";
    for (kind, small, says) in [
        (Kind::Moto, Proof::ReadBack, "each object is read back"),
        (
            Kind::S3s,
            Proof::ServiceChecksum,
            "large objects are read back",
        ),
    ] {
        let Some(server) = start(kind, test) else {
            continue;
        };
        let tier = server.open("p", "&part-size=5MiB", ours()).expect("opens");
        assert_eq!(
            receipt(&tier, 1, &content(1, 1000)).proof,
            small,
            "{kind:?}"
        );
        let large = receipt(&tier, 2, &content(2, 6 * MIB));
        assert_eq!(large.proof, Proof::ReadBack, "{kind:?}");
        let notes = tier.describe().notes;
        assert!(notes.join("\n").contains(says), "{notes:?}");
        println!("{}: {notes:?}", kind.as_str());
    }
}

#[test]
fn what_a_service_can_do_is_remembered_and_found_out_again_when_asked() {
    let test = "what_a_service_can_do_is_remembered_and_found_out_again_when_asked";
    let Some(server) = start(Kind::S3s, test) else {
        return;
    };
    let quiet = Script::quiet();
    let proxy = Proxy::before(server.at, quiet);
    let place = server.place(proxy.at, "p", "");
    let open = |how| S3Tier::open_as(&place, how, access()).expect("opens");
    let first = open(ours());
    let asked = proxy.requests();
    let again = open(OpenHow::known(MARK.owner, MARK.tier));
    let more = proxy.requests() - asked;
    assert!(asked > 15 && more == 2, "{asked} at first, then {more}");
    assert_eq!(first.describe().notes, again.describe().notes);
    assert_eq!(again.probe().expect("probes"), first.describe().notes);
    assert!(proxy.requests() - asked > 10);
    assert_eq!(server.unfinished(), 0);
}

#[test]
fn a_wrong_secret_and_a_missing_bucket_say_the_way_out() {
    let Some(server) = start(
        Kind::S3s,
        "a_wrong_secret_and_a_missing_bucket_say_the_way_out",
    ) else {
        return;
    };
    let place = server.place(server.at, "p", "");
    for access in [
        Access::new("cairn-test", "hush"),
        Access::new("hush", "hush"),
    ] {
        let error = S3Tier::open_as(&place, ours(), access)
            .err()
            .expect("refused");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("AWS_ACCESS_KEY_ID") && !text.contains("hush"),
            "{text}"
        );
    }
    let mut elsewhere = place.clone();
    elsewhere.bucket = "nowhere".to_owned();
    let error = S3Tier::open_as(&elsewhere, ours(), access())
        .err()
        .expect("none");
    assert!(error.to_string().contains("Make the bucket"), "{error}");
}

#[test]
fn a_service_that_is_down_is_unavailable_until_it_is_back() {
    let Some(server) = start(
        Kind::S3s,
        "a_service_that_is_down_is_unavailable_until_it_is_back",
    ) else {
        return;
    };
    let data = content(3, 1000);
    // At the address that it goes away from: elsewhere it would be another service, of which nothing is known.
    let proxy = Proxy::before(server.at, Script::quiet());
    let nobody = proxy.at;
    let place = server.place(nobody, "p", "");
    let first = S3Tier::open_as(&place, ours(), access()).expect("opens");
    store(&first, name(1), &data);
    let notes = first.describe().notes;
    assert!(!notes.is_empty());
    drop((first, proxy));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while std::net::TcpStream::connect(nobody).is_ok() {
        assert!(std::time::Instant::now() < end, "the proxy goes");
    }
    let error = S3Tier::open_as(&place, ours(), access())
        .err()
        .expect("down");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("endpoint"), "{error}");
    let known = OpenHow::known(MARK.owner, MARK.tier);
    let tier = S3Tier::open_as(&place, known, access()).expect("comes up");
    for error in [
        tier.stat(name(1)).err(),
        tier.read(name(1), 0, 10).err(),
        tier.list(None, 10).err(),
        tier.put(name(2), 10).err(),
        tier.delete(name(1)).err(),
        tier.space().err(),
    ] {
        let error = error.expect("nothing works");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    let quiet = Script::quiet();
    // It comes up under the very address that was refused.
    let proxy = Proxy::at(nobody, server.at, quiet);
    assert_eq!(tier.read(name(1), 0, 1000).expect("is back"), data);
    tier.space().expect("is back");
    assert_eq!(tier.describe().notes, notes, "what it lacks is known again");
    store(&tier, name(2), &data);
    drop(proxy);
}

#[test]
fn an_emptied_or_foreign_prefix_has_no_missing_objects() {
    let Some(server) = start(
        Kind::Moto,
        "an_emptied_or_foreign_prefix_has_no_missing_objects",
    ) else {
        return;
    };
    let tier = server.open("p", "", ours()).expect("opens");
    store(&tier, name(1), b"x");
    assert_eq!(
        tier.stat(name(2)).expect_err("none").kind(),
        ErrorKind::Missing
    );
    server.raw(&format!("DELETE /{BUCKET}/p/cairn-tier.json"));
    let error = tier.stat(name(2)).expect_err("nothing is known");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // Without its mark it is no empty place either.
    let error = server.open("p", "", ours()).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("not empty"), "{error}");
    let other = OpenHow::new(InstanceId([7; 16]), TierId(7));
    drop(server.open("q", "", other).expect("another's"));
    let error = server.open("q", "", ours()).err().expect("refused");
    assert!(
        error
            .to_string()
            .contains("cairn tier owner 's3://archive/q"),
        "{error}"
    );
}

#[test]
fn keys_of_strangers_are_passed_over_and_counted() {
    let Some(server) = start(Kind::Moto, "keys_of_strangers_are_passed_over_and_counted") else {
        return;
    };
    for prefix in ["p", "site 1/a+b%2526=\u{e4}\u{20ac}'\"<&>"] {
        let tier = server.open(prefix, "", ours()).expect("opens");
        let part = name(3).part(2);
        for seq in [1, 2, 300, 70_000] {
            store(&tier, name(seq), b"x");
        }
        store(&tier, part, b"y");
        store(&tier, name(5).snapshot(), b"z");
        if prefix == "p" {
            server.raw(&format!("PUT /{BUCKET}/p/aggregates/notes.txt"));
            server.raw(&format!("PUT /{BUCKET}/p/aggregates/e00000001/x.tar"));
            // A name that might be, in a place that it is not.
            server.raw(&format!(
                "PUT /{BUCKET}/p/aggregates/e00000001-000000000009.tar"
            ));
        }
        let all = [
            name(1),
            name(2),
            name(300),
            name(70_000),
            name(5).snapshot(),
            part,
        ];
        assert_eq!(tier.list(None, usize::MAX).expect("lists"), all, "{prefix}");
        assert_eq!(tier.strangers(), if prefix == "p" { 3 } else { 0 });
        for (n, after) in all.iter().enumerate() {
            let rest = tier.list(Some(*after), usize::MAX).expect("lists");
            assert_eq!(rest, all[n + 1..], "after {after}");
        }
        assert_eq!(tier.list(None, 2).expect("lists"), all[..2]);
        assert_eq!(tier.read(part, 0, 1).expect("reads"), "y");
    }
}

#[test]
fn uploads_of_former_lives_are_aborted_and_living_ones_are_not() {
    let test = "uploads_of_former_lives_are_aborted_and_living_ones_are_not";
    let Some(server) = start(Kind::Moto, test) else {
        return;
    };
    let tier = server.open("p", "&part-size=5MiB", ours()).expect("opens");
    let begun = |seq, epoch| {
        let mut id = name(seq);
        id.epoch = epoch;
        let mut put = tier.put(id, 20 * MIB as u64).expect("starts");
        put.write_all(&content(seq, 6 * MIB)).expect("is taken");
        put
    };
    // A process that died: nobody drops its puts.
    std::mem::forget(begun(1, 1));
    assert_eq!(server.unfinished(), 1);
    // What is dropped is aborted.
    drop(begun(2, 1));
    server.until_unfinished(1);
    let successor = server.open("p", "&part-size=5MiB", ours()).expect("opens");
    assert_eq!(server.unfinished(), 1, "who only opens aborts nothing");
    let mut living = successor
        .put(cairn::id::AggregateId { epoch: 2, seq: 1 }, 0)
        .expect("starts");
    living.write_all(&content(5, 6 * MIB)).expect("is taken");
    store(
        &successor,
        cairn::id::AggregateId { epoch: 3, seq: 1 },
        b"x",
    );
    server.until_unfinished(1);
    living
        .finish(Crc32c::of(&content(5, 6 * MIB)))
        .expect("it lives");
    assert_eq!(server.unfinished(), 0);
}

#[test]
fn what_is_in_an_archive_class_was_proven_and_waits_for_a_restore_with_words() {
    let test = "what_is_in_an_archive_class_was_proven_and_waits_for_a_restore_with_words";
    let Some(server) = start(Kind::Moto, test) else {
        return;
    };
    let tier = server
        .open("p", "&part-size=5MiB&storage-class=GLACIER", ours())
        .expect("opens");
    // Not in parts: of what it copied then moto says, as the sum of all of it, another one.
    for (seq, len) in [(1, 1000), (2, 4 * MIB)] {
        let data = content(seq, len);
        assert_eq!(receipt(&tier, seq, &data).proof, Proof::ReadBack);
        assert_eq!(tier.stat(name(seq)).expect("is there"), len as u64);
        let error = tier.read(name(seq), 0, 10).expect_err("is archived");
        assert_eq!(error.kind(), ErrorKind::NotRestored, "{error}");
        assert!(error.to_string().contains("restore"), "{error}");
    }
}

/// The servers answer these questions in words of their own, or not at all.
#[test]
fn a_bucket_that_keeps_what_is_deleted_is_said() {
    let Some(server) = start(Kind::S3s, "a_bucket_that_keeps_what_is_deleted_is_said") else {
        return;
    };
    let versions = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status></VersioningConfiguration>";
    let lock = "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
    let proxy = Proxy::before(server.at, Script::quiet());
    let place = server.place(proxy.at, "p", "");
    let tier = S3Tier::open_as(&place, ours(), access()).expect("opens");
    let notes = tier.describe().notes.join("\n");
    assert!(!notes.contains("version"), "{notes}");
    proxy.set(Script {
        instead: vec![("?versioning", versions), ("?object-lock", lock)],
        ..Script::quiet()
    });
    let notes = tier.probe().expect("probes").join("\n");
    assert!(
        notes.contains("keeps versions") && notes.contains("object lock"),
        "{notes}"
    );
}
