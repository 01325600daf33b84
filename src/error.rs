//! The vocabulary of failure: one word for each decision that a caller can take, and what it is
//! called at each door.
//!
//! Promises: the tables are exhaustive, without a `_` arm; a word, an exit code and an HTTP status
//! that was once given is never given to something else (the snapshot below holds them).

/// Why something was not done, sorted by what the one who asked can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// Every copy that there is is bad or gone. Restore from elsewhere.
    NoGoodCopy,
    /// Somebody wrote into a stub behind the mount. An administrator decides.
    Conflict,
    /// The stub belongs to another archive. An administrator decides.
    Foreign,
    /// No copy is known. An administrator may repair.
    Lost,
    /// The tier does not answer. Try later.
    TierUnavailable,
    /// The cartridge is not in the library. Ask for it.
    CartridgeAbsent,
    /// It takes longer than the caller wanted to wait; it goes on.
    TimedOut,
    /// More than this user may have recalled at once. Wait for the others.
    OverBudget,
    /// The filesystem is full. Make room.
    NoSpace,
    /// The owner's quota is used up. Make room.
    QuotaExceeded,
    /// This user may not.
    NotPermitted,
    /// There is no such file.
    NotFound,
    /// The name is taken. Choose another.
    Exists,
    /// It is no regular file.
    NotAFile,
    /// Somebody has it open, or works on it. Try later.
    Busy,
    /// It changed while it was worked on. Try again.
    Changed,
    /// A signal ended the wait.
    Interrupted,
    /// Somebody cancelled the request.
    Cancelled,
    /// The question itself is wrong.
    Usage,
    /// No instance runs there. Start one.
    NoInstance,
    /// Another instance runs there already.
    AlreadyRunning,
    /// Written by a newer version. Upgrade.
    Newer,
    /// A defect of Cairn. Report it.
    Internal,
}

/// Exit code of work done, or accepted where nobody waits for it.
pub const EXIT_DONE: u8 = 0;

impl Failure {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 23] = [
        Self::NoGoodCopy,
        Self::Conflict,
        Self::Foreign,
        Self::Lost,
        Self::TierUnavailable,
        Self::CartridgeAbsent,
        Self::TimedOut,
        Self::OverBudget,
        Self::NoSpace,
        Self::QuotaExceeded,
        Self::NotPermitted,
        Self::NotFound,
        Self::Exists,
        Self::NotAFile,
        Self::Busy,
        Self::Changed,
        Self::Interrupted,
        Self::Cancelled,
        Self::Usage,
        Self::NoInstance,
        Self::AlreadyRunning,
        Self::Newer,
        Self::Internal,
    ];

    /// The stable word for it: JSON, logs, metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoGoodCopy => "no-good-copy",
            Self::Conflict => "conflict",
            Self::Foreign => "foreign",
            Self::Lost => "lost",
            Self::TierUnavailable => "tier-unavailable",
            Self::CartridgeAbsent => "cartridge-absent",
            Self::TimedOut => "timed-out",
            Self::OverBudget => "over-budget",
            Self::NoSpace => "no-space",
            Self::QuotaExceeded => "quota-exceeded",
            Self::NotPermitted => "not-permitted",
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::NotAFile => "not-a-file",
            Self::Busy => "busy",
            Self::Changed => "changed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::Usage => "usage",
            Self::NoInstance => "no-instance",
            Self::AlreadyRunning => "already-running",
            Self::Newer => "newer",
            Self::Internal => "internal",
        }
    }

    /// The failure of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == word)
    }

    /// What a system call through the mount fails with. Different where errno allows (P5).
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NoGoodCopy | Self::Conflict | Self::Foreign | Self::Lost | Self::Internal => {
                libc::EIO
            }
            Self::TierUnavailable => libc::EHOSTDOWN,
            Self::CartridgeAbsent => libc::ENOMEDIUM,
            Self::TimedOut => libc::ETIMEDOUT,
            Self::OverBudget => libc::EUSERS,
            Self::NoSpace => libc::ENOSPC,
            Self::QuotaExceeded => libc::EDQUOT,
            Self::NotPermitted => libc::EPERM,
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotAFile | Self::Usage => libc::EINVAL,
            Self::Busy | Self::AlreadyRunning => libc::EBUSY,
            Self::Changed => libc::EAGAIN,
            Self::Interrupted => libc::EINTR,
            Self::Cancelled => libc::ECANCELED,
            Self::NoInstance => libc::ENOTCONN,
            Self::Newer => libc::EPROTONOSUPPORT,
        }
    }

    /// What a command ends with: 1 some files failed, 2 usage, 3 no instance, 4 time out and still
    /// running, 5 not permitted, 6 tier unavailable; see also [`EXIT_DONE`].
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::NoGoodCopy
            | Self::Conflict
            | Self::Foreign
            | Self::Lost
            | Self::OverBudget
            | Self::NoSpace
            | Self::QuotaExceeded
            | Self::NotFound
            | Self::Exists
            | Self::NotAFile
            | Self::Busy
            | Self::Changed
            | Self::Cancelled
            | Self::AlreadyRunning
            | Self::Newer
            | Self::Internal => 1,
            Self::Usage => 2,
            Self::NoInstance => 3,
            // An interrupted wait is detached: the request goes on.
            Self::TimedOut | Self::Interrupted => 4,
            Self::NotPermitted => 5,
            Self::TierUnavailable | Self::CartridgeAbsent => 6,
        }
    }

    /// What an HTTP request is answered with.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Usage | Self::NotAFile => 400,
            Self::NotPermitted => 403,
            Self::NotFound => 404,
            Self::Conflict
            | Self::Foreign
            | Self::Exists
            | Self::Busy
            | Self::Changed
            | Self::Cancelled
            | Self::AlreadyRunning => 409,
            Self::Lost | Self::NoGoodCopy => 410,
            Self::OverBudget => 429,
            Self::Internal => 500,
            Self::Newer => 501,
            Self::TierUnavailable
            | Self::CartridgeAbsent
            | Self::NoInstance
            | Self::Interrupted => 503,
            Self::TimedOut => 504,
            Self::NoSpace | Self::QuotaExceeded => 507,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
