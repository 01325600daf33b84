//! Tests of what is made of what was seen.

use super::*;
use crate::tier::s3::bucket::failure::Verb;

fn answered(status: u16, code: &str) -> Failure {
    Failure {
        verb: Verb::Put,
        came: Came::Answered(status),
        code: code.to_owned(),
        message: String::new(),
    }
}

fn able() -> Able {
    Able {
        format: FORMAT.to_owned(),
        version: VERSION,
        probed: 1_760_000_000,
        endpoint: "amazon".to_owned(),
        bucket: "archive".to_owned(),
        server: Some("AmazonS3".to_owned()),
        echoes_checksum: true,
        refuses_wrong_object: true,
        refuses_wrong_part: true,
        refuses_wrong_whole: true,
        returns_checksum: true,
        conditional_put: true,
        conditional_complete: true,
        multipart: Multipart::FullObject,
        lists_uploads: true,
        versions: Versions::Off,
        locked: false,
    }
}

fn whose(server: Option<&str>, now: u64) -> Whose {
    Whose {
        endpoint: "amazon".to_owned(),
        bucket: "archive".to_owned(),
        server: server.map(str::to_owned),
        now,
    }
}

#[test]
fn only_a_refusal_for_the_checksum_is_one() {
    assert_eq!(refused(Ok(())).ok(), Some(false));
    let of = |code| refused(Err::<(), _>(answered(400, code))).ok();
    for code in ["BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"] {
        assert_eq!(of(code), Some(true), "{code}");
    }
    // It did not take it, for another reason, or for the sum of its signature.
    for code in [
        "InvalidRequest",
        "KeyTooLongError",
        "XAmzContentSHA256Mismatch",
        "",
    ] {
        assert_eq!(of(code), Some(false), "{code}");
    }
    for (status, code) in [
        (403, "AccessDenied"),
        (503, "SlowDown"),
        (404, "NoSuchBucket"),
        (501, "NotImplemented"),
        (412, "PreconditionFailed"),
    ] {
        assert!(
            refused(Err::<(), _>(answered(status, code))).is_err(),
            "{code}"
        );
    }
    assert!(refused(Err::<(), _>(Failure::broken(Verb::Put, "cut"))).is_err());
}

#[test]
fn a_condition_holds_only_if_it_was_seen_to() {
    assert_eq!(held(Ok(())).ok(), Some(false));
    assert_eq!(
        held(Err::<(), _>(answered(412, "PreconditionFailed"))).ok(),
        Some(true)
    );
    assert_eq!(
        held(Err::<(), _>(answered(409, "ConditionalRequestConflict"))).ok(),
        Some(true)
    );
    assert_eq!(
        held(Err::<(), _>(answered(501, "NotImplemented"))).ok(),
        Some(false)
    );
    assert!(held(Err::<(), _>(answered(403, "AccessDenied"))).is_err());
    assert!(held(Err::<(), _>(Failure::late(Verb::Put))).is_err());
    assert_eq!(
        known(Err::<(), _>(answered(403, "AccessDenied"))).ok(),
        Some(None)
    );
    assert!(known(Err::<(), _>(answered(503, "SlowDown"))).is_err());
}

#[test]
fn the_service_proves_only_what_it_was_seen_to_check() {
    let all = able();
    assert_eq!(
        (all.proof(false), all.proof(true)),
        (Proof::ServiceChecksum, Proof::ServiceChecksum)
    );
    assert_eq!(all.words(), Vec::<String>::new());
    let parts = Able {
        refuses_wrong_part: false,
        ..able()
    };
    assert_eq!(
        (parts.proof(false), parts.proof(true)),
        (Proof::ServiceChecksum, Proof::ReadBack)
    );
    let plain = Able {
        multipart: Multipart::Plain,
        ..able()
    };
    assert_eq!(plain.proof(true), Proof::ReadBack, "no checksum is sent");
    let silent = Able {
        echoes_checksum: false,
        returns_checksum: false,
        ..able()
    };
    assert_eq!(
        silent.proof(false),
        Proof::ReadBack,
        "it says nothing of what it found"
    );
    assert_eq!(able().wary().proof(true), Proof::ReadBack);
    assert!(!able().wary().is_conditional(false));
    let none = Able {
        refuses_wrong_object: false,
        refuses_wrong_part: false,
        conditional_put: false,
        versions: Versions::On,
        locked: true,
        lists_uploads: false,
        ..able()
    };
    assert_eq!(none.proof(false), Proof::ReadBack);
    let words = none.words().join("\n");
    for said in [
        "read back",
        "overwrite",
        "keeps versions",
        "object lock",
        "lifecycle",
    ] {
        assert!(words.contains(said), "{said}: {words}");
    }
    assert_eq!(none.words().len(), 5, "{words}");
}

#[test]
fn a_record_is_of_one_version_and_one_service() {
    let text = serde_json::to_string(&able()).expect("text");
    let back = Able::parse(text.as_bytes()).expect("a record");
    assert_eq!(back, able());
    let at = back.probed;
    assert!(back.is_of(&whose(Some("AmazonS3"), at)) && back.is_of(&whose(None, at + 6 * 86_400)));
    assert!(!back.is_of(&whose(Some("MinIO"), at)));
    // Nor for ever, nor from a future that is none, nor of another place.
    assert!(
        !back.is_of(&whose(None, at + 7 * 86_400)) && !back.is_of(&whose(None, at - 2 * 86_400))
    );
    let elsewhere = Whose {
        endpoint: "http://127.0.0.1:9000".to_owned(),
        ..whose(None, at)
    };
    let beside = Whose {
        bucket: "other".to_owned(),
        ..whose(None, at)
    };
    assert!(!back.is_of(&elsewhere) && !back.is_of(&beside));
    for bad in [
        text.replace("\"version\":2", "\"version\":1"),
        text.replace(FORMAT, "x"),
        text.replace("full-object", "whole"),
        String::new(),
    ] {
        assert_eq!(Able::parse(bad.as_bytes()), None, "{bad}");
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&able()).expect("text"));
}
