//! Objects in archive classes: asked for, and looked at.
//!
//! Invariant kept here: an object is asked for only if it is in such a class, has no restored copy, and is not on its
//! way: each request is paid for. What the service says of it counts, not what anybody here remembers; so it is asked for
//! once also over restarts.

use super::failure::{Failure, Verb, Verdict};
use super::object;
use super::service::Service;
use crate::tier::Restoring;
use crate::tier::s3::options::RestoreTier;
use aws_sdk_s3::types::{GlacierJobParameters, RestoreRequest, Tier};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// How an object stands; it is asked for if that is of use.
pub(super) async fn ask(service: &Service, key: &str) -> Result<Restoring, Failure> {
    let seen = object::head(service, key).await?;
    let Some(cold) = cold(&seen) else {
        return Ok(Restoring::Ready);
    };
    let wanted = service.place.restore_tier.unwrap_or(RestoreTier::Standard);
    let coming = Restoring::Coming {
        takes: Some(takes(cold, wanted)),
    };
    match seen.restore.as_deref().map(is_under_way) {
        Some(true) => Ok(coming),
        Some(false) => Ok(Restoring::Ready),
        None => match request(service, key, cold, wanted).await {
            Ok(()) => Ok(coming),
            Err(failure) => match failure.code.as_str() {
                // Somebody else was quicker; or it is there by now.
                "RestoreAlreadyInProgress" => Ok(coming),
                "ObjectAlreadyInActiveTierError" => Ok(Restoring::Ready),
                _ => Err(failure),
            },
        },
    }
}

/// A class that an object must be restored from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cold {
    Glacier,
    Deep,
    /// Where the service moved it by itself, and moves it back.
    Moved,
    /// The same, deeper.
    MovedDeep,
}

impl Cold {
    /// The class of that name, if it is one.
    pub(super) fn of_class(class: &str) -> Option<Self> {
        match class {
            "GLACIER" => Some(Self::Glacier),
            "DEEP_ARCHIVE" => Some(Self::Deep),
            _ => None,
        }
    }
}

fn cold(seen: &object::Seen) -> Option<Cold> {
    match (seen.class.as_deref(), seen.archive.as_deref()) {
        (_, Some("ARCHIVE_ACCESS")) => Some(Cold::Moved),
        (_, Some("DEEP_ARCHIVE_ACCESS")) => Some(Cold::MovedDeep),
        (Some(class), _) => Cold::of_class(class),
        (None, _) => None,
    }
}

/// `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`
fn is_under_way(said: &str) -> bool {
    !said.contains("ongoing-request=\"false\"")
}

/// The longest that the service says such a retrieval takes (S3 user guide, "Archive retrieval options").
pub(super) fn takes(cold: Cold, tier: RestoreTier) -> Duration {
    match (cold, tier) {
        (Cold::Glacier | Cold::Moved, RestoreTier::Expedited) => HOUR / 12,
        (Cold::Glacier | Cold::Moved, RestoreTier::Standard) => 5 * HOUR,
        (Cold::Glacier | Cold::Moved, RestoreTier::Bulk) => 12 * HOUR,
        // There is no faster one.
        (Cold::Deep | Cold::MovedDeep, RestoreTier::Expedited | RestoreTier::Standard) => 12 * HOUR,
        (Cold::Deep | Cold::MovedDeep, RestoreTier::Bulk) => 48 * HOUR,
    }
}

async fn request(
    service: &Service,
    key: &str,
    cold: Cold,
    wanted: RestoreTier,
) -> Result<(), Failure> {
    let tier = match (cold, wanted) {
        (_, RestoreTier::Bulk) => Tier::Bulk,
        (Cold::Glacier | Cold::Moved, RestoreTier::Expedited) => Tier::Expedited,
        (_, RestoreTier::Standard | RestoreTier::Expedited) => Tier::Standard,
    };
    let job = GlacierJobParameters::builder().tier(tier).build();
    let job = job.map_err(|e| Failure::broken(Verb::Restore, e.to_string()))?;
    // What the service moved comes back for good: there is no copy that would stay for days.
    let copied = matches!(cold, Cold::Glacier | Cold::Deep);
    let days = copied.then(|| i32::from(service.place.days()));
    let wish = RestoreRequest::builder().set_days(days);
    let wish = wish.glacier_job_parameters(job).build();
    let request = async {
        let request = service.client.restore_object();
        let request = request.bucket(&service.place.bucket).key(key);
        let answer = request.restore_request(wish).send().await;
        answer.map(drop).map_err(|e| Failure::of(Verb::Restore, e))
    };
    match service.once(Verb::Restore, 0, request).await {
        // A lost answer: how it stands is asked next.
        Err(failure) if matches!(failure.verdict(), Verdict::Unknown | Verdict::Silent) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_says_of_a_restore_is_read_as_it_stands() {
        assert!(is_under_way("ongoing-request=\"true\""));
        let done = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"";
        assert!(!is_under_way(done));
        assert_eq!(takes(Cold::Glacier, RestoreTier::Standard), 5 * HOUR);
        assert_eq!(takes(Cold::Deep, RestoreTier::Expedited), 12 * HOUR);
        assert_eq!(takes(Cold::Deep, RestoreTier::Bulk), 48 * HOUR);
    }
}
