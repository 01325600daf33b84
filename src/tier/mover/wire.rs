//! What an instance asks a mover on another host, and what that answers: JSON, one message a line
//! (docs/tiers.md, "Tiers on other hosts").
//!
//! Invariants: a line is bounded ([`LINE_MAX`]), and so is what a list of names may hold; data never stand in it: they go
//! through the streams that an I/O descriptor names. Descriptors hold secrets, so that no message is logged.

use crate::id::{AggregateId, bytes_of_hex, hex_of};
use crate::tier::{Proof, Receipt, Restoring, Space, TierError};
use cairn_mover::{Crc32c, Iod};
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// The version of all of this: both ends say it first.
pub const SCHEMA: &str = "cairn.mover.v1";
/// The longest line, bytes.
pub(super) const LINE_MAX: u64 = 1 << 20;
/// Characters of what the far side says, for people.
const WORDS_MAX: usize = 1000;
/// Names in one answer, at most: they fit a line.
pub(super) const NAMES_MAX: usize = 8192;

/// The first line, which the server's door writes: who has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Caller {
    /// [`SCHEMA`].
    pub schema: String,
    /// The mover's name, by its token.
    pub name: String,
    /// Where it called from.
    pub from: String,
}

/// The mover's first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Join {
    /// [`SCHEMA`].
    pub schema: String,
    /// What it keeps objects in, without secrets: for people.
    pub place: String,
}

/// The answer to [`Join`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Joined {
    /// [`SCHEMA`].
    pub schema: String,
    /// Why it may not, and the way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A question, and its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Asked {
    pub id: u64,
    pub ask: Ask,
}

/// An answer, and the number of its question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answered {
    pub id: u64,
    pub answer: Result<Answer, Fault>,
}

/// What can be asked. A put is known by a number of the instance's, which no other of its puts has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(super) enum Ask {
    /// Do you live?
    Ping,
    /// Open your place for this owner, as this tier.
    Open { owner: String, tier: u32 },
    /// [`crate::tier::Tier::longest`].
    Longest,
    /// [`crate::tier::Tier::lengths`].
    Lengths { file: u64 },
    /// [`crate::tier::Tier::admit`].
    Admit { lengths: Vec<u64> },
    /// [`crate::tier::Tier::put`].
    Begin { put: u64, object: String, hint: u64 },
    /// Take the next bytes of a put by this transfer.
    Append { put: u64, iod: String },
    /// [`crate::tier::Put::finish`].
    Finish { put: u64, crc: u32, hasten: bool },
    /// [`crate::tier::Put::abandon`].
    Abandon { put: u64 },
    /// What became of the put of this object, whose end was not heard? Answered as [`Ask::Finish`], once it has ended.
    Outcome { put: u64, object: String },
    /// Nobody waits for the answer to that question any more.
    Forget { id: u64 },
    /// Send a range of an object by this transfer.
    Read {
        object: String,
        offset: u64,
        len: u64,
        iod: String,
    },
    /// [`crate::tier::Tier::stat`].
    Stat { object: String },
    /// [`crate::tier::Tier::restore`].
    Restore { object: String },
    /// [`crate::tier::Tier::delete`].
    Delete { object: String },
    /// [`crate::tier::Tier::list`].
    List { after: Option<String>, limit: u64 },
    /// [`crate::tier::Tier::confirm`].
    Confirm,
    /// [`crate::tier::Tier::space`].
    Space,
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(super) enum Answer {
    Done,
    Opened {
        owner: String,
        tier: u32,
        notes: Vec<String>,
        /// No object lies there.
        empty: bool,
    },
    Number {
        value: Option<u64>,
    },
    Numbers {
        values: Vec<u64>,
    },
    Names {
        names: Vec<String>,
    },
    Receipt {
        len: u64,
        crc: u32,
        proof: String,
    },
    Restoring {
        coming: bool,
        takes_s: Option<u64>,
    },
    Space {
        free: Option<u64>,
        total: Option<u64>,
    },
}

/// [`TierError`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fault {
    /// [`crate::tier::ErrorKind::as_str`].
    pub kind: String,
    /// The far side's words.
    pub why: String,
    /// Two numbers, where the kind has them: length and wanted, or expected and found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<(u64, u64)>,
}

impl From<&TierError> for Fault {
    fn from(error: &TierError) -> Self {
        let pair = match error {
            TierError::Short { len, wanted, .. } => Some((*len, *wanted)),
            TierError::Corrupt {
                expected, found, ..
            } => Some((expected.0.into(), found.0.into())),
            TierError::Unavailable { .. }
            | TierError::Full { .. }
            | TierError::Transient { .. }
            | TierError::Missing { .. }
            | TierError::Exists { .. }
            | TierError::Unreadable { .. }
            | TierError::NotRestored { .. }
            | TierError::Refused { .. } => None,
        };
        Self {
            kind: error.kind().as_str().to_owned(),
            why: error.to_string(),
            pair,
        }
    }
}

impl Fault {
    /// This end could not do what was asked, and may the next time.
    pub(super) fn passing(why: impl ToString) -> Self {
        Self {
            kind: "transient".to_owned(),
            why: why.to_string(),
            pair: None,
        }
    }

    /// The error for the caller of `tier`, about `object`. A kind that is not known is a passing failure.
    pub(super) fn into_error(self, tier: &str, object: Option<AggregateId>) -> TierError {
        let Self { kind, why, pair } = self;
        let why = clipped(&why);
        let tier = tier.to_owned();
        let named = object.unwrap_or(AggregateId { epoch: 0, seq: 0 });
        // Checksums have 32 bits.
        let sum = |n: u64| Crc32c(u32::try_from(n).unwrap_or(u32::MAX));
        const STEP: &str = "at its mover";
        match (kind.as_str(), pair) {
            ("unavailable", _) => TierError::Unavailable {
                tier,
                step: STEP,
                why,
            },
            ("full", _) => TierError::Full {
                tier,
                step: STEP,
                why,
            },
            ("missing", _) if object.is_some() => TierError::Missing {
                tier,
                object: named,
            },
            ("exists", _) if object.is_some() => TierError::Exists {
                tier,
                object: named,
            },
            ("short", Some((len, wanted))) => TierError::Short {
                tier,
                object: named,
                len,
                wanted,
            },
            ("corrupt", Some((expected, found))) => TierError::Corrupt {
                tier,
                object: named,
                expected: sum(expected),
                found: sum(found),
            },
            ("unreadable", _) => TierError::Unreadable {
                tier,
                object: named,
                why,
            },
            ("not-restored", _) => TierError::NotRestored {
                tier,
                object: named,
                why,
            },
            ("refused", _) => TierError::Refused { place: tier, why },
            _ => TierError::Transient {
                tier,
                object: object.map_or_else(|| "the tier".to_owned(), |o| o.to_string()),
                step: STEP,
                source: io::Error::other(why),
            },
        }
    }
}

/// The far side's words, as they may be shown and kept: no control characters, and not too many.
pub(super) fn clipped(words: &str) -> String {
    let plain = words.chars().filter(|c| !c.is_control());
    plain.take(WORDS_MAX).collect()
}

/// The words for a kind of proof.
pub(super) fn proof_word(proof: Proof) -> &'static str {
    match proof {
        Proof::ReadBack => "read-back",
        Proof::ServiceChecksum => "service-checksum",
        Proof::Drive => "drive",
        Proof::Volatile => "volatile",
    }
}

/// The receipt of an answer; `None` if it is none that this version understands.
pub(super) fn receipt(object: AggregateId, answer: &Answer) -> Option<Receipt> {
    let Answer::Receipt { len, crc, proof } = answer else {
        return None;
    };
    let proof = match proof.as_str() {
        "read-back" => Proof::ReadBack,
        "service-checksum" => Proof::ServiceChecksum,
        "drive" => Proof::Drive,
        "volatile" => Proof::Volatile,
        _ => return None,
    };
    Some(Receipt {
        aggregate: object,
        len: *len,
        crc: Crc32c(*crc),
        proof,
    })
}

/// How an object stands, and back.
pub(super) fn restoring(answer: &Answer) -> Option<Restoring> {
    match answer {
        Answer::Restoring { coming: false, .. } => Some(Restoring::Ready),
        Answer::Restoring { takes_s, .. } => Some(Restoring::Coming {
            takes: takes_s.map(Duration::from_secs),
        }),
        _ => None,
    }
}

/// See [`restoring`].
pub(super) fn restoring_answer(state: Restoring) -> Answer {
    match state {
        Restoring::Ready => Answer::Restoring {
            coming: false,
            takes_s: None,
        },
        Restoring::Coming { takes } => Answer::Restoring {
            coming: true,
            takes_s: takes.map(|t| t.as_secs()),
        },
    }
}

/// Room left, of an answer.
pub(super) fn space(answer: &Answer) -> Option<Space> {
    match answer {
        Answer::Space { free, total } => Some(Space {
            free: *free,
            total: *total,
        }),
        _ => None,
    }
}

/// A descriptor as text.
pub(super) fn iod_text(iod: &Iod) -> Result<String, cairn_mover::IodFault> {
    Ok(hex_of(&iod.encode()?))
}

/// The descriptor that a text is.
pub(super) fn parse_iod(text: &str) -> Option<Iod> {
    Iod::decode(&bytes_of_hex(text)?).ok()
}

/// A message as a line.
pub(super) fn line(message: &impl Serialize) -> io::Result<String> {
    let mut text = serde_json::to_string(message)?;
    text.push('\n');
    if text.len() as u64 > LINE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message that is too long",
        ));
    }
    Ok(text)
}

/// The next line; `None` at the end.
///
/// # Errors
/// It is cut off, longer than [`LINE_MAX`], or no such message.
pub(super) async fn read_line<T: for<'a> Deserialize<'a>>(
    from: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<T>> {
    let mut text = Vec::new();
    let read = from.take(LINE_MAX).read_until(b'\n', &mut text).await?;
    match text.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&text)?)),
        Some(_) if read as u64 == LINE_MAX => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a line without end",
        )),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: AggregateId = AggregateId { epoch: 3, seq: 9 };

    #[test]
    fn every_error_crosses_as_what_it_is() {
        let (tier, why) = ("t".to_owned(), "w".to_owned());
        let all = [
            TierError::Unavailable {
                tier: tier.clone(),
                step: "s",
                why: why.clone(),
            },
            TierError::Full {
                tier: tier.clone(),
                step: "s",
                why: why.clone(),
            },
            TierError::Transient {
                tier: tier.clone(),
                object: "o".into(),
                step: "s",
                source: io::ErrorKind::BrokenPipe.into(),
            },
            TierError::Missing {
                tier: tier.clone(),
                object: NAME,
            },
            TierError::Exists {
                tier: tier.clone(),
                object: NAME,
            },
            TierError::Short {
                tier: tier.clone(),
                object: NAME,
                len: 5,
                wanted: 9,
            },
            TierError::Corrupt {
                tier: tier.clone(),
                object: NAME,
                expected: Crc32c(1),
                found: Crc32c(2),
            },
            TierError::Unreadable {
                tier: tier.clone(),
                object: NAME,
                why: why.clone(),
            },
            TierError::NotRestored {
                tier: tier.clone(),
                object: NAME,
                why: why.clone(),
            },
            TierError::Refused { place: tier, why },
        ];
        for error in all {
            let text = line(&Answered {
                id: 1,
                answer: Err(Fault::from(&error)),
            })
            .unwrap();
            let back: Answered = serde_json::from_str(&text).unwrap();
            let back = back.answer.unwrap_err().into_error("far", Some(NAME));
            assert_eq!(back.kind(), error.kind(), "{error}");
            if let TierError::Short { len, wanted, .. } = back {
                assert_eq!((len, wanted), (5, 9));
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_never_a_receipt_nor_missing() {
        let odd = Answer::Receipt {
            len: 1,
            crc: 1,
            proof: "trust me".to_owned(),
        };
        assert_eq!(receipt(NAME, &odd), None);
        let fault = Fault {
            kind: "gone".to_owned(),
            why: String::new(),
            pair: None,
        };
        assert!(fault.into_error("far", Some(NAME)).is_retryable());
        let fault = Fault {
            kind: "missing".to_owned(),
            why: String::new(),
            pair: None,
        };
        assert!(
            fault.into_error("far", None).is_retryable(),
            "of no object nothing is missing"
        );
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        let long = vec![b'x'; LINE_MAX as usize + 10];
        let mut from = tokio::io::BufReader::new(&long[..]);
        assert!(read_line::<Asked>(&mut from).await.is_err());
        let mut cut = tokio::io::BufReader::new(&b"{\"id\":1"[..]);
        assert!(read_line::<Asked>(&mut cut).await.is_err());
        let mut none = tokio::io::BufReader::new(&b""[..]);
        assert!(read_line::<Asked>(&mut none).await.unwrap().is_none());
    }
}
