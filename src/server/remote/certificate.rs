//! The door's certificate: the administrator's, or one that the instance makes for itself and whose fingerprint callers
//! are told together with their token.
//!
//! Invariant: the key is in a file that its owner alone may read, and is never printed.

use crate::id::hex_of;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Certificate and key of the instance's own, in the state directory, one file: neither is there without the other.
const OWN: &str = "remote.pem";

/// Why the door has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or written.
    #[error("{step} {}: {source}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What it holds is no certificate, or no key, or they do not belong together.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key cannot be made.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What the door shows.
#[derive(Clone)]
pub struct Identity {
    /// What TLS needs.
    pub config: Arc<ServerConfig>,
    /// Fingerprint of the certificate: see [`fingerprint`].
    pub fingerprint: String,
}

/// SHA-256 of a certificate (DER), in hexadecimal: what callers who know no authority pin it by.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex_of(&Sha256::digest(certificate))
}

impl Identity {
    /// The administrator's, from two PEM files.
    ///
    /// # Errors
    /// A file cannot be read, or they do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let unusable = |path: &Path, why: String| CertificateError::Unusable {
            path: path.to_owned(),
            why,
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(|e| unusable(certificate, e.to_string()));
        let chain: Vec<CertificateDer<'static>> = chain?;
        let Some(first) = chain.first() else {
            return Err(unusable(certificate, "it holds no certificate".to_owned()));
        };
        let fingerprint = fingerprint(first);
        let key_der =
            PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(key, e.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable(certificate, e.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, key_der)
            .map_err(|e| unusable(certificate, e.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            fingerprint,
        })
    }

    /// The instance's own, made if it is not there.
    ///
    /// # Errors
    /// It cannot be made, kept or read.
    pub fn own(state: &Path) -> Result<Self, CertificateError> {
        let path = state.join(OWN);
        if !path.exists() {
            make(&path)?;
        }
        Self::load(&path, &path)
    }
}

fn make(path: &Path) -> Result<(), CertificateError> {
    let key = KeyPair::generate()?;
    let mut names = vec!["localhost".to_owned()];
    if let Ok(host) = rustix::system::uname().nodename().to_str() {
        names.push(host.to_owned());
    }
    let mut parameters = CertificateParams::new(names)?;
    // Callers pin it; nobody has to come back once a year to make another.
    parameters.not_after = rcgen::date_time_ymd(9999, 1, 1);
    let certificate = parameters.self_signed(&key)?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    // Two may make one at the same time: the first to have its name is the one.
    let write = || -> io::Result<()> {
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(certificate.pem().as_bytes())?;
        file.write_all(key.serialize_pem().as_bytes())?;
        file.sync_all()?;
        let linked = fs::hard_link(&new, path);
        fs::remove_file(&new)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all(),
        }
    };
    write().map_err(|source| CertificateError::Io {
        step: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn its_own_certificate_is_made_once_and_is_nobody_elses_to_read() {
        let state = tempfile::tempdir().unwrap();
        let first = Identity::own(state.path()).unwrap();
        let again = Identity::own(state.path()).unwrap();
        assert_eq!(first.fingerprint, again.fingerprint);
        assert_eq!(first.fingerprint.len(), 64);
        let mode = fs::metadata(state.path().join(OWN))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(state.path().join(OWN), "-----BEGIN NOTHING").unwrap();
        assert!(matches!(
            Identity::own(state.path()),
            Err(CertificateError::Unusable { .. })
        ));
    }
}
