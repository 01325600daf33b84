//! Tests of the wire values.

use super::*;

#[test]
fn a_path_that_is_not_utf8_survives_json() {
    for bytes in [
        &b"plain"[..],
        b"",
        b"a\xffb",
        b"\x00\x80\n",
        "gr\u{fc}n".as_bytes(),
    ] {
        let path = GivenPath::new(bytes);
        let text = serde_json::to_string(&path).unwrap();
        let back: GivenPath = serde_json::from_str(&text).unwrap();
        assert_eq!(back.bytes(), bytes, "{text}");
        assert_eq!(
            text.contains("path_hex"),
            std::str::from_utf8(bytes).is_err()
        );
    }
}

#[test]
fn hostile_hex_is_ignored() {
    for hex in ["f", "zz", "+1", "ff0"] {
        let text = format!(r#"{{"path":"p","path_hex":"{hex}"}}"#);
        let path: GivenPath = serde_json::from_str(&text).unwrap();
        assert_eq!(path.bytes(), b"p", "{hex}");
    }
}

#[test]
fn joined_paths_have_one_slash() {
    assert_eq!(GivenPath::new(b"/").join(b"a").bytes(), b"/a");
    assert_eq!(GivenPath::new(b"d").join(b"a/b").bytes(), b"d/a/b");
    assert_eq!(GivenPath::new(b"d").join(b"").bytes(), b"d");
}

#[test]
fn schema_stands_first_and_round_trips() {
    let accepted = Accepted {
        request: 7,
        known: false,
    };
    let text = serde_json::to_string(&Tagged::from(accepted)).unwrap();
    assert_eq!(
        text,
        r#"{"schema":"cairn.accepted.v1","request":7,"known":false}"#
    );
    let back: Tagged<Accepted> = serde_json::from_str(&text).unwrap();
    assert_eq!(back.body, accepted);
}

#[test]
fn schemas_are_distinct() {
    let mut names = SCHEMAS.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SCHEMAS.len());
}

#[test]
fn a_moment_outside_what_rfc3339_can_say_does_not_panic() {
    use std::time::{Duration, UNIX_EPOCH};
    let before = When(UNIX_EPOCH - Duration::from_secs(5));
    assert_eq!(before.to_string(), "1970-01-01T00:00:00.000Z");
    assert!(
        When(UNIX_EPOCH + Duration::from_secs(1 << 40))
            .to_string()
            .starts_with("9999")
    );
    assert_eq!(
        When::from_unix(u64::MAX).to_string(),
        "9999-12-31T23:59:59.000Z"
    );
}

#[test]
fn plans_of_parts_add_up_and_the_sum_must_fit() {
    let cost = |currency: &str, once: &str, monthly: &str| Cost {
        currency: currency.to_owned(),
        once: once.parse().unwrap(),
        monthly: monthly.parse().unwrap(),
    };
    let part = |bytes| Plan {
        verb: Verb::Stage,
        files: 1,
        bytes,
        eta_s: Some(2),
        in_parts: false,
        pins: None,
        fits: true,
        room: Some(10),
        cost: vec![cost("USD", "0.1", "0.00005")],
        skipped: vec![],
        skipped_files: 0,
    };
    let sum = part(6).and(part(4));
    assert_eq!(
        (sum.files, sum.bytes, sum.eta_s, sum.fits),
        (2, 10, Some(4), true)
    );
    assert!(!part(6).and(part(5)).fits);
    let other = Plan {
        cost: vec![cost("EUR", "1", "0")],
        ..part(1)
    };
    let both = [cost("USD", "0.2", "0.0001"), cost("EUR", "1", "0")];
    assert_eq!(sum.and(other.clone()).cost, both);
    let json = serde_json::to_value(&other).unwrap();
    let says = serde_json::json!([{"currency": "EUR", "once": "1.00", "monthly": "0.00"}]);
    assert_eq!(json["cost"], says);
    assert_eq!(serde_json::from_value::<Plan>(json).unwrap(), other);
    let free = Plan {
        cost: vec![],
        ..other
    };
    let json = serde_json::to_value(&free).unwrap();
    assert!(json.get("cost").is_none());
    assert_eq!(serde_json::from_value::<Plan>(json).unwrap(), free);
}
