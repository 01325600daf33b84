//! The mark of a tier in a bucket: the same text as a directory's, in an object that is made only if
//! there is none, and that changes hands only while it is the one that was read.

use super::failure::{Failure, Verb, Verdict};
use super::keys::{MARK, PROBE};
use super::object;
use super::service::Service;
use super::upload::base64;
use crate::id::InstanceId;
use crate::tier::dir::mark as text;
use crate::tier::{Mark, TierError};
use aws_sdk_s3::primitives::ByteStream;
use cairn_mover::Crc32c;

const NOTE: &str = "A tier of Cairn. Every object below aggregates/ is a plain tar archive; extract them in the \
                    order of their names. Do not change what lies here by hand.";
const READING: &str = "reading the mark";
const WRITING: &str = "writing the mark";

pub(super) fn refused(service: &Service, why: String) -> TierError {
    TierError::Refused {
        place: service.label.clone(),
        why,
    }
}

/// The mark and its ETag; `None`: there is none, and the bucket is there.
pub(super) async fn read(service: &Service) -> Result<Option<(Mark, Option<String>)>, TierError> {
    match object::small(service, &service.keys.of(MARK)).await {
        Ok((bytes, etag)) => match text::parse(&bytes) {
            Ok(mark) => Ok(Some((mark, etag))),
            Err(why) => Err(refused(service, why.to_string())),
        },
        Err(failure) if failure.verdict() == Verdict::Missing => Ok(None),
        Err(failure) => Err(failure.into_error(&service.label, READING, None)),
    }
}

/// The mark, which must be there.
pub(super) async fn found(service: &Service) -> Result<(Mark, Option<String>), TierError> {
    let none = || TierError::Unavailable {
        tier: service.label.clone(),
        step: READING,
        why: format!("there is no {} in the bucket", service.keys.of(MARK)),
    };
    read(service).await?.ok_or_else(none)
}

pub(super) fn check_owner(
    service: &Service,
    mark: Mark,
    ours: InstanceId,
) -> Result<(), TierError> {
    if mark.owner == ours {
        return Ok(());
    }
    let why = format!(
        "it belongs to instance {}, this is {ours}. Choose another prefix; or, if that instance will never \
         write here again: cairn tier owner '{}' --state DIR --take {}",
        mark.owner, service.label, mark.owner
    );
    Err(refused(service, why))
}

/// Finds `wanted.owner`'s tier, or makes an empty prefix one; was it made now?
pub(super) async fn establish(service: &Service, wanted: Mark) -> Result<(Mark, bool), TierError> {
    if wanted.tier.0 == 0 {
        return Err(refused(service, "0 is no number of a tier".to_owned()));
    }
    let mut made = false;
    // Others may be at the same thing: the mark that is there in the end counts.
    for _ in 0..3 {
        if let Some((mark, _)) = read(service).await? {
            check_owner(service, mark, wanted.owner)?;
            return Ok((mark, made));
        }
        if let Some(key) = first_key(service).await? {
            // A tier gets its mark before anything else: it may have come in between.
            if read(service).await?.is_some() {
                continue;
            }
            let why = format!(
                "it is not empty (it holds {key:?}) and has no {MARK}. Choose an empty prefix; or, if this was a \
                 tier, restore its {MARK}"
            );
            return Err(refused(service, why));
        }
        match put(service, wanted, Condition::None).await {
            Ok(()) => made = true,
            Err(failure)
                if matches!(failure.verdict(), Verdict::Precondition | Verdict::Conflict) => {}
            Err(failure) => return Err(failure.into_error(&service.label, WRITING, None)),
        }
    }
    let (mark, _) = found(service).await?;
    check_owner(service, mark, wanted.owner)?;
    Ok((mark, made))
}

/// Any key below the prefix that is not what a probe left.
async fn first_key(service: &Service) -> Result<Option<String>, TierError> {
    let base = service.keys.base();
    let request = || async {
        let request = service.client.list_objects_v2();
        let request = request.bucket(&service.place.bucket).max_keys(10);
        let request = request.set_prefix((!base.is_empty()).then(|| base.to_owned()));
        request.send().await.map_err(|e| Failure::of(Verb::List, e))
    };
    let answer = service.often(Verb::List, 0, request).await;
    let answer = answer.map_err(|f| f.into_error(&service.label, "looking around", None))?;
    let keys = answer.contents().iter().filter_map(|object| object.key());
    let (tried, probe) = (service.keys.tried(), service.keys.of(PROBE));
    let mut strange = keys.filter(|key| !key.starts_with(&tried) && *key != probe);
    Ok(strange.next().map(str::to_owned))
}

/// When a mark is written.
enum Condition<'a> {
    /// There is none.
    None,
    /// There is this one.
    Is(&'a str),
    /// In any case: for services that know no conditions.
    Any,
}

async fn put(service: &Service, mark: Mark, condition: Condition<'_>) -> Result<(), Failure> {
    let text = text::text(mark, NOTE).map_err(|e| Failure::broken(Verb::Put, e.to_string()))?;
    let request = || async {
        let request = service.client.put_object().bucket(&service.place.bucket);
        let request = request
            .key(service.keys.of(MARK))
            .content_type("application/json")
            // A bucket with object lock takes nothing without a checksum.
            .checksum_crc32_c(base64(Crc32c::of(&text)))
            .body(ByteStream::from(text.clone()));
        let request = match condition {
            Condition::None => request.if_none_match("*"),
            Condition::Is(etag) => request.if_match(etag),
            Condition::Any => request,
        };
        request
            .send()
            .await
            .map(drop)
            .map_err(|e| Failure::of(Verb::Put, e))
    };
    match service.often(Verb::Put, 0, request).await {
        Err(failure) if failure.verdict() == Verdict::NotBuilt => {
            // Without conditions: what is there afterwards is read again by the caller.
            Box::pin(put(service, mark, Condition::Any)).await
        }
        other => other,
    }
}

/// Gives the tier from one instance to another; its number stays.
pub(super) async fn take(
    service: &Service,
    from: InstanceId,
    to: InstanceId,
) -> Result<Mark, TierError> {
    let (mark, etag) = found(service).await?;
    if mark.owner != from {
        let why = format!("it belongs to instance {} by now", mark.owner);
        return Err(refused(service, why));
    }
    let wanted = Mark { owner: to, ..mark };
    let condition = etag.as_deref().map_or(Condition::Any, Condition::Is);
    match put(service, wanted, condition).await {
        Ok(()) => {}
        // A lost answer to a write that went well looks the same; what is there decides.
        Err(failure) if failure.verdict() == Verdict::Precondition => {}
        Err(failure) => return Err(failure.into_error(&service.label, WRITING, None)),
    }
    let (mark, _) = found(service).await?;
    if mark.owner != to {
        let why = format!("it belongs to instance {} by now", mark.owner);
        return Err(refused(service, why));
    }
    Ok(mark)
}
