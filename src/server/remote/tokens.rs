//! Bearer tokens: whom a remote caller is taken for. An administrator issues, lists and revokes them.
//!
//! # Invariants
//! - The file holds hashes (SHA-256 of 256 random bits, so no salt is needed): who reads it cannot use them.
//! - It is replaced whole and durably; what was issued or revoked is so once the command returns.
//! - It is read again whenever it changed: a revoked token does not open another request.

use crate::id::hex_of;
use cairn_mover::Secret;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Name of the file in the state directory.
const FILE: &str = "tokens.json";
/// In the first version all tokens were users'. An older program must not take a mover's for one.
const SCHEMA: &str = "cairn.tokens.v2";
const SCHEMA_BEFORE: &str = "cairn.tokens.v1";
/// As whom a mover acts on this host: as nobody.
const NOBODY: u32 = 65534;
/// What each token's text begins with, so that a leaked one is recognised.
const PREFIX: &str = "cairn_";

/// Why tokens cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A system call failed.
    #[error("{step} {}: {source}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file does not parse.
    #[error("{} is damaged: {why}; put it aside and issue the tokens again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is none of that name.
    #[error("no token {0}")]
    Unknown(String),
    /// No random bytes.
    #[error("no random bytes for a token: {0}")]
    Random(#[from] cairn_mover::NoRandom),
}

/// A token, without what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its name: eight hexadecimal digits, which are also in its text.
    pub id: String,
    /// As whom its bearer acts.
    pub uid: u32,
    /// What it is for, as the administrator said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// It lets in the mover of that name, and no user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mover: Option<String>,
    /// When it was issued: seconds since 1970.
    pub issued: u64,
    /// From when on it is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// SHA-256 of its text, in hexadecimal.
    sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    schema: String,
    tokens: Vec<Token>,
}

/// The tokens of an instance.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    /// What was read, and of which state of the file.
    read: Mutex<(Option<Stamp>, Vec<Token>)>,
}

type Stamp = (u64, i64, i64, u64);

fn hash(text: &str) -> String {
    hex_of(&Sha256::digest(text.as_bytes()))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

impl Tokens {
    /// Those in a state directory; none is there yet, perhaps.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self {
            path: state.join(FILE),
            read: Mutex::default(),
        }
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(io::Error) -> TokenError + '_ {
        move |source| TokenError::Io {
            step,
            path: self.path.clone(),
            source,
        }
    }

    /// All of them, in the order in which they were issued.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn list(&self) -> Result<Vec<Token>, TokenError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("read")(error)),
        };
        let damaged = |why: String| TokenError::Damaged {
            path: self.path.clone(),
            why,
        };
        let kept: Kept = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if kept.schema != SCHEMA && kept.schema != SCHEMA_BEFORE {
            return Err(damaged(format!(
                "its schema is {:?}, and not {SCHEMA:?}",
                kept.schema
            )));
        }
        Ok(kept.tokens)
    }

    /// Issues a token for a user, and returns its text: nobody can tell it again.
    ///
    /// # Errors
    /// The file cannot be replaced; there is no new token then.
    pub fn issue(
        &self,
        uid: u32,
        label: Option<String>,
        lasts: Option<Duration>,
    ) -> Result<(Token, String), TokenError> {
        self.issue_for(uid, None, label, lasts)
    }

    /// Issues one for the mover of that name.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_mover(
        &self,
        name: &str,
        label: Option<String>,
        lasts: Option<Duration>,
    ) -> Result<(Token, String), TokenError> {
        self.issue_for(NOBODY, Some(name.to_owned()), label, lasts)
    }

    fn issue_for(
        &self,
        uid: u32,
        mover: Option<String>,
        label: Option<String>,
        lasts: Option<Duration>,
    ) -> Result<(Token, String), TokenError> {
        let secret = Secret::generate()?;
        let (name, proof) = (Secret::generate()?, hex_of(secret.expose()));
        let id = hex_of(&name.expose()[..4]);
        let text = format!("{PREFIX}{id}_{proof}");
        let token = Token {
            id,
            uid,
            label,
            mover,
            issued: now(),
            expires: lasts.map(|d| now().saturating_add(d.as_secs())),
            sha256: hash(&text),
        };
        self.change(|tokens| {
            tokens.push(token.clone());
            Ok(())
        })?;
        Ok((token, text))
    }

    /// Takes a token back. A request that is under way with it goes on; the next one is refused.
    ///
    /// # Errors
    /// There is none of that name, or the file cannot be replaced.
    pub fn revoke(&self, id: &str) -> Result<Token, TokenError> {
        let mut gone = None;
        self.change(|tokens| {
            let at = tokens.iter().position(|t| t.id == id);
            let at = at.ok_or_else(|| TokenError::Unknown(id.to_owned()))?;
            gone = Some(tokens.remove(at));
            Ok(())
        })?;
        gone.ok_or_else(|| TokenError::Unknown(id.to_owned()))
    }

    /// One change at a time, of all processes.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Token>) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        let lock = self.path.with_extension("lock");
        let open = |path: &Path| {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(path)
        };
        let lock = open(&lock).map_err(self.failed("open the lock of"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| self.failed("lock")(e.into()))?;
        let mut tokens = self.list()?;
        change(&mut tokens)?;
        // Where there is none of a mover, an older program reads it, too.
        let schema = match tokens.iter().any(|token| token.mover.is_some()) {
            true => SCHEMA,
            false => SCHEMA_BEFORE,
        };
        let kept = Kept {
            schema: schema.to_owned(),
            tokens,
        };
        let text = serde_json::to_vec_pretty(&kept).map_err(|e| self.failed("write")(e.into()))?;
        let new = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = File::options()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            let above = self.path.parent().unwrap_or(Path::new("."));
            File::open(above)?.sync_all()
        };
        write().map_err(self.failed("replace"))
    }

    /// Is the token of that name still good?
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_good(&self, id: &str) -> Result<bool, TokenError> {
        let now = now();
        let found = self.list()?.into_iter().find(|t| t.id == id);
        Ok(found.is_some_and(|t| t.expires.is_none_or(|end| now < end)))
    }

    /// The token that this is the text of, if it is good now.
    ///
    /// # Errors
    /// The file cannot be read: nobody is let in.
    pub fn find(&self, text: &str) -> Result<Option<Token>, TokenError> {
        let stamp = match fs::metadata(&self.path) {
            Ok(m) => Some((m.ino(), m.mtime(), m.mtime_nsec(), m.size())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.failed("look at")(error)),
        };
        let mut read = self.read.lock();
        if read.0 != stamp || stamp.is_none() {
            *read = (stamp, self.list()?);
        }
        let (sum, now) = (hash(text), now());
        let found = read.1.iter().find(|t| t.sha256 == sum);
        Ok(found
            .filter(|t| t.expires.is_none_or(|end| now < end))
            .cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_until_it_is_revoked() {
        let state = tempfile::tempdir().unwrap();
        let (door, desk) = (Tokens::of(state.path()), Tokens::of(state.path()));
        assert_eq!(door.find("cairn_x").unwrap(), None);
        let (token, text) = desk.issue(1000, Some("laptop".into()), None).unwrap();
        let (other, _) = desk.issue(1001, None, None).unwrap();
        assert_eq!(door.find(&text).unwrap().map(|t| t.uid), Some(1000));
        assert_eq!(door.find(&text.replace('a', "b")).unwrap(), None);
        assert_eq!(door.find(&format!("{text} ")).unwrap(), None);
        let kept = fs::read_to_string(state.path().join(FILE)).unwrap();
        let secret = text.rsplit('_').next().unwrap();
        assert!(!kept.contains(secret), "{kept}");
        desk.revoke(&token.id).unwrap();
        assert_eq!(door.find(&text).unwrap(), None);
        assert_eq!(door.list().unwrap(), [other]);
        assert!(matches!(
            desk.revoke(&token.id),
            Err(TokenError::Unknown(_))
        ));
    }

    #[test]
    fn a_token_whose_time_is_over_opens_nothing() {
        let state = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(state.path());
        let (_, text) = tokens.issue(7, None, Some(Duration::ZERO)).unwrap();
        assert_eq!(tokens.find(&text).unwrap(), None);
        let (_, text) = tokens
            .issue(7, None, Some(Duration::from_secs(3600)))
            .unwrap();
        assert!(tokens.find(&text).unwrap().is_some());
    }

    #[test]
    fn a_movers_token_is_no_users_and_older_files_are_read() {
        let state = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(state.path());
        let (_, user) = tokens.issue(7, None, None).unwrap();
        let path = state.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(SCHEMA_BEFORE),
            "an older program does not read it"
        );
        let (_, mover) = tokens.issue_mover("tapes", None, None).unwrap();
        let found = tokens.find(&mover).unwrap().unwrap();
        assert_eq!((found.uid, found.mover.as_deref()), (NOBODY, Some("tapes")));
        assert_eq!(tokens.find(&user).unwrap().unwrap().mover, None);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(SCHEMA),
            "an older program takes it for its own"
        );
    }

    #[test]
    fn a_damaged_file_lets_nobody_in() {
        let state = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(state.path());
        let (_, text) = tokens.issue(7, None, None).unwrap();
        fs::write(state.path().join(FILE), "{").unwrap();
        assert!(matches!(
            tokens.find(&text),
            Err(TokenError::Damaged { .. })
        ));
    }
}
