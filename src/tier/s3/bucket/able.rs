//! What a service can do, as it was seen once and is remembered beside the mark (docs/tiers.md).

use super::failure::{Came, Failure, Verdict};
use super::upload::OTHER_SUM;
use crate::tier::Proof;
use serde::{Deserialize, Serialize};

pub(super) const FORMAT: &str = "cairn-probe";
pub(super) const VERSION: u32 = 2;
/// What was seen so long ago is seen anew, seconds: services change, and so do those that stand before them.
const OLD: u64 = 7 * 86_400;
/// Clocks differ by less, seconds.
const AHEAD: u64 = 86_400;

/// How a service takes an object in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Multipart {
    /// Not at all.
    None,
    /// Without checksums.
    Plain,
    /// With a checksum of each part.
    Composite,
    /// With a checksum of each part, and one of all of it.
    FullObject,
}

/// Does a bucket keep what is deleted?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Versions {
    Off,
    On,
    Suspended,
    /// It did not say, or may not say it to us.
    Unknown,
}

/// The service that something is seen of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whose {
    pub(super) endpoint: String,
    pub(super) bucket: String,
    /// What it calls itself, if it does.
    pub(super) server: Option<String>,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// What a service was seen to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Able {
    pub(super) format: String,
    pub(super) version: u32,
    /// Seconds since 1970.
    pub(super) probed: u64,
    /// Where it was asked.
    pub(super) endpoint: String,
    pub(super) bucket: String,
    /// What it called itself then.
    #[serde(default)]
    pub(super) server: Option<String>,
    /// Its answer to what was written says the CRC32C that it found.
    pub(super) echoes_checksum: bool,
    /// An object with a wrong CRC32C is refused.
    pub(super) refuses_wrong_object: bool,
    /// A part with a wrong CRC32C is refused.
    pub(super) refuses_wrong_part: bool,
    /// An object in parts whose CRC32C as a whole is wrong is refused.
    pub(super) refuses_wrong_whole: bool,
    /// It says an object's CRC32C when asked.
    pub(super) returns_checksum: bool,
    /// `If-None-Match: *` of an object holds.
    pub(super) conditional_put: bool,
    /// And of one in parts.
    pub(super) conditional_complete: bool,
    pub(super) multipart: Multipart,
    /// Uploads that nobody finished can be found.
    pub(super) lists_uploads: bool,
    pub(super) versions: Versions,
    /// Objects cannot be deleted for some time.
    pub(super) locked: bool,
}

impl Able {
    /// The record with this text, if it is one of this version.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let found: Self = serde_json::from_slice(text).ok()?;
        (found.format == FORMAT && found.version == VERSION).then_some(found)
    }

    /// Was it seen of the service that answers now, and not too long ago?
    pub(super) fn is_of(&self, whose: &Whose) -> bool {
        self.is_named(whose) && self.is_at(whose)
    }

    /// Does it call itself as it did? One that does not say now has said nothing else.
    pub(super) fn is_named(&self, whose: &Whose) -> bool {
        whose.server.is_none() || self.server == whose.server
    }

    fn is_at(&self, whose: &Whose) -> bool {
        let age = whose.now.saturating_sub(self.probed);
        let fresh = age < OLD && self.probed <= whose.now.saturating_add(AHEAD);
        fresh && self.endpoint == whose.endpoint && self.bucket == whose.bucket
    }

    /// The same of a service of which nobody knows who answers: it is taken for one that checks nothing.
    pub(super) fn wary(&self) -> Self {
        Self {
            refuses_wrong_object: false,
            refuses_wrong_part: false,
            refuses_wrong_whole: false,
            conditional_put: false,
            conditional_complete: false,
            ..self.clone()
        }
    }

    /// How an object may be proven, in parts or not, if what the service says of that very object bears it out.
    pub(super) fn proof(&self, in_parts: bool) -> Proof {
        let checked = if in_parts {
            self.refuses_wrong_part
                && matches!(self.multipart, Multipart::Composite | Multipart::FullObject)
        } else {
            self.refuses_wrong_object
        };
        if checked && (self.echoes_checksum || self.returns_checksum) {
            Proof::ServiceChecksum
        } else {
            Proof::ReadBack
        }
    }

    /// Is a name that is taken refused by the service itself?
    pub(super) fn is_conditional(&self, in_parts: bool) -> bool {
        if in_parts {
            self.conditional_complete
        } else {
            self.conditional_put
        }
    }

    /// What it lacks and what that means, for people.
    pub(super) fn words(&self) -> Vec<String> {
        let mut said = Vec::new();
        let mut say = |when: bool, what: &str| {
            if when {
                said.push(what.to_owned());
            }
        };
        let (small, large) = (self.proof(false), self.proof(true));
        say(
            small == Proof::ReadBack && large == Proof::ReadBack,
            "the service does not refuse wrong checksums, or does not say what it found: each object is read back \
             after it was written, which costs a second transfer",
        );
        say(
            small == Proof::ServiceChecksum
                && large == Proof::ReadBack
                && self.multipart != Multipart::None,
            "the service does not refuse parts with wrong checksums: large objects are read back after they were written",
        );
        say(
            small == Proof::ReadBack && large == Proof::ServiceChecksum,
            "the service does not refuse small objects with wrong checksums: those are read back after they were written",
        );
        say(
            !self.conditional_put
                || (!self.conditional_complete && self.multipart != Multipart::None),
            "the service does not refuse to overwrite (If-None-Match): a name is looked up before it is written, and \
             who makes a tier here in the same moment as another may be refused a moment later",
        );
        say(
            self.multipart == Multipart::None,
            "the service takes no objects in parts: they are kept short, and longer files are cut",
        );
        say(
            self.multipart != Multipart::None && !self.lists_uploads,
            "unfinished uploads cannot be listed: let a lifecycle rule of the bucket abort them",
        );
        say(
            self.versions == Versions::On,
            "the bucket keeps versions: what is deleted stays and is paid for until a lifecycle rule expires \
             noncurrent versions",
        );
        say(
            self.versions == Versions::Suspended,
            "versions of the bucket are suspended: older ones stay until a lifecycle rule expires them",
        );
        say(
            self.locked,
            "the bucket has object lock: what is deleted stays as a version until its retention ends",
        );
        said
    }
}

/// Something was sent with a wrong checksum: was it refused for that?
///
/// # Errors
/// The failure, if it says nothing of checksums.
pub(super) fn refused<T>(came: Result<T, Failure>) -> Result<bool, Failure> {
    match came {
        Ok(_) => Ok(false),
        Err(failure) => match failure.verdict() {
            Verdict::Digest => Ok(DIGESTS.contains(&failure.code.as_str())),
            // It did not take it, for whatever reason: that is no check.
            Verdict::Bad => Ok(false),
            _ if failure.code == OTHER_SUM => Ok(false),
            _ => Err(failure),
        },
    }
}

/// The words for a CRC32C that is not that of the bytes. (That of the bytes' SHA-256 says nothing of it.)
const DIGESTS: [&str; 3] = ["BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"];

/// Something was sent that may only be taken if its name is free, which it is not: was it refused?
///
/// # Errors
/// The failure, if it says nothing of conditions.
pub(super) fn held<T>(came: Result<T, Failure>) -> Result<bool, Failure> {
    match came {
        Ok(_) => Ok(false),
        Err(failure) => match (failure.verdict(), failure.came) {
            (Verdict::Precondition | Verdict::Conflict, _) => Ok(true),
            (Verdict::NotBuilt | Verdict::Bad, _) | (Verdict::Other, Came::Answered(400..=499)) => {
                Ok(false)
            }
            _ => Err(failure),
        },
    }
}

/// Something was asked that a service may not know, or not tell: `None` then.
///
/// # Errors
/// The failure, if it says nothing of that.
pub(super) fn known<T>(came: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match came {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) => match (failure.verdict(), failure.came) {
            (
                Verdict::NotBuilt
                | Verdict::Denied
                | Verdict::Missing
                | Verdict::Unsaid
                | Verdict::Bad,
                _,
            )
            | (Verdict::Other, Came::Answered(400..=499)) => Ok(None),
            _ => Err(failure),
        },
    }
}

#[cfg(test)]
mod tests;
