//! The requests that write: whole, in parts, and what is left of parts.
//!
//! Each is one request, not repeated; what a service said wrongly or not at all is a failure, so that
//! nobody takes for stored what was not.

use super::able::Multipart;
use super::failure::{Failure, Verb};
use super::object::{CRC, PUT_ID};
use super::service::Service;
use aws_sdk_s3::config::StalledStreamProtectionConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, MetadataDirective,
    StorageClass,
};
use bytes::Bytes;
use cairn_mover::Crc32c;

/// A part that the service has.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) number: i32,
    pub(super) etag: String,
    pub(super) crc: Crc32c,
    /// The service said that it found this sum.
    pub(super) echoed: bool,
}

/// An upload that was begun and not finished.
#[derive(Debug, Clone)]
pub(super) struct Unfinished {
    pub(super) key: String,
    pub(super) id: String,
    /// Seconds since 1970, by the service's clock.
    pub(super) begun: i64,
}

/// What is written, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) key: &'a str,
    /// Which put does it.
    pub(super) put: &'a str,
    /// `None`: the bucket's.
    pub(super) class: Option<&'a str>,
    /// Only if there is none of this name.
    pub(super) exclusively: bool,
}

/// As checksums stand in requests and answers.
pub(super) fn base64(crc: Crc32c) -> String {
    aws_smithy_types::base64::encode(crc.0.to_be_bytes())
}

/// As it stands in an object's metadata.
pub(super) fn hex(crc: Crc32c) -> String {
    format!("{:08x}", crc.0)
}

/// The sum of an object whose parts have these: as services spell it that sum no whole objects.
pub(super) fn composite(parts: &[Part]) -> String {
    let sums: Vec<u8> = parts.iter().flat_map(|p| p.crc.0.to_be_bytes()).collect();
    format!("{}-{}", base64(Crc32c::of(&sums)), parts.len())
}

/// The service says that it found the sum that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Echo;

/// Our own word for an answer that names another sum than was sent: it was taken all the same.
pub(super) const OTHER_SUM: &str = "OtherSum";

/// The answer's checksum, if there is one, must be the one that was sent.
fn same(verb: Verb, said: Option<&str>, crc: Crc32c) -> Result<Option<Echo>, Failure> {
    match said {
        Some(said) if said != base64(crc) => {
            let why = format!("it says CRC32C {said}, sent was {}", base64(crc));
            Err(Failure {
                code: OTHER_SUM.to_owned(),
                ..Failure::broken(verb, why)
            })
        }
        said => Ok(said.map(|_| Echo)),
    }
}

/// The whole object at once.
pub(super) async fn whole(
    service: &Service,
    target: Target<'_>,
    body: Bytes,
    crc: Crc32c,
) -> Result<Option<Echo>, Failure> {
    let len = body.len() as u64;
    let request = async {
        let request = service.client.put_object();
        let request = request
            .bucket(&service.place.bucket)
            .key(target.key)
            .content_type("application/x-tar")
            .metadata(PUT_ID, target.put)
            .metadata(CRC, hex(crc))
            .set_storage_class(target.class.map(StorageClass::from))
            .set_if_none_match(target.exclusively.then(|| "*".to_owned()))
            .checksum_crc32_c(base64(crc))
            .body(ByteStream::from(body));
        let answer = request.send().await;
        let answer = answer.map_err(|e| Failure::of(Verb::Put, e))?;
        if answer.e_tag().is_none() {
            return Err(Failure::broken(Verb::Put, "no ETag in the answer"));
        }
        same(Verb::Put, answer.checksum_crc32_c(), crc)
    };
    service.once(Verb::Put, len, request).await
}

/// Begins an upload in parts; its id.
pub(super) async fn create(
    service: &Service,
    target: Target<'_>,
    how: Multipart,
) -> Result<String, Failure> {
    let request = async {
        let request = service.client.create_multipart_upload();
        let request = request
            .bucket(&service.place.bucket)
            .key(target.key)
            .content_type("application/x-tar")
            .metadata(PUT_ID, target.put)
            .set_storage_class(target.class.map(StorageClass::from));
        let request = match how {
            Multipart::None | Multipart::Plain => request,
            Multipart::Composite => request.checksum_algorithm(ChecksumAlgorithm::Crc32C),
            Multipart::FullObject => request
                .checksum_algorithm(ChecksumAlgorithm::Crc32C)
                .checksum_type(ChecksumType::FullObject),
        };
        let answer = request.send().await;
        let answer = answer.map_err(|e| Failure::of(Verb::Create, e))?;
        let id = answer.upload_id().filter(|id| !id.is_empty());
        id.map(str::to_owned)
            .ok_or_else(|| Failure::broken(Verb::Create, "no upload id in the answer"))
    };
    service.once(Verb::Create, 0, request).await
}

/// One part, with its checksum unless `how` has none.
pub(super) async fn part(
    service: &Service,
    (key, upload): (&str, &str),
    number: i32,
    (body, crc): (Bytes, Crc32c),
    how: Multipart,
) -> Result<Part, Failure> {
    let len = body.len() as u64;
    let checked = matches!(how, Multipart::Composite | Multipart::FullObject);
    let request = async {
        let request = service.client.upload_part();
        let request = request
            .bucket(&service.place.bucket)
            .key(key)
            .upload_id(upload)
            .part_number(number)
            .set_checksum_crc32_c(checked.then(|| base64(crc)))
            .body(ByteStream::from(body));
        let answer = request.send().await;
        let answer = answer.map_err(|e| Failure::of(Verb::Part, e))?;
        let echo = same(Verb::Part, answer.checksum_crc32_c(), crc)?;
        let etag = answer.e_tag().filter(|etag| !etag.is_empty());
        let etag = etag.ok_or_else(|| Failure::broken(Verb::Part, "no ETag in the answer"))?;
        Ok(Part {
            number,
            etag: etag.to_owned(),
            crc,
            echoed: checked && echo.is_some(),
        })
    };
    service.once(Verb::Part, len, request).await
}

/// Makes the object of its parts, in the order of their numbers. `whole`: length and checksum of all of it.
pub(super) async fn complete(
    service: &Service,
    target: Target<'_>,
    upload: &str,
    parts: &[Part],
    (len, whole): (u64, Crc32c),
    how: Multipart,
) -> Result<Option<Echo>, Failure> {
    let checked = matches!(how, Multipart::Composite | Multipart::FullObject);
    let full = how == Multipart::FullObject;
    let parts = parts.iter().map(|part| {
        CompletedPart::builder()
            .part_number(part.number)
            .e_tag(&part.etag)
            .set_checksum_crc32_c(checked.then(|| base64(part.crc)))
            .build()
    });
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect()));
    let request = async {
        let request = service.client.complete_multipart_upload();
        let request = request
            .bucket(&service.place.bucket)
            .key(target.key)
            .upload_id(upload)
            .multipart_upload(parts.build())
            .set_if_none_match(target.exclusively.then(|| "*".to_owned()))
            .set_checksum_type(full.then_some(ChecksumType::FullObject))
            .set_checksum_crc32_c(full.then(|| base64(whole)))
            .set_mpu_object_size(full.then(|| i64::try_from(len).unwrap_or(i64::MAX)));
        // It takes minutes, and says a blank now and then: that is no stream that stands still.
        let patient = aws_sdk_s3::config::Builder::new()
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let request = request.customize().config_override(patient);
        let answer = request.send().await;
        let answer = answer.map_err(|e| Failure::of(Verb::Complete, e))?;
        if answer.e_tag().is_none() && answer.key().is_none() {
            return Err(Failure::broken(
                Verb::Complete,
                "the answer says nothing of an object",
            ));
        }
        if full && answer.checksum_type() == Some(&ChecksumType::FullObject) {
            return same(Verb::Complete, answer.checksum_crc32_c(), whole);
        }
        Ok(None)
    };
    service.once(Verb::Complete, 0, request).await
}

/// Forgets an upload and its parts. One that is not there is forgotten, too.
pub(super) async fn abort(service: &Service, key: &str, upload: &str) -> Result<(), Failure> {
    let request = async {
        let request = service.client.abort_multipart_upload();
        let request = request.bucket(&service.place.bucket).key(key);
        let answer = request.upload_id(upload).send().await;
        answer.map(drop).map_err(|e| Failure::of(Verb::Abort, e))
    };
    match service.once(Verb::Abort, 0, request).await {
        Err(failure) if failure.verdict() == super::failure::Verdict::NoUpload => Ok(()),
        other => other,
    }
}

/// Uploads below `prefix` that nobody finished.
pub(super) async fn unfinished(
    service: &Service,
    prefix: &str,
) -> Result<Vec<Unfinished>, Failure> {
    let (mut found, mut marker) = (Vec::new(), None::<(String, String)>);
    loop {
        let request = || async {
            let (key, id) = marker.clone().unzip();
            let request = service.client.list_multipart_uploads();
            let request = request.bucket(&service.place.bucket).prefix(prefix);
            let request = request.set_key_marker(key).set_upload_id_marker(id);
            request
                .send()
                .await
                .map_err(|e| Failure::of(Verb::Uploads, e))
        };
        let answer = service.often(Verb::Uploads, 0, request).await?;
        for upload in answer.uploads() {
            if let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) {
                found.push(Unfinished {
                    key: key.to_owned(),
                    id: id.to_owned(),
                    begun: upload.initiated().map_or(i64::MAX, |t| t.secs()),
                });
            }
        }
        let next = answer.next_key_marker().zip(answer.next_upload_id_marker());
        let next = next.map(|(key, id)| (key.to_owned(), id.to_owned()));
        if !answer.is_truncated().unwrap_or(false) || next.is_none() || next == marker {
            return Ok(found);
        }
        marker = next;
    }
}

/// Moves an object, whose bytes are proven, to another storage class, where it is. What is there afterwards is for
/// the caller to look at.
pub(super) async fn change_class(service: &Service, key: &str, class: &str) -> Result<(), Failure> {
    let source = escape(&format!("{}/{key}", service.place.bucket));
    let request = async {
        let request = service.client.copy_object();
        let request = request
            .bucket(&service.place.bucket)
            .key(key)
            .copy_source(source)
            .metadata_directive(MetadataDirective::Copy)
            .storage_class(StorageClass::from(class));
        let patient = aws_sdk_s3::config::Builder::new()
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let answer = request.customize().config_override(patient).send().await;
        answer.map(drop).map_err(|e| Failure::of(Verb::Copy, e))
    };
    service.once(Verb::Copy, 0, request).await
}

/// A key as it must stand in the header of a copy's source.
fn escape(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    key.bytes().fold(String::new(), |mut out, b| {
        if plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_spelled_as_the_service_spells_them() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(base64(Crc32c::of(&[0; 32])), "ipE2qg==");
        assert_eq!(escape("bkt/a b+c/\u{e4}"), "bkt/a%20b%2Bc/%C3%A4");
    }
}
