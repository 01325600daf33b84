//! Credentials of a program that has its own; `cairn` itself never does.

use std::fmt;

/// An access key with its secret. It is never printed.
#[derive(Clone)]
pub struct Access {
    #[cfg_attr(not(feature = "s3"), expect(dead_code, reason = "nobody asks for it"))]
    pub(super) key: String,
    #[cfg_attr(not(feature = "s3"), expect(dead_code, reason = "nobody asks for it"))]
    pub(super) secret: String,
}

impl Access {
    /// A pair.
    #[must_use]
    pub fn new(key: &str, secret: &str) -> Self {
        Self {
            key: key.to_owned(),
            secret: secret.to_owned(),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access(***)")
    }
}
