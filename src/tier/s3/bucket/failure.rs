//! What a service, or the way to it, said instead of an answer, and what callers do about it.
//!
//! Promises: the tables are exhaustive over [`Verdict`] and [`Verb`], so that neither is added without
//! deciding what is said and done. No credential is ever part of what is said. That nothing was sent is said only where
//! it is certain; that an object is missing, only where the service said so of a key, and not of anything else.

use crate::id::AggregateId;
use crate::tier::TierError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::cell::Cell;
use std::error::Error;
use std::future::Future;
use std::io;

/// A request, by its name in the service's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Put,
    Get,
    Head,
    Delete,
    List,
    Create,
    Part,
    Complete,
    Abort,
    Copy,
    Restore,
    Uploads,
    Versioning,
    Lock,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Put => "PutObject",
            Self::Get => "GetObject",
            Self::Head => "HeadObject",
            Self::Delete => "DeleteObject",
            Self::List => "ListObjectsV2",
            Self::Create => "CreateMultipartUpload",
            Self::Part => "UploadPart",
            Self::Complete => "CompleteMultipartUpload",
            Self::Abort => "AbortMultipartUpload",
            Self::Copy => "CopyObject",
            Self::Restore => "RestoreObject",
            Self::Uploads => "ListMultipartUploads",
            Self::Versioning => "GetBucketVersioning",
            Self::Lock => "GetObjectLockConfiguration",
        }
    }

    /// The action that a policy must allow.
    pub(super) fn action(self) -> &'static str {
        match self {
            Self::Put | Self::Create | Self::Part | Self::Complete => "s3:PutObject",
            Self::Copy => "s3:GetObject and s3:PutObject",
            Self::Restore => "s3:RestoreObject",
            Self::Get => "s3:GetObject",
            Self::Head => {
                "s3:GetObject (and s3:ListBucket, without which what is missing looks like this)"
            }
            Self::Delete => "s3:DeleteObject",
            Self::List => "s3:ListBucket",
            Self::Abort => "s3:AbortMultipartUpload",
            Self::Uploads => "s3:ListBucketMultipartUploads",
            Self::Versioning => "s3:GetBucketVersioning",
            Self::Lock => "s3:GetBucketObjectLockConfiguration",
        }
    }
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// It was answered, with a status.
    Answered(u16),
    /// No connection: refused, no such host, no route, no trust.
    Nowhere,
    /// No answer in time.
    Late,
    /// The connection broke, or the answer makes no sense.
    Broken,
    /// It did what was asked, and said so in words that are not understood.
    Garbled,
    /// It was not even sent: no credentials, no region.
    Unsent,
}

tokio::task_local! {
    /// Of the request that this task is at: did it go on its way?
    static SENT: Cell<bool>;
}

/// Runs one request, so that it is known afterwards whether it went on its way.
pub(super) fn watched<T>(request: impl Future<Output = T>) -> impl Future<Output = T> {
    SENT.scope(Cell::new(false), request)
}

/// The request of this task is whole, signed, and goes to the service now.
pub(super) fn goes() {
    // Whoever asks outside of such a request knows nothing, and gets no certainty.
    let _ = SENT.try_with(|sent| sent.set(true));
}

/// Certainly nothing of it was sent.
fn is_unsent() -> bool {
    SENT.try_with(|sent| !sent.get()).unwrap_or(false)
}

/// What is to be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is no such object: the service says so of the key, or could not say more (an answer to HEAD has no words).
    Missing,
    /// Something is not there, and it was not said what.
    Unsaid,
    /// There is no such bucket.
    NoBucket,
    /// There is no such upload.
    NoUpload,
    /// The service does not believe who asks.
    Credentials,
    /// The clocks of here and there differ too much.
    Clock,
    /// Who asks may not do this.
    Denied,
    /// Another region or host has the bucket.
    Elsewhere,
    /// The condition of the request did not hold.
    Precondition,
    /// Somebody else writes the same key just now.
    Conflict,
    /// The object is in an archive class and was not restored.
    Archived,
    /// A range beyond the object's end.
    Range,
    /// What arrived has another checksum than was said.
    Digest,
    /// A quota, or the service's own disks.
    Full,
    /// Longer than the service takes.
    TooLong,
    /// The service does not know how.
    NotBuilt,
    /// Too much at once, or a bad moment: again, later.
    Passing,
    /// The way to the service broke; whether it did what was asked is not known.
    Unknown,
    /// It says nothing; whether it did what was asked is not known.
    Silent,
    /// No way to the service.
    Nowhere,
    /// It does not take this request, about this object.
    Bad,
    /// Anything else.
    Other,
}

/// A request that failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) verb: Verb,
    pub(super) came: Came,
    /// The service's word, or empty.
    pub(super) code: String,
    /// What it said, or what was seen.
    pub(super) message: String,
}

impl Failure {
    /// The answer makes no sense.
    pub(super) fn broken(verb: Verb, message: impl Into<String>) -> Self {
        Self {
            verb,
            came: Came::Broken,
            code: String::new(),
            message: message.into(),
        }
    }

    pub(super) fn late(verb: Verb) -> Self {
        Self {
            verb,
            came: Came::Late,
            code: String::new(),
            message: "no answer in time".to_owned(),
        }
    }

    pub(super) fn of<E>(verb: Verb, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let status = error.raw_response().map(|r| r.status().as_u16());
        let came = match &error {
            SdkError::ServiceError(inner)
                if status.is_some_and(|s| s < 300) && inner.err().code().is_none() =>
            {
                Came::Garbled
            }
            SdkError::ServiceError(_) => Came::Answered(status.unwrap_or(0)),
            SdkError::ConstructionFailure(_) => Came::Unsent,
            SdkError::TimeoutError(_) => Came::Late,
            SdkError::DispatchFailure(_) if is_unsent() => Came::Unsent,
            SdkError::DispatchFailure(failure) => how_far(failure.is_timeout(), &error),
            // Also what comes with an error's status and is none of the service's.
            SdkError::ResponseError(_) => match status {
                Some(status @ (429 | 500..)) => Came::Answered(status),
                _ => Came::Broken,
            },
            _ => Came::Broken,
        };
        let said = |error: &E| {
            let code = error.code().unwrap_or_default().to_owned();
            (code, error.message().unwrap_or_default().to_owned())
        };
        let (code, message) = match error.as_service_error() {
            Some(error) if came != Came::Garbled => said(error),
            _ => (String::new(), chain(&error)),
        };
        Self {
            verb,
            came,
            code,
            message,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.came {
            Came::Nowhere => Verdict::Nowhere,
            Came::Late => Verdict::Silent,
            Came::Broken | Came::Garbled => Verdict::Unknown,
            Came::Unsent => Verdict::Credentials,
            Came::Answered(status) => judge(self.verb, status, &self.code),
        }
    }

    /// Can the same request succeed in a moment?
    pub(super) fn passes(&self) -> bool {
        matches!(
            self.verdict(),
            Verdict::Passing
                | Verdict::Unknown
                | Verdict::Silent
                | Verdict::Digest
                | Verdict::Nowhere
        )
    }

    fn why(&self, hint: &str) -> String {
        let verb = self.verb.as_str();
        let status = match self.came {
            Came::Answered(status) if status > 0 => format!(" {status}"),
            _ => String::new(),
        };
        let word = [self.code.as_str(), self.message.as_str()];
        let said: Vec<&str> = word.into_iter().filter(|w| !w.is_empty()).collect();
        let hint = if hint.is_empty() {
            String::new()
        } else {
            format!(". {hint}")
        };
        format!("{verb}{status}: {}{hint}", said.join(": "))
    }

    /// For the caller of a tier. `object`: what the request was about, if it was one object.
    pub(super) fn into_error(
        self,
        tier: &str,
        step: &'static str,
        object: Option<AggregateId>,
    ) -> TierError {
        let away = |hint: &str| TierError::Unavailable {
            tier: tier.to_owned(),
            step,
            why: self.why(hint),
        };
        let full = |hint: &str| TierError::Full {
            tier: tier.to_owned(),
            step,
            why: self.why(hint),
        };
        let passing = || TierError::Transient {
            tier: tier.to_owned(),
            object: object.map_or_else(|| "all of it".to_owned(), |o| o.to_string()),
            step,
            source: io::Error::other(self.why("")),
        };
        match (self.verdict(), object) {
            (Verdict::Missing, Some(object)) => TierError::Missing {
                tier: tier.to_owned(),
                object,
            },
            (Verdict::Missing, None) => away("It was there, or should be"),
            (Verdict::Unsaid, _) => {
                away("It does not say what is not there: is it the service that answers?")
            }
            (Verdict::Precondition, Some(object)) => TierError::Exists {
                tier: tier.to_owned(),
                object,
            },
            (Verdict::Precondition, None) => away("Somebody else wrote it meanwhile"),
            (Verdict::Archived, Some(object)) => TierError::NotRestored {
                tier: tier.to_owned(),
                object,
                why: self
                    .why("It is in an archive class, and must be restored first"),
            },
            (Verdict::Archived, None) => away("It is in an archive class: restore it first"),
            (Verdict::NoBucket, _) => away("Make the bucket, or correct the URL: Cairn makes none"),
            (Verdict::Credentials, _) => away(
                "Credentials are taken as the AWS command line takes them: AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the machine; the region by region= or AWS_REGION",
            ),
            (Verdict::Clock, _) => away("The clock here and the service's differ: set this one"),
            (Verdict::Denied, _) => away(&format!(
                "The policy of these credentials must allow {}; docs/tiers.md has all of it",
                self.verb.action()
            )),
            (Verdict::Elsewhere, _) => {
                away("The bucket is of another region: name it with region=, and its endpoint")
            }
            (Verdict::NotBuilt, _) => away("The service does not know this"),
            (Verdict::Full, _) => full(""),
            (Verdict::TooLong, _) => full("It is longer than the service takes"),
            (Verdict::Nowhere, _) => away("Is the service up, and the endpoint right?"),
            // It was waited for long enough: nobody who repeats it is served better.
            (Verdict::Silent, _) => away("Is the service well?"),
            // An error of a range is judged where the range is known.
            (Verdict::Range | Verdict::Other, _) | (Verdict::Bad, None) => away(""),
            (
                Verdict::Passing
                | Verdict::Unknown
                | Verdict::Conflict
                | Verdict::Digest
                | Verdict::NoUpload,
                _,
            )
            // Nothing is known against the tier, nor against the object's bytes.
            | (Verdict::Bad, Some(_)) => passing(),
        }
    }
}

/// The one word for an object that is not there.
pub(super) const NO_SUCH_KEY: &str = "NoSuchKey";

/// The service's word first, then its number. Words: S3 API reference, "Error responses"; those of
/// Ceph, MinIO and s3s where they differ.
fn judge(verb: Verb, status: u16, code: &str) -> Verdict {
    match code {
        NO_SUCH_KEY | "NoSuchVersion" => Verdict::Missing,
        "NoSuchBucket" => Verdict::NoBucket,
        "NoSuchUpload" => Verdict::NoUpload,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidSecurity"
        | "UnrecognizedClientException"
        | "AuthorizationHeaderMalformed"
        | "NotSignedUp" => Verdict::Credentials,
        "RequestTimeTooSkewed" | "RequestExpired" => Verdict::Clock,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => Verdict::Denied,
        "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" => {
            Verdict::Elsewhere
        }
        "PreconditionFailed" => Verdict::Precondition,
        "ConditionalRequestConflict" | "OperationAborted" => Verdict::Conflict,
        "InvalidObjectState" => Verdict::Archived,
        "InvalidRange" => Verdict::Range,
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentChecksumMismatch"
        | "XAmzContentSHA256Mismatch" => Verdict::Digest,
        "QuotaExceeded" | "InsufficientCapacity" | "XMinioStorageFull" | "InsufficientStorage" => {
            Verdict::Full
        }
        "EntityTooLarge" => Verdict::TooLong,
        "NotImplemented" | "MethodNotAllowed" => Verdict::NotBuilt,
        "SlowDown"
        | "ServiceUnavailable"
        | "InternalError"
        | "RequestTimeout"
        | "IncompleteBody"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "BandwidthLimitExceeded" => Verdict::Passing,
        _ => match status {
            301 | 307 | 308 => Verdict::Elsewhere,
            401 => Verdict::Credentials,
            403 => Verdict::Denied,
            404 if verb == Verb::Head => Verdict::Missing,
            404 => Verdict::Unsaid,
            405 | 501 => Verdict::NotBuilt,
            409 => Verdict::Conflict,
            412 => Verdict::Precondition,
            413 => Verdict::TooLong,
            416 => Verdict::Range,
            507 => Verdict::Full,
            408 | 425 | 429 | 500 | 502 | 503 | 504 => Verdict::Passing,
            400 | 410 | 411 | 414 | 422 | 431 => Verdict::Bad,
            _ => Verdict::Other,
        },
    }
}

/// A request without an answer: was there a way at all? `timed`: the SDK's own clock ran out.
fn how_far(timed: bool, error: &(dyn Error + 'static)) -> Came {
    let mut at = Some(error);
    let mut connecting = false;
    while let Some(error) = at {
        let text = error.to_string();
        // The words of the HTTP client, whose types are its own.
        connecting |= CONNECTING.iter().any(|word| text.contains(word));
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        connecting |= matches!(
            kind,
            Some(
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
            )
        );
        at = error.source();
    }
    match (connecting, timed) {
        (true, _) => Came::Nowhere,
        (false, true) => Came::Late,
        // Also a connection that was closed in good order before an answer came.
        (false, false) => Came::Broken,
    }
}

/// What is said of a connection that did not come about.
const CONNECTING: [&str; 4] = [
    "dns error",
    "certificate",
    "client error (Connect)",
    "HTTP connect timeout",
];

/// What was seen, from the outside in: only what errors say of themselves, no requests.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut at = Some(error);
    while let Some(error) = at {
        let text = error.to_string();
        if said.last().is_none_or(|last| !last.contains(&text)) {
            said.push(text);
        }
        at = error.source();
    }
    said.join(": ")
}

#[cfg(test)]
mod tests;
