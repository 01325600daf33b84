//! Objects in archive classes, and what the service is asked for to have them read.

use super::fake::{Act, Answer, Fake, Manners, Verb};
use super::ours;
use crate::{MARK, name, store};
use cairn::tier::s3::S3Tier;
use cairn::tier::{ErrorKind, OpenHow, Restoring, Tier};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// What a bulk retrieval takes at most.
const COMING: Restoring = Restoring::Coming {
    takes: Some(Duration::from_secs(12 * 3600)),
};

/// A service with a warm object and a cold one, and the bodies of what is asked of it to be restored.
fn up() -> (Fake, S3Tier, Arc<Mutex<Vec<String>>>) {
    let fake = Fake::new(Manners::default());
    store(&fake.open("", ours()).expect("opens"), name(1), b"warm");
    let glacier = "&storage-class=GLACIER&restore-tier=bulk&restore-days=3";
    let known = OpenHow::known(MARK.owner, MARK.tier);
    let tier = fake.open(glacier, known).expect("opens");
    store(&tier, name(2), b"cold");
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&bodies);
    fake.rule(move |ask, _| {
        if ask.verb == Verb::Restore {
            seen.lock()
                .push(String::from_utf8_lossy(&ask.body).into_owned());
        }
        None
    });
    (fake, tier, bodies)
}

/// From now on the service says this of the cold object's restored copy.
fn say(fake: &Fake, what: &str) {
    fake.with(|store| {
        let mut objects = store.objects.iter_mut();
        let cold = objects.find(|(key, _)| key.ends_with("02.tar"));
        cold.expect("is there").1.restore = what.to_owned();
    });
}

#[test]
fn s3_an_object_in_an_archive_class_is_asked_for_once() {
    let (_fake, tier, bodies) = up();
    assert_eq!(tier.restore(name(1)).expect("is known"), Restoring::Ready);
    assert_eq!(tier.read(name(1), 0, 4).expect("reads"), "warm");
    assert_eq!(tier.stat(name(2)).expect("is there"), 4);
    for _ in 0..3 {
        let error = tier.read(name(2), 0, 4).expect_err("is cold");
        assert_eq!(error.kind(), ErrorKind::NotRestored);
        assert_eq!(tier.restore(name(2)).expect("is asked for"), COMING);
    }
    let bodies = bodies.lock();
    let [body] = &bodies[..] else {
        panic!("{bodies:?}");
    };
    for wanted in ["<Days>3</Days>", "<Tier>Bulk</Tier>"] {
        assert!(body.contains(wanted), "{body}");
    }
}

#[test]
fn s3_a_restored_copy_is_used_while_it_lasts() {
    let (fake, tier, bodies) = up();
    say(
        &fake,
        "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2040 00:00:00 GMT\"",
    );
    assert_eq!(tier.restore(name(2)).expect("is known"), Restoring::Ready);
    assert_eq!(tier.read(name(2), 0, 4).expect("reads"), "cold");
    assert_eq!(bodies.lock().len(), 0);
    say(&fake, "");
    assert_eq!(tier.restore(name(2)).expect("is asked for"), COMING);
    assert_eq!(bodies.lock().len(), 1);
    // Somebody else asked a moment before.
    for (status, code, said) in [
        (409, "RestoreAlreadyInProgress", COMING),
        (403, "ObjectAlreadyInActiveTierError", Restoring::Ready),
    ] {
        say(&fake, "");
        fake.rule(move |ask, _| {
            (ask.verb == Verb::Restore).then(|| Act::Say(Answer::error(status, code)))
        });
        assert_eq!(tier.restore(name(2)).expect("is known"), said);
    }
    fake.rule(|ask, _| {
        (ask.verb == Verb::Restore).then(|| Act::Say(Answer::error(403, "AccessDenied")))
    });
    let error = tier.restore(name(2)).expect_err("denied");
    assert!(error.to_string().contains("s3:RestoreObject"), "{error}");
    let error = tier.restore(name(9)).expect_err("none");
    assert_eq!(error.kind(), ErrorKind::Missing);
}
