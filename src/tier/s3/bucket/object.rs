//! Single requests about single objects: what is there, a range of it, away with it.
//!
//! Invariant kept here: bytes are given only if the service said that they are this range of an
//! object, and exactly so many came. (Whether they are the right ones is known to who has the checksum.)

use super::failure::{Failure, Verb};
use super::service::Service;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use bytes::{Bytes, BytesMut};

/// In the object's own metadata: which put made it.
pub(super) const PUT_ID: &str = "cairn-put";
/// In the object's own metadata: CRC32C of all of it, eight hex digits, where that was known beforehand.
pub(super) const CRC: &str = "cairn-crc32c";

/// Beyond any object's end: what a signed offset takes.
const FARTHEST: u64 = 1 << 62;

/// What a service says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) len: u64,
    pub(super) put: Option<String>,
    /// What the put that made it wrote down of its CRC32C, if it could.
    pub(super) noted: Option<String>,
    /// The CRC32C that the service says, in its spelling: of all of it, or of the sums of its parts.
    pub(super) crc: Option<String>,
    /// It says that this is the sum of all of it.
    pub(super) of_all: bool,
    /// `None`: the service's usual one.
    pub(super) class: Option<String>,
    /// Within that, where the service moves it by itself.
    pub(super) archive: Option<String>,
    /// What it says of a restored copy.
    pub(super) restore: Option<String>,
}

/// A part of an object, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Range {
    Bytes(Bytes),
    /// The object ends before; its length, where the service said it.
    Short(Option<u64>),
}

/// # Errors
/// Its verdict is `Missing` if there is none.
pub(super) async fn head(service: &Service, key: &str) -> Result<Seen, Failure> {
    let request = async {
        let request = service.client.head_object();
        let request = request.bucket(&service.place.bucket).key(key);
        let answer = request.checksum_mode(ChecksumMode::Enabled).send().await;
        let answer = answer.map_err(|e| Failure::of(Verb::Head, e))?;
        let len = answer.content_length().and_then(|n| u64::try_from(n).ok());
        let (Some(len), Some(_)) = (len, answer.e_tag()) else {
            return Err(Failure::broken(
                Verb::Head,
                "no length or ETag in the answer",
            ));
        };
        let noted = |key: &str| answer.metadata().and_then(|m| m.get(key)).cloned();
        Ok(Seen {
            len,
            put: noted(PUT_ID),
            noted: noted(CRC),
            crc: answer.checksum_crc32_c().map(str::to_owned),
            of_all: answer.checksum_type() == Some(&ChecksumType::FullObject),
            class: answer.storage_class().map(|c| c.as_str().to_owned()),
            archive: answer.archive_status().map(|a| a.as_str().to_owned()),
            restore: answer.restore().map(str::to_owned),
        })
    };
    service.once(Verb::Head, 0, request).await
}

/// `len` bytes at `offset`; `len` is not 0.
pub(super) async fn range(
    service: &Service,
    key: &str,
    offset: u64,
    len: u64,
) -> Result<Range, Failure> {
    service
        .once(
            Verb::Get,
            len,
            one_range(service, key, (offset, len), false),
        )
        .await
}

/// The same, or what there is of it where the object ends before.
pub(super) async fn up_to(
    service: &Service,
    key: &str,
    offset: u64,
    len: u64,
) -> Result<Range, Failure> {
    service
        .once(Verb::Get, len, one_range(service, key, (offset, len), true))
        .await
}

async fn one_range(
    service: &Service,
    key: &str,
    (offset, len): (u64, u64),
    may_end: bool,
) -> Result<Range, Failure> {
    // No object goes so far, and some services take such a range for a mistake.
    let Some(last) = offset.checked_add(len - 1).filter(|last| *last < FARTHEST) else {
        return Ok(Range::Short(None));
    };
    let request = service.client.get_object().bucket(&service.place.bucket);
    let request = request.key(key).range(format!("bytes={offset}-{last}"));
    let mut answer = match request.send().await.map_err(|e| Failure::of(Verb::Get, e)) {
        Ok(answer) => answer,
        Err(failure) if failure.verdict() == super::failure::Verdict::Range => {
            return Ok(Range::Short(None));
        }
        Err(failure) => return Err(failure),
    };
    let broken = |why: String| Failure::broken(Verb::Get, why);
    let said = answer.content_range().unwrap_or_default();
    let Some((first, end, total)) = parse_range(said) else {
        return Err(broken(format!("asked for a range, answered {said:?}")));
    };
    let ends = first == offset && (first..last).contains(&end) && total == Some(end + 1);
    if ends && !may_end {
        return Ok(Range::Short(total));
    }
    if !ends && (first, end) != (offset, last) {
        return Err(broken(format!(
            "asked for {offset}-{last}, answered {said:?}"
        )));
    }
    let len = if ends { end - first + 1 } else { len };
    let count = usize::try_from(len).map_err(|_| broken("too long for memory".to_owned()))?;
    let mut data = BytesMut::with_capacity(count);
    while let Some(piece) = answer.body.next().await {
        let piece = piece.map_err(|e| broken(format!("the body broke off: {e}")))?;
        if data.len() + piece.len() > count {
            return Err(broken("the body is longer than was said".to_owned()));
        }
        data.extend_from_slice(&piece);
    }
    if data.len() < count {
        let got = data.len();
        return Err(broken(format!("the body ended at {got} of {count} bytes")));
    }
    Ok(Range::Bytes(data.freeze()))
}

/// `bytes 0-99/1000`.
fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

/// A small object, whole, and its ETag.
pub(super) async fn small(
    service: &Service,
    key: &str,
) -> Result<(Bytes, Option<String>), Failure> {
    /// A mark is some 300 bytes; anything much larger is none.
    const MOST: usize = 64 << 10;
    let request = || async {
        let request = service.client.get_object().bucket(&service.place.bucket);
        let answer = request.key(key).send().await;
        let mut answer = answer.map_err(|e| Failure::of(Verb::Get, e))?;
        let etag = answer.e_tag().map(str::to_owned);
        let said = answer
            .content_length()
            .and_then(|n| usize::try_from(n).ok());
        let mut data = BytesMut::new();
        while let Some(piece) = answer.body.next().await {
            let piece = piece.map_err(|e| Failure::broken(Verb::Get, e.to_string()))?;
            data.extend_from_slice(&piece);
            if data.len() > MOST {
                return Err(Failure::broken(Verb::Get, "much longer than it can be"));
            }
        }
        if said.is_some_and(|said| said != data.len()) {
            return Err(Failure::broken(
                Verb::Get,
                "the body has another length than was said",
            ));
        }
        Ok((data.freeze(), etag))
    };
    service.often(Verb::Get, MOST as u64, request).await
}

/// What is not there is gone, too.
pub(super) async fn delete(service: &Service, key: &str) -> Result<(), Failure> {
    let request = async {
        let request = service.client.delete_object().bucket(&service.place.bucket);
        let answer = request.key(key).send().await;
        answer.map(drop).map_err(|e| Failure::of(Verb::Delete, e))
    };
    match service.once(Verb::Delete, 0, request).await {
        Err(failure) if failure.verdict() == super::failure::Verdict::Missing => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_stand() {
        assert_eq!(parse_range("bytes 0-99/1000"), Some((0, 99, Some(1000))));
        assert_eq!(parse_range("bytes 5-5/*"), Some((5, 5, None)));
        for bad in [
            "",
            "bytes",
            "bytes 0-",
            "bytes */10",
            "0-99/1000",
            "bytes a-b/c",
            "bytes 0-9/x",
        ] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
