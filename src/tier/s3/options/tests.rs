//! Tests of S3 URLs.

use super::*;
use crate::tier::{TierUrl, UrlError};
use proptest::prelude::*;

fn parse(text: &str) -> Result<TierUrl, UrlError> {
    text.parse()
}

#[test]
fn a_url_prints_as_it_was_written() {
    for text in [
        "s3://archive",
        "s3://archive/cairn/site 1",
        "s3://archive/a%25b%3Fc&d=e+f",
        "s3://archive/p?endpoint=http://127.0.0.1:5000&region=eu-central-1&storage-class=GLACIER&restore-tier=bulk&restore-days=7&part-size=16MiB&connections=4&path-style=false",
    ] {
        assert_eq!(parse(text).expect(text).to_string(), text);
    }
    let plain = parse("s3://archive/p/?part-size=8MiB&connections=16").expect("good");
    assert_eq!(plain.to_string(), "s3://archive/p");
    let slashed = parse("s3://archive/p?endpoint=HTTPS://s3.example.org/");
    assert_eq!(slashed.expect_err("scheme").part, "option endpoint");
    let slashed = parse("s3://archive/p?endpoint=https://S3.example.org/").expect("good");
    assert_eq!(
        slashed.to_string(),
        "s3://archive/p?endpoint=https://s3.example.org"
    );
}

#[test]
fn how_a_place_is_used_makes_it_no_other_place() {
    let place = |text: &str| parse(text).expect(text).place();
    assert_eq!(
        place("s3://archive/p"),
        place("s3://archive/p/?connections=4&storage-class=glacier")
    );
    assert_ne!(place("s3://archive/p"), place("s3://archive/q"));
    assert_ne!(
        place("s3://archive/p"),
        place("s3://archive/p?endpoint=http://h")
    );
}

#[test]
fn no_secret_is_taken_or_repeated() {
    for text in [
        "s3://AKIA:hush@archive/p",
        "s3://archive/p?endpoint=https://user:hush@host",
        "s3://archive/p?secret-key=hush",
        "s3://archive/p?AWS_SECRET_ACCESS_KEY=hush&region=x",
        "s3://archive/p?token=hush",
        "s3://archive/p?sesion=hush",
        "s3://archive/p?endpoint=user:hush@host",
    ] {
        let error = parse(text).expect_err(text);
        assert!(!error.to_string().contains("hush"), "{error}");
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
    let said = parse("s3://archive/p?secret-key=hush").expect_err("secret");
    assert!(said.to_string().contains("AWS_PROFILE"), "{said}");
}

fn check((text, part, says): (&str, &str, &str)) {
    let error = parse(text).expect_err(text);
    assert_eq!(error.part, part, "{text}");
    assert!(error.to_string().contains(says), "{text}: {error}");
}

#[test]
fn errors_of_a_place_say_the_way_out() {
    for row in [
        ("s3:archive", "path", "s3://BUCKET/PREFIX"),
        ("s3://", "path", "missing"),
        ("s3:///p", "path", "missing"),
        ("s3://ab", "path", "3 to 63"),
        ("s3://a b c", "path", "3 to 63"),
        ("s3://arch..ive", "path", "3 to 63"),
        ("s3://archive//p", "path", "\"//\""),
        ("s3://archive/p/../q", "path", "\"/../\""),
        ("s3://archive/%ff", "path", "UTF-8"),
        ("s3://archive/%00", "path", "control character"),
        ("s3://archive/a%0Ab", "path", "control character"),
        ("s3://archive/100%", "path", "%25"),
    ] {
        check(row);
    }
}

#[test]
fn errors_of_an_option_name_it_and_the_way_out() {
    for row in [
        (
            "s3://archive?endpont=http://h",
            "option endpont",
            "did you mean \"endpoint\"",
        ),
        (
            "s3://archive?rate=1MB/s",
            "option rate",
            "known are endpoint",
        ),
        ("s3://archive?region=a&region=b", "option region", "twice"),
        ("s3://archive?region=", "option region", "eu-central-1"),
        ("s3://archive?endpoint=h", "option endpoint", "https://HOST"),
        (
            "s3://archive?endpoint=ftp://h",
            "option endpoint",
            "https://HOST",
        ),
        (
            "s3://archive?endpoint=http://h/x",
            "option endpoint",
            "no host",
        ),
        (
            "s3://archive?endpoint=http://h:0",
            "option endpoint",
            "no host",
        ),
        (
            "s3://archive?storage-class=GLACIAL",
            "option storage-class",
            "did you mean \"GLACIER\"",
        ),
        (
            "s3://archive?restore-tier=slow",
            "option restore-tier",
            "bulk, standard, expedited",
        ),
        (
            "s3://archive?restore-days=0",
            "option restore-days",
            "1 to 365",
        ),
        ("s3://archive?part-size=4MiB", "option part-size", "5MiB"),
        (
            "s3://archive?part-size=257MiB",
            "option part-size",
            "256MiB",
        ),
        (
            "s3://archive?connections=0",
            "option connections",
            "1 to 256",
        ),
        (
            "s3://archive?path-style=yes",
            "option path-style",
            "true or false",
        ),
        (
            "s3://archive?storage-class=DEEP_ARCHIVE&restore-tier=expedited",
            "option restore-tier",
            "standard or bulk",
        ),
    ] {
        check(row);
    }
}

proptest! {
    #[test]
    fn any_prefix_prints_and_parses_back(parts in prop::collection::vec("[^/\\p{Cc}]{1,12}", 1..4)) {
        let prefix = parts.join("/");
        prop_assume!(!prefix.split('/').any(|p| matches!(p, "." | "..")));
        let mut place = S3Place::parse("//archive").expect("bucket");
        place.prefix = prefix;
        let url = TierUrl::S3(Box::new(place));
        prop_assert_eq!(parse(&url.to_string()), Ok(url));
    }

    #[test]
    fn no_text_panics(text: String) {
        let _ = parse(&format!("s3://{text}"));
        let _ = parse(&format!("s3://archive/p?{text}"));
        let _ = parse(&format!("s3://archive/p?endpoint={text}"));
    }
}
