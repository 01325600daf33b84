//! Tests of the table from a service's words to what callers do.

use super::*;
use crate::tier::ErrorKind;
use aws_sdk_s3::config::http::HttpResponse;

const OBJECT: AggregateId = AggregateId { epoch: 1, seq: 2 };

fn answered(verb: Verb, status: u16, code: &str) -> Failure {
    Failure {
        verb,
        came: Came::Answered(status),
        code: code.to_owned(),
        message: "as it says".to_owned(),
    }
}

fn check((failure, kind, says): (Failure, ErrorKind, &str)) {
    let shown = format!("{failure:?}");
    let error = failure.into_error("s3://b", "reading", Some(OBJECT));
    assert_eq!(error.kind(), kind, "{shown}");
    assert!(error.to_string().contains(says), "{shown}: {error}");
}

#[test]
fn words_about_rights_and_places_say_the_way_out() {
    let get = |status, code| answered(Verb::Get, status, code);
    let part = |status, code| answered(Verb::Part, status, code);
    for row in [
        (
            get(404, "NoSuchKey"),
            ErrorKind::Missing,
            "has no e00000001",
        ),
        (answered(Verb::Head, 404, ""), ErrorKind::Missing, "has no"),
        (
            get(404, "NoSuchBucket"),
            ErrorKind::Unavailable,
            "Make the bucket",
        ),
        (
            get(403, "InvalidAccessKeyId"),
            ErrorKind::Unavailable,
            "AWS_PROFILE",
        ),
        (
            get(403, "SignatureDoesNotMatch"),
            ErrorKind::Unavailable,
            "AWS_PROFILE",
        ),
        (
            get(400, "ExpiredToken"),
            ErrorKind::Unavailable,
            "AWS_PROFILE",
        ),
        (
            get(403, "RequestTimeTooSkewed"),
            ErrorKind::Unavailable,
            "clock",
        ),
        (
            get(403, "AccessDenied"),
            ErrorKind::Unavailable,
            "must allow s3:GetObject;",
        ),
        (
            part(403, "AccessDenied"),
            ErrorKind::Unavailable,
            "UploadPart 403",
        ),
        (
            answered(Verb::Head, 403, ""),
            ErrorKind::Unavailable,
            "s3:ListBucket",
        ),
        (
            answered(Verb::Abort, 403, "AccessDenied"),
            ErrorKind::Unavailable,
            "s3:AbortMultipartUpload",
        ),
        (
            get(301, "PermanentRedirect"),
            ErrorKind::Unavailable,
            "region=",
        ),
        (
            get(403, "InvalidObjectState"),
            ErrorKind::NotRestored,
            "restore",
        ),
        (get(503, "SlowDown"), ErrorKind::Transient, "503"),
    ] {
        check(row);
    }
}

#[test]
fn every_other_word_asks_for_a_decision() {
    let get = |status, code| answered(Verb::Get, status, code);
    let part = |status, code| answered(Verb::Part, status, code);
    for row in [
        (get(500, "InternalError"), ErrorKind::Transient, "500"),
        (get(502, ""), ErrorKind::Transient, "502"),
        (
            get(400, "RequestTimeout"),
            ErrorKind::Transient,
            "RequestTimeout",
        ),
        (part(400, "BadDigest"), ErrorKind::Transient, "BadDigest"),
        (
            part(404, "NoSuchUpload"),
            ErrorKind::Transient,
            "NoSuchUpload",
        ),
        (
            part(404, ""),
            ErrorKind::Unavailable,
            "does not say what is not there",
        ),
        (
            get(404, "Gone"),
            ErrorKind::Unavailable,
            "does not say what is not there",
        ),
        (
            get(400, "InvalidRequest"),
            ErrorKind::Transient,
            "InvalidRequest",
        ),
        (
            part(400, "IncompleteBody"),
            ErrorKind::Transient,
            "IncompleteBody",
        ),
        (
            answered(Verb::Put, 412, "PreconditionFailed"),
            ErrorKind::Exists,
            "already has",
        ),
        (
            answered(Verb::Put, 409, "ConditionalRequestConflict"),
            ErrorKind::Transient,
            "Conditional",
        ),
        (
            answered(Verb::Put, 403, "QuotaExceeded"),
            ErrorKind::Full,
            "QuotaExceeded",
        ),
        (answered(Verb::Put, 507, ""), ErrorKind::Full, "507"),
        (
            answered(Verb::Put, 400, "EntityTooLarge"),
            ErrorKind::Full,
            "longer",
        ),
        (
            answered(Verb::Create, 501, "NotImplemented"),
            ErrorKind::Unavailable,
            "does not know",
        ),
        (get(418, "Teapot"), ErrorKind::Unavailable, "Teapot"),
        (Failure::late(Verb::Get), ErrorKind::Unavailable, "in time"),
        (
            Failure::broken(Verb::Get, "cut"),
            ErrorKind::Transient,
            "cut",
        ),
    ] {
        check(row);
    }
}

#[test]
fn what_is_about_no_object_is_never_called_missing_or_existing() {
    for (status, code) in [
        (404, "NoSuchKey"),
        (412, ""),
        (403, "InvalidObjectState"),
        (400, "InvalidRequest"),
    ] {
        let error = answered(Verb::Get, status, code).into_error("s3://b", "x", None);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{code}");
    }
}

#[test]
fn only_what_may_pass_is_tried_again() {
    for (failure, passes) in [
        (answered(Verb::Get, 503, "SlowDown"), true),
        (answered(Verb::Get, 429, ""), true),
        (answered(Verb::Part, 400, "BadDigest"), true),
        (Failure::late(Verb::Get), true),
        (Failure::broken(Verb::Get, ""), true),
        (answered(Verb::Get, 403, "AccessDenied"), false),
        (answered(Verb::Get, 404, "NoSuchKey"), false),
        (answered(Verb::Put, 412, "PreconditionFailed"), false),
        (
            answered(Verb::Put, 409, "ConditionalRequestConflict"),
            false,
        ),
        (answered(Verb::Get, 403, "RequestTimeTooSkewed"), false),
    ] {
        assert_eq!(failure.passes(), passes, "{failure:?}");
    }
}

type Sent = SdkError<aws_sdk_s3::operation::get_object::GetObjectError, HttpResponse>;

#[test]
fn without_an_answer_it_counts_whether_there_was_a_way() {
    use aws_sdk_s3::error::ConnectorError;
    let io = |kind: io::ErrorKind| {
        Sent::dispatch_failure(ConnectorError::io(io::Error::from(kind).into()))
    };
    for (error, came) in [
        (io(io::ErrorKind::ConnectionRefused), Came::Nowhere),
        (io(io::ErrorKind::HostUnreachable), Came::Nowhere),
        (io(io::ErrorKind::ConnectionReset), Came::Broken),
        (io(io::ErrorKind::UnexpectedEof), Came::Broken),
        (
            Sent::dispatch_failure(ConnectorError::io("dns error: no such host".into())),
            Came::Nowhere,
        ),
        (
            Sent::dispatch_failure(ConnectorError::timeout("slow".into())),
            Came::Late,
        ),
        (Sent::timeout_error("slow"), Came::Late),
        (
            Sent::dispatch_failure(ConnectorError::timeout(
                "HTTP connect timeout occurred after 5s".into(),
            )),
            Came::Nowhere,
        ),
        // Words of other things say nothing of whether it was sent; nor does a connection closed in good order.
        (
            Sent::dispatch_failure(ConnectorError::other(
                "no credentials in the chain".into(),
                None,
            )),
            Came::Broken,
        ),
        (
            Sent::dispatch_failure(ConnectorError::other(
                "connection closed before message completed".into(),
                Some(aws_smithy_types::retry::ErrorKind::TransientError),
            )),
            Came::Broken,
        ),
        (Sent::construction_failure("no region"), Came::Unsent),
    ] {
        let shown = format!("{error:?}");
        assert_eq!(Failure::of(Verb::Get, error).came, came, "{shown}");
    }
}

#[tokio::test]
async fn nothing_was_sent_only_where_nothing_can_have_been() {
    use aws_sdk_s3::error::ConnectorError;
    let failed = || {
        let why = "no credentials in the chain".into();
        Failure::of(
            Verb::Put,
            Sent::dispatch_failure(ConnectorError::other(why, None)),
        )
    };
    let before = watched(async { failed() }).await;
    assert_eq!(before.came, Came::Unsent);
    let after = watched(async {
        goes();
        failed()
    });
    let after = after.await;
    assert_eq!(
        (after.came, after.verdict()),
        (Came::Broken, Verdict::Unknown)
    );
    // One request says nothing of the next one.
    assert_eq!(watched(async { failed() }).await.came, Came::Unsent);
    assert_eq!(failed().came, Came::Broken, "nobody watched it");
}
