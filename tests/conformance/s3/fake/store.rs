//! What the service keeps, and how it serves requests when nothing befalls them.

use super::wire::{Answer, Ask, Verb};
use cairn_mover::Crc32c;
use std::collections::BTreeMap;

/// What a service checks, knows and says.
#[derive(Debug, Clone)]
pub(crate) struct Manners {
    /// It refuses wrong CRC32Cs.
    pub(crate) checks: bool,
    /// It says them in its answers to what is written.
    pub(crate) echoes: bool,
    /// And in those to HEAD.
    pub(crate) tells: bool,
    /// It refuses names that are taken.
    pub(crate) conditions: bool,
    /// It refuses what comes without a checksum: object lock.
    pub(crate) wants_sums: bool,
    /// What it calls itself.
    pub(crate) name: String,
}

impl Default for Manners {
    /// All as it should be.
    fn default() -> Self {
        Self {
            checks: true,
            echoes: true,
            tells: true,
            conditions: true,
            wants_sums: false,
            name: "fake".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Object {
    pub(crate) bytes: Vec<u8>,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) class: Option<String>,
    pub(crate) crc: Option<String>,
    /// What its header `x-amz-restore` says; empty: there is none.
    pub(crate) restore: String,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Upload {
    pub(crate) key: String,
    made: Object,
    pub(crate) parts: BTreeMap<u32, Vec<u8>>,
}

/// A bucket.
pub(crate) struct Store {
    pub(crate) manners: Manners,
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) uploads: BTreeMap<String, Upload>,
    next: u64,
}

/// As checksums stand in requests and answers.
pub(crate) fn base64(crc: Crc32c) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Thirty-two bits are six digits, of which the last has four zeros behind.
    let bits = u64::from(crc.0) << 4;
    let digit = |n: u32| char::from(DIGITS[(bits >> (6 * (5 - n)) & 63) as usize]);
    (0..6).map(digit).chain(['=', '=']).collect()
}

fn meta(ask: &Ask) -> BTreeMap<String, String> {
    let kept = ask.headers.iter();
    let kept = kept.filter(|(name, _)| name.starts_with("x-amz-meta-"));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn is_cold(object: &Object) -> bool {
    let cold = matches!(object.class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"));
    cold && !object.restore.contains("ongoing-request=\"false\"")
}

impl Store {
    pub(super) fn new(manners: Manners) -> Self {
        Self {
            manners,
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn serve(&mut self, ask: &Ask) -> Answer {
        let name = self.manners.name.clone();
        self.answer(ask).with("server", name)
    }

    fn answer(&mut self, ask: &Ask) -> Answer {
        match ask.verb {
            Verb::Put => self.put(ask),
            Verb::Get => self.get(ask),
            Verb::Head => self.head(ask),
            Verb::Delete => {
                self.objects.remove(&ask.key);
                Answer::of(204)
            }
            Verb::List => self.list(ask),
            Verb::Create => self.create(ask),
            Verb::Part => self.part(ask),
            Verb::Complete => self.complete(ask),
            Verb::Abort => match self.uploads.remove(&ask.query["uploadId"]) {
                Some(_) => Answer::of(204),
                None => Answer::error(404, "NoSuchUpload"),
            },
            Verb::Copy => self.copy(ask),
            Verb::Restore => self.restore(ask),
            Verb::Uploads => self.unfinished(ask),
            Verb::Versioning => Answer::xml(200, "<VersioningConfiguration/>"),
            Verb::Lock => Answer::error(404, "ObjectLockConfigurationNotFoundError"),
        }
    }

    fn is_refused(&self, ask: &Ask) -> Option<Answer> {
        let said = ask.header("x-amz-checksum-crc32c");
        if self.manners.wants_sums && said.is_none() && ask.header("content-md5").is_none() {
            return Some(Answer::error(400, "InvalidRequest"));
        }
        let wrong = said.is_some_and(|said| said != base64(Crc32c::of(&ask.body)));
        (self.manners.checks && wrong).then(|| Answer::error(400, "BadDigest"))
    }

    fn is_taken(&self, ask: &Ask) -> Option<Answer> {
        let there = self.objects.get(&ask.key);
        let etag = |object: &Object| format!("\"{}\"", base64(Crc32c::of(&object.bytes)));
        let wrong = match (ask.header("if-none-match"), ask.header("if-match")) {
            (Some(_), _) => there.is_some(),
            (None, Some(wanted)) => there.is_none_or(|object| etag(object) != wanted),
            (None, None) => false,
        };
        (self.manners.conditions && wrong).then(|| Answer::error(412, "PreconditionFailed"))
    }

    fn sums(&self, answer: Answer, crc: Crc32c) -> Answer {
        if self.manners.echoes {
            answer.with("x-amz-checksum-crc32c", base64(crc))
        } else {
            answer
        }
    }

    fn put(&mut self, ask: &Ask) -> Answer {
        if let Some(refused) = self.is_refused(ask).or_else(|| self.is_taken(ask)) {
            return refused;
        }
        let crc = Crc32c::of(&ask.body);
        let object = Object {
            bytes: ask.body.clone(),
            meta: meta(ask),
            class: ask.header("x-amz-storage-class").map(str::to_owned),
            crc: ask.header("x-amz-checksum-crc32c").map(|_| base64(crc)),
            restore: String::new(),
        };
        self.objects.insert(ask.key.clone(), object);
        let answer = Answer::of(200).with("etag", format!("\"{}\"", base64(crc)));
        self.sums(answer, crc)
    }

    fn described(&self, object: &Object, ask: &Ask) -> Answer {
        let crc = Crc32c::of(&object.bytes);
        let mut answer = Answer::of(200).with("etag", format!("\"{}\"", base64(crc)));
        for (name, value) in &object.meta {
            answer = answer.with(name, value.clone());
        }
        if let Some(class) = &object.class {
            answer = answer.with("x-amz-storage-class", class.clone());
        }
        if !object.restore.is_empty() {
            answer = answer.with("x-amz-restore", object.restore.clone());
        }
        let asked = ask.header("x-amz-checksum-mode").is_some();
        match &object.crc {
            Some(crc) if asked && self.manners.tells => {
                answer.with("x-amz-checksum-crc32c", crc.clone())
            }
            _ => answer,
        }
    }

    fn get(&self, ask: &Ask) -> Answer {
        let Some(object) = self.objects.get(&ask.key) else {
            return Answer::error(404, "NoSuchKey");
        };
        if is_cold(object) {
            return Answer::error(403, "InvalidObjectState");
        }
        let (mut answer, len) = (self.described(object, ask), object.bytes.len());
        let Some(range) = ask.header("range") else {
            answer.body = object.bytes.clone();
            return answer;
        };
        let (first, last) = range
            .strip_prefix("bytes=")
            .and_then(|r| r.split_once('-'))
            .expect("a range");
        let first: usize = first.parse().expect("a number");
        let last: usize = last.parse().expect("a number");
        if first >= len {
            return Answer::error(416, "InvalidRange");
        }
        let end = len.min(last.saturating_add(1));
        answer.body = object.bytes[first..end].to_vec();
        answer.status = 206;
        answer.with("content-range", format!("bytes {first}-{}/{len}", end - 1))
    }

    fn head(&self, ask: &Ask) -> Answer {
        match self.objects.get(&ask.key) {
            // Without a body, as all answers to HEAD.
            None => Answer::of(404),
            Some(object) => self
                .described(object, ask)
                .with("content-length", object.bytes.len().to_string()),
        }
    }

    fn list(&self, ask: &Ask) -> Answer {
        let prefix = ask.query.get("prefix").cloned().unwrap_or_default();
        let after = ask.query.get("start-after").cloned().unwrap_or_default();
        let most: usize = ask
            .query
            .get("max-keys")
            .map_or(1000, |n| n.parse().expect("a number"));
        let found = self.objects.keys();
        let found = found.filter(|key| key.starts_with(&prefix) && **key > after);
        let found: Vec<_> = found.take(most + 1).collect();
        let shown: String = found
            .iter()
            .take(most)
            .map(|key| format!("<Contents><Key>{key}</Key></Contents>"))
            .collect();
        let more = found.len() > most;
        Answer::xml(
            200,
            format!(
                "<ListBucketResult><IsTruncated>{more}</IsTruncated>{shown}</ListBucketResult>"
            ),
        )
    }

    fn create(&mut self, ask: &Ask) -> Answer {
        self.next += 1;
        let id = format!("upload-{}", self.next);
        let made = Object {
            meta: meta(ask),
            class: ask.header("x-amz-storage-class").map(str::to_owned),
            ..Object::default()
        };
        let upload = Upload {
            key: ask.key.clone(),
            made,
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        let key = &ask.key;
        Answer::xml(
            200,
            format!(
                "<InitiateMultipartUploadResult><Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ),
        )
    }

    fn part(&mut self, ask: &Ask) -> Answer {
        if let Some(refused) = self.is_refused(ask) {
            return refused;
        }
        let number = ask.query["partNumber"].parse().expect("a number");
        let Some(upload) = self.uploads.get_mut(&ask.query["uploadId"]) else {
            return Answer::error(404, "NoSuchUpload");
        };
        upload.parts.insert(number, ask.body.clone());
        let crc = Crc32c::of(&ask.body);
        let answer = Answer::of(200).with("etag", format!("\"{}\"", base64(crc)));
        self.sums(answer, crc)
    }

    fn complete(&mut self, ask: &Ask) -> Answer {
        let id = &ask.query["uploadId"];
        let Some(upload) = self.uploads.get(id) else {
            return Answer::error(404, "NoSuchUpload");
        };
        if let Some(taken) = self.is_taken(ask) {
            return taken;
        }
        let bytes = upload.parts.values().flatten().copied().collect::<Vec<_>>();
        let crc = base64(Crc32c::of(&bytes));
        let said = ask.header("x-amz-checksum-crc32c");
        if self.manners.checks && said.is_some_and(|said| said != crc) {
            return Answer::error(400, "BadDigest");
        }
        let object = Object {
            bytes,
            crc: said.map(|_| crc.clone()),
            ..upload.made.clone()
        };
        self.objects.insert(ask.key.clone(), object);
        self.uploads.remove(id);
        let sums = if self.manners.echoes {
            format!(
                "<ChecksumCRC32C>{crc}</ChecksumCRC32C><ChecksumType>FULL_OBJECT</ChecksumType>"
            )
        } else {
            String::new()
        };
        let key = &ask.key;
        Answer::xml(
            200,
            format!(
                "<CompleteMultipartUploadResult><Key>{key}</Key><ETag>\"made\"</ETag>{sums}</CompleteMultipartUploadResult>"
            ),
        )
    }

    fn copy(&mut self, ask: &Ask) -> Answer {
        let Some(object) = self.objects.get_mut(&ask.key) else {
            return Answer::error(404, "NoSuchKey");
        };
        object.class = ask.header("x-amz-storage-class").map(str::to_owned);
        Answer::xml(
            200,
            "<CopyObjectResult><ETag>\"copy\"</ETag></CopyObjectResult>",
        )
    }

    fn restore(&mut self, ask: &Ask) -> Answer {
        let Some(object) = self.objects.get_mut(&ask.key) else {
            return Answer::error(404, "NoSuchKey");
        };
        if object.restore.contains("\"true\"") {
            return Answer::error(409, "RestoreAlreadyInProgress");
        }
        object.restore = "ongoing-request=\"true\"".to_owned();
        Answer::of(202)
    }

    fn unfinished(&self, ask: &Ask) -> Answer {
        let prefix = ask.query.get("prefix").cloned().unwrap_or_default();
        let found = self.uploads.iter();
        let found = found.filter(|(_, upload)| upload.key.starts_with(&prefix));
        let shown: String = found
            .map(|(id, upload)| {
                let key = &upload.key;
                format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>")
            })
            .collect();
        Answer::xml(
            200,
            format!(
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{shown}</ListMultipartUploadsResult>"
            ),
        )
    }
}
