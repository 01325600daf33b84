//! Finding out what a service does, by doing it: below `PREFIX/probe/`, with objects of a few bytes.
//!
//! Invariant kept here: nothing is believed that was not seen. That a wrong checksum is refused counts
//! only because the very same request with the right one was taken behind it; what failed for another reason is an
//! error, and is asked again later, never remembered as "cannot".

use super::able::{self, Able, FORMAT, Multipart, VERSION, Versions, Whose};
use super::failure::{Came, Failure, Verb, Verdict};
use super::keys::PROBE;
use super::object::{self, Range};
use super::service::Service;
use super::upload::{self, Part, Target};
use crate::id::InstanceId;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockEnabled};
use bytes::Bytes;
use cairn_mover::Crc32c;
use std::future::Future;
use std::time::SystemTime;

const DATA: &[u8] = b"what is written here is gone in a moment";
/// Objects that are made at most.
const KEYS: usize = 4;

/// What was remembered; `None`: nothing that counts for this version and this service.
pub(super) async fn remembered(service: &Service) -> Result<Option<Able>, Failure> {
    match object::small(service, &service.keys.of(PROBE)).await {
        Ok((text, _)) => Ok(Able::parse(&text).filter(|able| able.is_of(&whose(service)))),
        Err(failure) if failure.verdict() == Verdict::Missing => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The service that answers, here and now.
pub(super) fn whose(service: &Service) -> Whose {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Whose {
        endpoint: service.place.service().to_owned(),
        bucket: service.place.bucket.clone(),
        server: service.server(),
        now: since.map_or(0, |t| t.as_secs()),
    }
}

/// Tries all of it, and remembers it.
pub(super) async fn anew(service: &Service) -> Result<Able, Failure> {
    let nonce = InstanceId::random();
    let keys: [String; KEYS] =
        std::array::from_fn(|n| format!("{}{nonce}-{n}", service.keys.tried()));
    let found = tries(service, &keys).await;
    for key in &keys {
        if let Err(failure) = service.again(|| object::delete(service, key)).await {
            let why = failure.message;
            tracing::warn!(tier = service.label, key, why, "a thing tried out remains");
        }
    }
    let able = found?;
    let text = serde_json::to_vec_pretty(&able);
    let text = text.map_err(|e| Failure::broken(Verb::Put, e.to_string()))?;
    let request = || async {
        let request = service.client.put_object().bucket(&service.place.bucket);
        let request = request
            .key(service.keys.of(PROBE))
            .content_type("application/json")
            .checksum_crc32_c(upload::base64(Crc32c::of(&text)))
            .body(ByteStream::from(text.clone()));
        request
            .send()
            .await
            .map(drop)
            .map_err(|e| Failure::of(Verb::Put, e))
    };
    service.often(Verb::Put, 0, request).await?;
    Ok(able)
}

/// `what`: which of the things that are tried out.
fn target<'a>(key: &'a str, what: &'a str, exclusively: bool) -> Target<'a> {
    Target {
        key,
        put: what,
        class: None,
        exclusively,
    }
}

async fn tries(service: &Service, keys: &[String; KEYS]) -> Result<Able, Failure> {
    let [first, second, ..] = keys;
    let data = Bytes::from_static(DATA);
    let right = Crc32c::of(DATA);
    let wrong = Crc32c(!right.0);
    let put = |key, crc, exclusively| {
        upload::whole(
            service,
            target(key, "whole", exclusively),
            data.clone(),
            crc,
        )
    };
    let echoes = settled(service, || put(first, right, false)).await?;
    let echoes = echoes.is_some();
    let refuses_wrong_object = able::refused(settled(service, || put(second, wrong, false)).await)?;
    settled(service, || put(second, right, false)).await?;
    let conditional_put = able::held(settled(service, || put(first, right, true)).await)?;
    let range = service.again(|| object::range(service, first, 5, 7)).await;
    let range = range.map_err(|failure| match failure.came {
        Came::Broken => none_of(failure),
        _ => failure,
    })?;
    if range != Range::Bytes(data.slice(5..12)) {
        return Err(Failure::broken(
            Verb::Get,
            "a range has other bytes than were written",
        ));
    }
    let seen = service.again(|| object::head(service, first)).await?;
    let parts = in_parts(service, keys).await?;
    let (versions, locked) = keeps(service).await?;
    let of = whose(service);
    Ok(Able {
        format: FORMAT.to_owned(),
        version: VERSION,
        probed: of.now,
        endpoint: of.endpoint,
        bucket: of.bucket,
        server: of.server,
        echoes_checksum: echoes,
        refuses_wrong_object,
        refuses_wrong_part: parts.refuses_wrong_part,
        refuses_wrong_whole: parts.refuses_wrong_whole,
        returns_checksum: seen.crc == Some(upload::base64(right)),
        conditional_put,
        conditional_complete: parts.conditional,
        multipart: parts.how,
        lists_uploads: parts.listed,
        versions,
        locked,
    })
}

/// It does not give ranges of objects: without those, nothing can be read by itself.
fn none_of(failure: Failure) -> Failure {
    Failure {
        came: Came::Answered(501),
        message: format!("no range of an object is to be had ({})", failure.message),
        ..failure
    }
}

/// Until it is known whether the service takes it: what fails on the way is repeated, also a checksum
/// that was refused, once: bytes may have been damaged.
async fn settled<T, F>(service: &Service, run: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut digests = 0;
    let mut tried = 0;
    loop {
        tried += 1;
        match run().await {
            Err(failure) if failure.verdict() == Verdict::Digest => {
                digests += 1;
                if digests == 2 {
                    return Err(failure);
                }
            }
            // It took what has another sum than was said: that is an answer.
            Err(failure) if failure.code == upload::OTHER_SUM => return Err(failure),
            Err(failure) if failure.passes() && tried < super::service::TRIES => {}
            other => return other,
        }
        service.pause(tried).await;
    }
}

/// What is known of objects in parts.
struct InParts {
    how: Multipart,
    refuses_wrong_part: bool,
    refuses_wrong_whole: bool,
    conditional: bool,
    listed: bool,
}

async fn in_parts(service: &Service, keys: &[String; KEYS]) -> Result<InParts, Failure> {
    let mut found = InParts {
        how: Multipart::None,
        refuses_wrong_part: false,
        refuses_wrong_whole: false,
        conditional: false,
        listed: false,
    };
    for how in [
        Multipart::FullObject,
        Multipart::Composite,
        Multipart::Plain,
    ] {
        let [first, _, third, fourth] = keys;
        let Some((refuses_wrong_part, listed)) = sent(service, third, how).await? else {
            continue;
        };
        found.refuses_wrong_part = refuses_wrong_part;
        found.listed = listed;
        let right = Crc32c::of(DATA);
        // The first key has an object by now.
        let again = finished(service, target(first, "again", true), how, right).await;
        found.conditional = able::held(again)?;
        if how == Multipart::FullObject {
            let whole = |crc| finished(service, target(fourth, "sum", false), how, crc);
            found.refuses_wrong_whole = able::refused(whole(Crc32c(!right.0)).await)?;
            whole(right).await?;
        }
        found.how = how;
        break;
    }
    Ok(found)
}

/// An upload with a wrong part and a right one, finished; `None`: the service does not take it so.
/// Else: was the wrong one refused, and could the upload be found meanwhile?
async fn sent(
    service: &Service,
    key: &str,
    how: Multipart,
) -> Result<Option<(bool, bool)>, Failure> {
    let create = || upload::create(service, target(key, "parts", false), how);
    let Some(id) = able::known(service.again(create).await)? else {
        return Ok(None);
    };
    let done = sent_to(service, key, &id, how).await;
    if !matches!(done, Ok(Some(_))) {
        service.again(|| upload::abort(service, key, &id)).await?;
    }
    done
}

async fn sent_to(
    service: &Service,
    key: &str,
    id: &str,
    how: Multipart,
) -> Result<Option<(bool, bool)>, Failure> {
    let data = Bytes::from_static(DATA);
    let right = Crc32c::of(DATA);
    let part = |crc| upload::part(service, (key, id), 1, (data.clone(), crc), how);
    let wrong = settled(service, || async { part(Crc32c(!right.0)).await.map(drop) });
    let refused = how != Multipart::Plain && able::refused(wrong.await)?;
    let Some(part) = able::known(service.again(|| part(right)).await)? else {
        return Ok(None);
    };
    let listed = able::known(upload::unfinished(service, key).await)?;
    let listed = listed.is_some_and(|found| found.iter().any(|u| u.id == id));
    let parts = [part];
    let all = (DATA.len() as u64, right);
    let target = target(key, "parts", false);
    let done = completed(service, target, id, &parts, all, how);
    Ok(able::known(done.await)?.map(|()| (refused, listed)))
}

/// The object is made, also if the answer to that was lost, or is not understood.
async fn completed(
    service: &Service,
    target: Target<'_>,
    id: &str,
    parts: &[Part],
    all: (u64, Crc32c),
    how: Multipart,
) -> Result<(), Failure> {
    let run = || async {
        let done = upload::complete(service, target, id, parts, all, how).await;
        let Err(failure) = done.map(drop) else {
            return Ok(());
        };
        let verdict = failure.verdict();
        if matches!(
            verdict,
            Verdict::Unknown | Verdict::Silent | Verdict::NoUpload
        ) && let Ok(seen) = object::head(service, target.key).await
            && seen.put.as_deref() == Some(target.put)
        {
            return Ok(());
        }
        Err(failure)
    };
    settled(service, run).await
}

/// An upload of one part, finished with `whole` as the checksum of all of it.
async fn finished(
    service: &Service,
    target: Target<'_>,
    how: Multipart,
    whole: Crc32c,
) -> Result<(), Failure> {
    let (data, right) = (Bytes::from_static(DATA), Crc32c::of(DATA));
    let id = service
        .again(|| upload::create(service, target, how))
        .await?;
    let part = || upload::part(service, (target.key, &id), 1, (data.clone(), right), how);
    let parts = [service.again(part).await?];
    let all = (DATA.len() as u64, whole);
    let done = completed(service, target, &id, &parts, all, how).await;
    if done.is_err() {
        service
            .again(|| upload::abort(service, target.key, &id))
            .await?;
    }
    done
}

/// Does the bucket keep what is deleted? Who may not ask does not know, nor who does not understand the answer.
async fn keeps(service: &Service) -> Result<(Versions, bool), Failure> {
    let bucket = &service.place.bucket;
    let request = || async {
        let request = service.client.get_bucket_versioning().bucket(bucket);
        match request.send().await {
            Ok(answer) => Ok(versions(answer.status())),
            Err(error) => unless_garbled(Failure::of(Verb::Versioning, error), Versions::Unknown),
        }
    };
    let versions = able::known(service.often(Verb::Versioning, 0, request).await)?;
    let request = || async {
        let request = service.client.get_object_lock_configuration();
        match request.bucket(bucket).send().await {
            Ok(answer) => Ok(answer.object_lock_configuration),
            Err(error) => unless_garbled(Failure::of(Verb::Lock, error), None),
        }
    };
    let lock = able::known(service.often(Verb::Lock, 0, request).await)?;
    let locked = lock.flatten().and_then(|lock| lock.object_lock_enabled);
    let versions = versions.unwrap_or(Versions::Unknown);
    Ok((versions, locked == Some(ObjectLockEnabled::Enabled)))
}

fn versions(status: Option<&BucketVersioningStatus>) -> Versions {
    match status {
        None => Versions::Off,
        Some(BucketVersioningStatus::Enabled) => Versions::On,
        Some(_) => Versions::Suspended,
    }
}

fn unless_garbled<T>(failure: Failure, unknown: T) -> Result<T, Failure> {
    if failure.came == Came::Garbled {
        Ok(unknown)
    } else {
        Err(failure)
    }
}
