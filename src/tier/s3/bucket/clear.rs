//! Everything below a prefix, away with it: after a trial, whose prefix nobody else had.
//!
//! Invariant kept here: a prefix that is empty, and so the whole bucket, is never cleared.

use super::failure::{Failure, Verb, Verdict};
use super::service::Service;
use super::{object, upload};
use crate::tier::TierError;

const STEP: &str = "clearing what was tried";

/// # Errors
/// [`TierError`], and something remains.
pub(super) async fn all(service: &Service) -> Result<(), TierError> {
    let prefix = service.keys.base();
    if prefix.is_empty() {
        let why = "a whole bucket is not cleared".to_owned();
        return Err(super::mark::refused(service, why));
    }
    let cleared = async {
        // First what would make objects.
        let unfinished = match upload::unfinished(service, prefix).await {
            // What it does not list a lifecycle rule of the bucket must abort; the probe said so.
            Err(failure) if failure.verdict() == Verdict::NotBuilt => Vec::new(),
            found => found?,
        };
        for upload in unfinished {
            let abort = || upload::abort(service, &upload.key, &upload.id);
            service.again(abort).await?;
        }
        loop {
            let keys = some(service, prefix).await?;
            if keys.is_empty() {
                return Ok(());
            }
            for key in keys {
                service.again(|| object::delete(service, &key)).await?;
            }
        }
    };
    let cleared: Result<(), Failure> = cleared.await;
    cleared.map_err(|failure| failure.into_error(&service.label, STEP, None))
}

/// Some keys below the prefix; none: there is none.
async fn some(service: &Service, prefix: &str) -> Result<Vec<String>, Failure> {
    let request = || async {
        let request = service.client.list_objects_v2();
        let request = request.bucket(&service.place.bucket).prefix(prefix);
        request.send().await.map_err(|e| Failure::of(Verb::List, e))
    };
    let answer = service.often(Verb::List, 0, request).await?;
    let keys = answer.contents().iter().filter_map(|object| object.key());
    Ok(keys.map(str::to_owned).collect())
}
