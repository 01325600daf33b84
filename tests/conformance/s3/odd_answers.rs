//! Bad days that no real server has when it is asked to: answers that are lost in good order, services that say
//! nothing, that change, that say what they did not do. Each is met by the service of `fake.rs`.

use super::fake::{Act, Answer, Ask, Fake, Manners, Verb};
use super::{MIB, access, content, ours, receipt};
use crate::{MARK, name, store};
use cairn::tier::s3::S3Tier;
use cairn::tier::{ErrorKind, OpenHow, Proof, Tier, TierError};
use cairn_mover::Crc32c;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than any call may take here, where nothing is large: a bound, not a measure.
const SOON: Duration = Duration::from_secs(60);

fn known() -> OpenHow {
    OpenHow::known(MARK.owner, MARK.tier)
}

fn up(manners: Manners) -> (Fake, S3Tier) {
    let fake = Fake::new(manners);
    let tier = fake.open("&part-size=5MiB", ours()).expect("opens");
    (fake, tier)
}

/// One object, or why there is none.
fn try_put(tier: &dyn Tier, seq: u64, data: &[u8]) -> Result<Proof, TierError> {
    let mut put = tier.put(name(seq), data.len() as u64)?;
    let written = put.write_all(data);
    written.map_err(|e| TierError::from_write(e, "s3", name(seq)))?;
    Ok(put.finish(Crc32c::of(data))?.proof)
}

/// Befalls the first request of this kind about an object.
fn once(
    verb: Verb,
    act: impl Fn() -> Act + Send + 'static,
) -> impl FnMut(&Ask, &mut super::fake::Store) -> Option<Act> + Send {
    let mut left = 1;
    move |ask, _| {
        let hit = ask.verb == verb && ask.is_of_an_object() && left > 0;
        left -= u32::from(hit);
        hit.then(&act)
    }
}

/// Befalls every one.
fn each(
    verb: Verb,
    act: impl Fn() -> Act + Send + 'static,
) -> impl FnMut(&Ask, &mut super::fake::Store) -> Option<Act> + Send {
    move |ask, _| (ask.verb == verb && ask.is_of_an_object()).then(&act)
}

fn objects(fake: &Fake) -> usize {
    fake.with(|store| {
        store
            .objects
            .keys()
            .filter(|k| k.contains("/aggregates/"))
            .count()
    })
}

#[test]
fn s3_a_reply_that_is_lost_in_good_order_is_looked_for() {
    let (fake, tier) = up(Manners::default());
    for (seq, verb, len) in [
        (1, Verb::Put, 1000),
        (2, Verb::Part, 6 * MIB),
        (3, Verb::Complete, 6 * MIB),
        (4, Verb::Create, 6 * MIB),
    ] {
        let data = content(seq, len);
        for act in [|| Act::DoneThenClose, || Act::Close] {
            fake.rule(once(verb, act));
            let seq = seq * 10 + objects(&fake) as u64;
            assert_eq!(
                try_put(&tier, seq, &data).expect("is stored"),
                Proof::ServiceChecksum,
                "{verb:?}"
            );
            assert_eq!(tier.read(name(seq), 0, len as u64).expect("reads"), data);
        }
    }
    // A reader is told that it may pass, and nothing of credentials.
    fake.rule(each(Verb::Get, || Act::Close));
    let object = name(10);
    let error = tier.read(object, 0, 10).expect_err("is lost");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(!error.to_string().contains("Credentials"), "{error}");
}

#[test]
fn s3_what_was_seen_of_a_service_is_believed_of_that_one_alone() {
    let (fake, tier) = up(Manners::default());
    assert_eq!(
        try_put(&tier, 1, b"one").expect("stored"),
        Proof::ServiceChecksum
    );
    let probed = |fake: &Fake| fake.asked().iter().any(|(_, key)| key.contains("/probe/"));
    assert!(probed(&fake));
    // Remembered for another process.
    let next = fake.open("", known()).expect("opens");
    try_put(&next, 2, b"two").expect("stored");
    assert!(!probed(&fake), "nothing is tried out twice");
    // The same record at another endpoint, or an old one, is none.
    let record = |fake: &Fake| fake.with(|s| s.objects["p/cairn-probe.json"].clone());
    let text = String::from_utf8(record(&fake).bytes).expect("text");
    let endpoint = format!("http://{}", fake.at);
    let old = text.lines().map(|line| match line.contains("\"probed\"") {
        true => "\"probed\": 1760000000,".to_owned(),
        false => line.to_owned(),
    });
    for (seq, other) in [
        (3, text.replace(&endpoint, "http://127.0.0.1:1")),
        (4, old.collect()),
    ] {
        fake.with(|s| {
            s.objects
                .get_mut("p/cairn-probe.json")
                .expect("there")
                .bytes = other.into_bytes()
        });
        let tier = fake.open("", known()).expect("opens");
        try_put(&tier, seq, b"again").expect("stored");
        assert!(probed(&fake), "it is tried out again");
    }
    // Another service answers, which checks nothing and says all the same: it is asked anew, in the same life.
    fake.with(|s| {
        s.manners = Manners {
            checks: false,
            name: "other".to_owned(),
            ..Manners::default()
        }
    });
    tier.stat(name(1)).expect("is there");
    assert_eq!(try_put(&tier, 5, b"five").expect("stored"), Proof::ReadBack);
    assert!(probed(&fake));
    // One that changes its name all the time is believed nothing, and not tried out all the time.
    fake.with(|s| {
        s.manners = Manners {
            name: "third".to_owned(),
            ..Manners::default()
        }
    });
    tier.stat(name(1)).expect("is there");
    assert_eq!(try_put(&tier, 6, b"six").expect("stored"), Proof::ReadBack);
    assert!(!probed(&fake));
}

#[test]
fn s3_a_checksum_proves_only_where_the_service_says_it_of_this_very_object() {
    let (fake, tier) = up(Manners::default());
    // As a proxy does that passes on what it knows: the sums are gone.
    fake.with(|s| s.manners.echoes = false);
    for (seq, len) in [(1, 1000), (2, 6 * MIB)] {
        fake.asked();
        assert_eq!(
            try_put(&tier, seq, &content(seq, len)).expect("stored"),
            Proof::ServiceChecksum
        );
        assert_eq!(
            (fake.count(Verb::Get), fake.count(Verb::Head)),
            (0, 2),
            "HEAD says it"
        );
    }
    fake.with(|s| s.manners.tells = false);
    for (seq, len) in [(3, 1000), (4, 6 * MIB)] {
        fake.asked();
        assert_eq!(
            try_put(&tier, seq, &content(seq, len)).expect("stored"),
            Proof::ReadBack
        );
        assert!(fake.count(Verb::Get) > 0);
    }
}

#[test]
fn s3_only_a_refusal_of_the_digest_is_a_check() {
    let fake = Fake::new(Manners {
        checks: false,
        ..Manners::default()
    });
    // Whatever has a sum that is not its bytes' is refused, for another reason.
    fake.rule(|ask, _| {
        let put = matches!(ask.verb, Verb::Put | Verb::Part) && ask.key.contains("/probe/");
        let mut counted = fake_sum(ask);
        counted.retain(|_| put);
        (!counted.is_empty()).then(|| Act::Say(Answer::error(400, "InvalidRequest")))
    });
    let tier = fake.open("&part-size=5MiB", ours()).expect("opens");
    fake.quiet();
    for (seq, len) in [(1, 1000), (2, 6 * MIB)] {
        assert_eq!(
            try_put(&tier, seq, &content(seq, len)).expect("stored"),
            Proof::ReadBack
        );
    }
}

/// The wrong sum of a request, if it has one: that of the other bits.
fn fake_sum(ask: &Ask) -> Vec<String> {
    let right = Crc32c::of(&ask.body);
    let said = ask.header("x-amz-checksum-crc32c").map(str::to_owned);
    let wrong = super::fake::base64(Crc32c(!right.0));
    said.into_iter().filter(|said| *said == wrong).collect()
}

#[test]
fn s3_a_service_that_says_nothing_holds_nobody_for_minutes() {
    let (fake, tier) = up(Manners::default());
    try_put(&tier, 1, b"one").expect("stored");
    fake.rule(|_, _| Some(Act::Silence));
    let begun = Instant::now();
    // The start of a mount does not wait for it.
    let started = fake.open("", known()).expect("opens");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let tier = Arc::new(tier);
    std::thread::scope(|scope| {
        let mut asked = Vec::new();
        // More than there are connections: those that wait for one are told, too.
        for _ in 0..40 {
            let tier = Arc::clone(&tier);
            asked.push(scope.spawn(move || tier.read(name(1), 0, 3).map(drop)));
        }
        asked.push(scope.spawn(|| tier.stat(name(1)).map(drop)));
        asked.push(scope.spawn(|| tier.list(None, 10).map(drop)));
        asked.push(scope.spawn(|| started.put(name(2), 1).map(drop)));
        asked.push(scope.spawn(|| started.space().map(drop)));
        for one in asked {
            let error = one.join().expect("no panic").expect_err("is silent");
            // Not transient: whoever tries such things again would multiply it.
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
    });
    assert!(
        begun.elapsed() < SOON + Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    fake.quiet();
    assert_eq!(started.read(name(1), 0, 3).expect("is back"), "one");
}

#[test]
fn s3_missing_is_said_in_words_twice_or_it_is_not_missing() {
    let (fake, tier) = up(Manners::default());
    try_put(&tier, 1, b"one").expect("stored");
    let asks: [fn(&S3Tier) -> Option<TierError>; 2] =
        [|t| t.read(name(1), 0, 3).err(), |t| t.stat(name(1)).err()];
    let error = |ask: fn(&S3Tier) -> Option<TierError>| ask(&tier).expect("fails");
    // A page of a proxy that knows no such path, without a word or with its own.
    for answer in [
        Answer::of(404),
        Answer::error(404, "NotFound"),
        Answer::error(404, "RouteUnknown"),
    ] {
        fake.rule(move |ask, _| {
            let about = ask.is_of_an_object() && matches!(ask.verb, Verb::Get | Verb::Head);
            about.then(|| Act::Say(answer.clone()))
        });
        for ask in asks {
            let error = error(ask);
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
    }
    // Said once, by a node that was behind the others.
    fake.rule(once(Verb::Get, || {
        Act::Say(Answer::error(404, "NoSuchKey"))
    }));
    assert_eq!(error(asks[0]).kind(), ErrorKind::Transient);
    fake.rule(once(Verb::Head, || Act::Say(Answer::of(404))));
    assert_eq!(error(asks[1]).kind(), ErrorKind::Transient);
    // A deletion is done only if the key is said to be gone.
    for (answer, done) in [
        (Answer::of(404), false),
        (Answer::error(404, "NoSuchBucket"), false),
        (Answer::error(404, "NoSuchUpload"), false),
        (Answer::error(404, "NoSuchKey"), true),
    ] {
        fake.rule(each(Verb::Delete, move || Act::Say(answer.clone())));
        assert_eq!(tier.delete(name(1)).is_ok(), done);
    }
    fake.quiet();
    tier.delete(name(1)).expect("deletes");
    fake.asked();
    for ask in asks {
        assert_eq!(error(ask).kind(), ErrorKind::Missing);
        let asked = fake.asked();
        let mark = asked
            .iter()
            .position(|(_, key)| key.ends_with("cairn-tier.json"));
        let gets: Vec<_> = asked
            .iter()
            .map(|(verb, key)| *verb == Verb::Get && key.contains("/aggregates/"))
            .collect();
        let mark = mark.expect("the mark was looked at");
        assert!(
            gets[..mark].contains(&true) && gets[mark..].contains(&true),
            "{asked:?}"
        );
    }
}

#[test]
fn s3_what_a_put_made_and_cannot_prove_goes_whatever_its_length() {
    let (fake, tier) = up(Manners {
        checks: false,
        echoes: false,
        tells: false,
        ..Manners::default()
    });
    for (seq, verb, len) in [(1, Verb::Put, 1000), (2, Verb::Complete, 6 * MIB)] {
        // The service keeps half of what came.
        fake.rule(move |ask, store| {
            if ask.verb == verb && ask.is_of_an_object() {
                let answer = store.serve(ask);
                let object = store.objects.get_mut(&ask.key).expect("was made");
                object.bytes.truncate(object.bytes.len() / 2);
                return Some(Act::Say(answer));
            }
            None
        });
        let error = try_put(&tier, seq, &content(seq, len)).expect_err("is damaged");
        let passing = [ErrorKind::Transient, ErrorKind::Corrupt];
        assert!(passing.contains(&error.kind()), "{error}");
        assert_eq!(objects(&fake), 0, "{verb:?}");
    }
}

#[test]
fn s3_the_mark_is_seen_again_before_the_last_request_of_a_put() {
    let (fake, tier) = up(Manners::default());
    let data = content(1, 6 * MIB);
    for (seq, len) in [(1, 1000), (2, 6 * MIB)] {
        let mut put = tier.put(name(seq), len as u64).expect("starts");
        put.write_all(&data[..len]).expect("is taken");
        let mark = fake
            .with(|s| s.objects.remove("p/cairn-tier.json"))
            .expect("a mark");
        // It is looked at when something seems to be missing; so it is known to be gone.
        assert_eq!(
            tier.stat(name(99)).expect_err("nothing").kind(),
            ErrorKind::Unavailable
        );
        let error = put
            .finish(Crc32c::of(&data[..len]))
            .expect_err("the mark is gone");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(objects(&fake), 0);
        fake.with(|s| s.objects.insert("p/cairn-tier.json".to_owned(), mark));
        tier.space().expect("is back");
    }
    fake.until("nothing is left", |s| s.uploads.is_empty());
}

#[test]
fn s3_a_completion_that_fails_in_its_body_or_is_repeated_is_looked_at_first() {
    let (fake, tier) = up(Manners::default());
    let data = content(1, 6 * MIB);
    // 200, blanks while it works, and then an error.
    let late = || {
        Answer::xml(
            200,
            "   \n  <Error><Code>InternalError</Code><Message>late</Message></Error>",
        )
    };
    fake.rule(once(Verb::Complete, move || Act::Say(late())));
    try_put(&tier, 1, &data).expect("the second one is taken");
    // It was done all the same.
    fake.rule(once(Verb::Complete, move || Act::DoneThenSay(late())));
    fake.asked();
    try_put(&tier, 2, &data).expect("it is there");
    assert_eq!(fake.count(Verb::Complete), 1, "it is not asked for twice");
    // Somebody is at it: asked again, but looked for before each time.
    let count = AtomicU32::new(0);
    fake.rule(move |ask, _| {
        let hit = ask.verb == Verb::Complete && count.fetch_add(1, Ordering::Relaxed) < 2;
        hit.then(|| Act::Say(Answer::error(409, "ConditionalRequestConflict")))
    });
    fake.asked();
    try_put(&tier, 3, &data).expect("the third one is taken");
    let asked: Vec<Verb> = fake.asked().into_iter().map(|(verb, _)| verb).collect();
    let from = asked
        .iter()
        .position(|v| *v == Verb::Complete)
        .expect("one");
    let head = [Verb::Complete, Verb::Head];
    assert_eq!(asked[from..], [head, head, head].concat(), "{asked:?}");
}

#[test]
fn s3_what_was_made_is_looked_at_before_its_receipt() {
    let (fake, tier) = up(Manners::default());
    let data = content(1, 6 * MIB);
    // It says that it made the object, and did not.
    let made = "<CompleteMultipartUploadResult><Key>k</Key><ETag>\"made\"</ETag></CompleteMultipartUploadResult>";
    fake.rule(each(Verb::Complete, move || {
        Act::Say(Answer::xml(200, made))
    }));
    let error = try_put(&tier, 1, &data).expect_err("there is nothing");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    // Or another's is there.
    fake.rule(|ask, store| {
        if ask.verb != Verb::Complete {
            return None;
        }
        let answer = store.serve(ask);
        let object = store.objects.get_mut(&ask.key).expect("made");
        object
            .meta
            .insert("x-amz-meta-cairn-put".to_owned(), "another".to_owned());
        Some(Act::Say(answer))
    });
    let error = try_put(&tier, 2, &data).expect_err("it is another's");
    assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
    assert_eq!(objects(&fake), 1, "which stays");
}

#[test]
fn s3_a_move_to_a_class_is_looked_at() {
    let fake = Fake::new(Manners {
        echoes: false,
        tells: false,
        ..Manners::default()
    });
    let tier = fake.open("&storage-class=GLACIER", ours()).expect("opens");
    assert_eq!(try_put(&tier, 1, b"one").expect("stored"), Proof::ReadBack);
    let class =
        |fake: &Fake| fake.with(|s| s.objects.values().filter(|o| o.class.is_some()).count());
    assert_eq!(class(&fake), 1);
    let moved = "<CopyObjectResult><ETag>\"copy\"</ETag></CopyObjectResult>";
    fake.rule(each(Verb::Copy, move || Act::Say(Answer::xml(200, moved))));
    let error = try_put(&tier, 2, b"two").expect_err("it was not moved");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    // Moved, and cut on the way.
    fake.rule(|ask, store| {
        if ask.verb != Verb::Copy {
            return None;
        }
        let answer = store.serve(ask);
        store.objects.get_mut(&ask.key).expect("there").bytes.pop();
        Some(Act::Say(answer))
    });
    let error = try_put(&tier, 3, b"three").expect_err("it was cut");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert_eq!(objects(&fake), 1, "only the first is there");
}

#[test]
fn s3_a_bucket_that_wants_checksums_gets_them() {
    let (fake, tier) = up(Manners {
        wants_sums: true,
        ..Manners::default()
    });
    for (seq, len) in [(1, 1000), (2, 6 * MIB)] {
        try_put(&tier, seq, &content(seq, len)).expect("stored");
    }
    tier.probe().expect("probes");
    assert_eq!(objects(&fake), 2);
}

#[test]
fn s3_a_put_that_is_dropped_keeps_nobody() {
    let (fake, tier) = up(Manners::default());
    let mut put = tier.put(name(1), 20 * MIB as u64).expect("starts");
    put.write_all(&content(1, 12 * MIB)).expect("is taken");
    fake.rule(each(Verb::Abort, || Act::Silence));
    let begun = Instant::now();
    drop(put);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    // Nor does the tier; and what it began goes on.
    drop(tier);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    fake.until("the abort is asked for", |s| s.uploads.len() == 1);
    fake.quiet();
    fake.until("it is aborted", |s| s.uploads.is_empty());
}

#[test]
fn s3_a_request_that_is_refused_for_one_object_says_nothing_of_the_tier() {
    let (fake, tier) = up(Manners::default());
    try_put(&tier, 1, b"one").expect("stored");
    for code in [
        "InvalidRequest",
        "InvalidArgument",
        "KeyTooLongError",
        "MalformedXML",
    ] {
        fake.rule(move |ask, _| {
            let about = ask.is_of_an_object() && ask.verb != Verb::List;
            about.then(|| Act::Say(Answer::error(400, code)))
        });
        for error in [
            tier.read(name(1), 0, 1).err(),
            tier.delete(name(1)).err(),
            try_put(&tier, 2, b"two").err(),
        ] {
            let error = error.expect("refused");
            assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        }
    }
}

#[test]
fn s3_of_two_that_make_a_tier_at_once_one_is_refused() {
    let fake = Fake::new(Manners {
        conditions: false,
        ..Manners::default()
    });
    // Another writes its mark a moment after ours, and says so in no way.
    let mut theirs = 1;
    fake.rule(move |ask, store| {
        if ask.verb == Verb::Put && ask.key.ends_with("cairn-probe.json") && theirs > 0 {
            theirs -= 1;
            let mark = store.objects.get_mut("p/cairn-tier.json").expect("ours");
            let text = String::from_utf8(mark.bytes.clone()).expect("text");
            mark.bytes = text.replace("09090909", "07070707").into_bytes();
        }
        None
    });
    let error = fake.open("", ours()).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let fake = Fake::new(Manners {
        conditions: false,
        ..Manners::default()
    });
    let tier = fake.open("", ours()).expect("opens");
    let notes = tier.describe().notes.join("\n");
    assert!(notes.contains("same moment"), "{notes}");
}

#[test]
fn s3_an_owner_hands_a_tier_over() {
    let (fake, tier) = up(Manners::default());
    store(&tier, name(1), b"one");
    drop(tier);
    let next = cairn::id::InstanceId([3; 16]);
    let hold = |owner| OpenHow::known(owner, MARK.tier);
    let opened = |owner| S3Tier::open_as(&fake.place("p", ""), hold(owner), access());
    assert_eq!(
        opened(next).err().expect("not its own").kind(),
        ErrorKind::Refused
    );
    assert_eq!(
        receipt(&opened(MARK.owner).expect("opens"), 2, b"two").len,
        3
    );
}
