//! From the engine's receipt to the wire's, with the commands that prove a copy without Cairn.
//!
//! Invariant: places of the administrator's, and names that a file had in the archive, are for who
//! rules the instance; others get sums, times and the names of tiers.

use super::nodes::ForWhom;
use super::views::when;
use crate::catalog::{CopyState, ProofKind};
use crate::error::Failure;
use crate::hsm::engine::{CopyReceipt, Engine, EngineError, MemberPlace, Receipt};
use crate::id::NodeHandle;
use crate::server::control::ControlError;
use crate::server::wire::{self, CheckCommand, CopyProof, GivenPath};
use rustix::fs::Access;
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// CRC32C of standard input, in a language that is everywhere.
const SETUP: &str = r#"crc32c() { python3 -c '
import sys
table = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    table.append(n)
crc = 0xFFFFFFFF
for block in iter(lambda: sys.stdin.buffer.read(1 << 20), b""):
    for byte in block:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
print("%08x" % (crc ^ 0xFFFFFFFF))'; }"#;

/// Why there is no receipt.
pub(super) enum NoReceipt {
    Engine(EngineError),
    Refused(ControlError),
}

impl From<EngineError> for NoReceipt {
    fn from(why: EngineError) -> Self {
        Self::Engine(why)
    }
}

/// The receipt as this caller may have it. May wait for tiers, as long as `wanted` says so.
pub(super) fn receipt(
    engine: &Engine,
    node: &NodeHandle,
    given: &[u8],
    sha256: bool,
    whom: &ForWhom,
    wanted: &(dyn Fn() -> bool + Sync),
) -> Result<wire::Receipt, NoReceipt> {
    let fd = engine.open(node)?;
    if !whom.may(&fd, Access::READ_OK) {
        let why = "no permission to read the file";
        let refused = ControlError::new(Failure::NotPermitted, why);
        return Err(NoReceipt::Refused(refused));
    }
    let found = engine.receipt(fd.as_fd(), sha256, wanted)?;
    Ok(shown(&found, given, whom.rules()))
}

fn shown(receipt: &Receipt, given: &[u8], rules: bool) -> wire::Receipt {
    let digest = receipt.sha256.as_ref();
    let sha256 = digest
        .and_then(|d| d.sum.as_ref().ok())
        .map(|sum| crate::id::hex_of(sum));
    let sha256_note = digest.map(|d| match &d.sum {
        Ok(_) => format!("computed now, from {}", d.from),
        Err(why) if rules => format!("not computed from {}: {why}", d.from),
        Err(_) => format!("not computed from {}", d.from),
    });
    let copies: Vec<_> = receipt
        .copies
        .iter()
        .map(|copy| proof(receipt, copy, sha256.as_deref(), rules))
        .collect();
    let checks = copies.iter().any(|copy| !copy.checks.is_empty());
    wire::Receipt {
        path: GivenPath::new(given),
        id: receipt.file.to_string(),
        version: receipt.version.0,
        size: receipt.size,
        crc32c: receipt.crc.to_string(),
        sha256,
        sha256_note,
        current: receipt.current,
        copies,
        setup: checks.then(|| SETUP.to_owned()),
    }
}

fn proof(receipt: &Receipt, one: &CopyReceipt, sha256: Option<&str>, rules: bool) -> CopyProof {
    let (copy, known) = (&one.copy, one.aggregate.as_ref().filter(|a| a.len > 0));
    let member = one.member.as_ref().ok();
    let parts = member.map_or(0, |member| member.parts);
    let object = one.object.as_ref().filter(|_| rules);
    let note = one.member.as_ref().err().map(|why| {
        if rules {
            why.clone()
        } else {
            "its place in the aggregate cannot be told now".to_owned()
        }
    });
    let in_parts = || {
        let (first, last) = (copy.aggregate.part(1), copy.aggregate.part(parts));
        format!(
            "the last part of the file is there; the others are in {first} to {last}, and its length counts them"
        )
    };
    let note = note.or_else(|| (parts > 0).then(in_parts));
    let mut checks = Vec::new();
    if let (Some(object), Some(member)) = (object, member.filter(|_| parts == 0)) {
        let crc = receipt.crc.to_string();
        let whole = known.map(|a| a.crc.to_string());
        checks = commands(object.as_os_str().as_bytes(), member, &crc, sha256, whole);
    }
    CopyProof {
        tier: one.tier.clone(),
        url: rules.then(|| one.url.clone()),
        state: match copy.state {
            CopyState::Good => "good",
            CopyState::Suspect => "suspect",
            CopyState::Bad => "bad",
            CopyState::Removed => "removed",
        }
        .to_owned(),
        since: when(copy.proven_at),
        proof: one.aggregate.as_ref().map(|a| word(a.proof).to_owned()),
        verified: copy.last_verified.map(when),
        aggregate: copy.aggregate.to_string(),
        aggregate_len: known.map(|a| a.len),
        aggregate_crc32c: known.filter(|_| parts == 0).map(|a| a.crc.to_string()),
        object: object.map(|path| GivenPath::new(path.as_os_str().as_bytes())),
        member: member.filter(|_| rules).map(|m| GivenPath::new(&m.name)),
        data_offset: member.map(|m| m.data),
        data_len: member.map(|m| m.stored),
        note,
        checks,
    }
}

fn word(proof: ProofKind) -> &'static str {
    match proof {
        ProofKind::ReadBack => "read-back",
        ProofKind::ServiceChecksum => "service-checksum",
        ProofKind::Drive => "drive",
        ProofKind::Volatile => "volatile",
        ProofKind::Learned => "learned",
    }
}

/// Commands for bash, each with what it prints.
fn commands(
    object: &[u8],
    member: &MemberPlace,
    crc: &str,
    sha256: Option<&str>,
    whole: Option<String>,
) -> Vec<CheckCommand> {
    let (object, name) = (quoted(object), quoted(&member.name));
    let tar = format!("tar --no-unquote --no-wildcards -xOf {object} -- {name}");
    let check = |of: &str, command: String, prints: Option<String>| CheckCommand {
        of: of.to_owned(),
        command,
        prints,
    };
    let sha256 = sha256.map(|sum| format!("{sum}  -"));
    let crc = Some(crc.to_owned());
    let mut all = vec![
        check("content, sha256", format!("{tar} | sha256sum"), sha256),
        check("content, crc32c", format!("{tar} | crc32c"), crc.clone()),
    ];
    if member.dense {
        let range = format!("skip={} count={}", member.data, member.stored);
        let flags = "bs=1M iflag=skip_bytes,count_bytes status=none";
        let by_place = format!("dd if={object} {flags} {range} | crc32c");
        all.push(check("content by its place, crc32c", by_place, crc));
    }
    if whole.is_some() {
        let command = format!("crc32c < {object}");
        all.push(check("whole aggregate, crc32c", command, whole));
    }
    all
}

/// A word of bash that is exactly these bytes.
fn quoted(bytes: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_./=+:,@%-".contains(b);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
        _ => {
            let mut word = String::from("$'");
            for byte in bytes {
                match byte {
                    b'\'' | b'\\' => {
                        word.push('\\');
                        word.push(char::from(*byte));
                    }
                    b' '..=b'~' => word.push(char::from(*byte)),
                    // Octal, always three digits: what follows cannot be taken for more of it.
                    _ => {
                        let _ = write!(word, "\\{byte:03o}");
                    }
                }
            }
            word.push('\'');
            word
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_are_what_bash_reads_back() {
        let names: [&[u8]; 8] = [
            b"plain/name-1.txt",
            b"it's here",
            b"a\\b",
            b"new\nline\t7",
            b"\xff\xfe'8",
            b"-x $HOME `id` \"*\"",
            "gr\u{fc}n \u{1f600}".as_bytes(),
            b"",
        ];
        for name in names {
            let script = format!("printf %s {}", quoted(name));
            let out = std::process::Command::new("bash")
                .args(["-c", &script])
                .output()
                .unwrap();
            assert_eq!(out.stdout, name, "{script}");
        }
    }
}
