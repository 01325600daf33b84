//! POSIX ACLs: the kernel's binary attribute value and the text that pax headers carry.
//!
//! Both ways are total, and exact inverses where they succeed: [`to_text`] refuses a value that
//! [`from_text`] would not give back byte for byte. Identities are always numbers, so that a
//! restore does not depend on whose user database it runs under.

use super::wire::Cursor;

/// The extended attribute of a file's own ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of what a directory's new children get.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// The identity of entries that name nobody.
const NOBODY: u32 = u32::MAX;
/// Tags that name nobody, and their words.
const PLAIN: [(u16, &str); 4] = [
    (0x01, "user"),
    (0x04, "group"),
    (0x10, "mask"),
    (0x20, "other"),
];
/// Tags with an identity, and their words.
const NAMED: [(u16, &str); 2] = [(0x02, "user"), (0x08, "group")];

/// Why an ACL cannot be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a POSIX ACL: {0}")]
pub struct AclError(&'static str);

/// Text such as `user::rw-,user:1000:r--,group::r--,mask::r--,other::---` of an attribute's value.
///
/// # Errors
/// [`AclError`] if the value is malformed or empty.
pub fn to_text(value: &[u8]) -> Result<String, AclError> {
    let mut cursor = Cursor::new(value);
    if cursor.u32().map_err(AclError)? != VERSION {
        return Err(AclError("unknown version"));
    }
    if cursor.remaining() == 0 {
        return Err(AclError("no entries"));
    }
    let mut text = String::new();
    while cursor.remaining() > 0 {
        let tag = u16::from_le_bytes(cursor.array().map_err(AclError)?);
        let perm = u16::from_le_bytes(cursor.array().map_err(AclError)?);
        let id = cursor.u32().map_err(AclError)?;
        if perm > 7 {
            return Err(AclError("unknown permission bits"));
        }
        if !text.is_empty() {
            text.push(',');
        }
        let word = |list: &[(u16, &'static str)]| list.iter().find(|e| e.0 == tag).map(|e| e.1);
        match (word(&PLAIN), word(&NAMED)) {
            (Some(word), _) if id == NOBODY => {
                text.push_str(word);
                text.push_str("::");
            }
            (_, Some(word)) if id != NOBODY => {
                text.push_str(word);
                text.push_str(&format!(":{id}:"));
            }
            _ => return Err(AclError("unknown tag, or an identity where none belongs")),
        }
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            text.push(if perm & bit != 0 { letter } else { '-' });
        }
    }
    Ok(text)
}

/// The attribute's value of a text made by [`to_text`].
///
/// # Errors
/// [`AclError`] for any other text.
pub fn from_text(text: &[u8]) -> Result<Vec<u8>, AclError> {
    let text = std::str::from_utf8(text).map_err(|_| AclError("not text"))?;
    let mut value = VERSION.to_le_bytes().to_vec();
    for entry in text.split(',') {
        let mut parts = entry.split(':');
        let (Some(word), Some(id), Some(perm), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AclError("an entry has not three parts"));
        };
        let list: &[(u16, &str)] = if id.is_empty() { &PLAIN } else { &NAMED };
        let tag = list
            .iter()
            .find(|e| e.1 == word)
            .ok_or(AclError("unknown word"))?
            .0;
        let id = if id.is_empty() { NOBODY } else { identity(id)? };
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions(perm.as_bytes())?.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Ok(value)
}

fn identity(text: &str) -> Result<u32, AclError> {
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let id = text.parse().ok().filter(|id| *id != NOBODY && canonical);
    id.ok_or(AclError("not a numeric identity"))
}

fn permissions(text: &[u8]) -> Result<u16, AclError> {
    let [r, w, x] = text else {
        return Err(AclError("permissions are not three letters"));
    };
    let mut perm = 0;
    for (found, letter, bit) in [(r, b'r', 4), (w, b'w', 2), (x, b'x', 1)] {
        if *found == letter {
            perm |= bit;
        } else if *found != b'-' {
            return Err(AclError("unknown permission letter"));
        }
    }
    Ok(perm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn well_formed_values_round_trip(
            entries in proptest::collection::vec((0..6_usize, 0..8_u16, 0..u32::MAX), 1..20)
        ) {
            let mut value = VERSION.to_le_bytes().to_vec();
            for (tag, perm, id) in entries {
                let tag = [0x01_u16, 0x02, 0x04, 0x08, 0x10, 0x20][tag];
                let id = if matches!(tag, 2 | 8) { id } else { NOBODY };
                value.extend_from_slice(&tag.to_le_bytes());
                value.extend_from_slice(&perm.to_le_bytes());
                value.extend_from_slice(&id.to_le_bytes());
            }
            let text = to_text(&value).unwrap();
            prop_assert_eq!(from_text(text.as_bytes()), Ok(value));
        }

        #[test]
        fn what_converts_converts_back(mut value: Vec<u8>, text in "[usergopthmak:,0-9rwx-]{0,40}") {
            if let Ok(binary) = from_text(text.as_bytes()) {
                prop_assert_eq!(to_text(&binary).unwrap(), text);
            }
            value.splice(0..0, VERSION.to_le_bytes());
            if let Ok(text) = to_text(&value) {
                prop_assert_eq!(from_text(text.as_bytes()), Ok(value));
            }
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        assert!(to_text(b"").is_err());
        assert!(to_text(&[2, 0, 0, 0]).is_err());
        assert!(to_text(&[2, 0, 0, 0, 1, 0, 9, 0, 255, 255, 255, 255]).is_err());
        assert!(to_text(&[2, 0, 0, 0, 1, 0, 7, 0, 0, 0, 0, 0]).is_err());
        assert!(from_text(b"").is_err());
        assert!(from_text(b"user:01:rwx").is_err());
        assert!(from_text(b"user:4294967295:rwx").is_err());
        assert!(from_text(b"user:+1:rwx").is_err());
    }
}
