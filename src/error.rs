//! The failures that Cairn tells its users apart, and the one table for each door: errno, exit
//! code, HTTP status, name. Each table is exhaustive on purpose: no `_` arm.

use std::fmt;

/// Why something could not be done, as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// No good copy of the data is left on any tier that answers.
    NoGoodCopy,
    /// Somebody wrote into a stub behind Cairn's back.
    Conflict,
    /// A stub that belongs to another file or filesystem.
    Foreign,
    /// The last copy is gone.
    Lost,
    /// The tier does not answer.
    TierUnavailable,
    /// The cartridge is not in the library.
    CartridgeAbsent,
    /// Waited as long as was allowed; the work goes on.
    TimedOut,
    /// The caller's share of recalls is used up.
    OverBudget,
    /// No room on the disk or tier.
    NoSpace,
    /// The owner's quota is used up.
    QuotaExceeded,
    /// The caller may not do this.
    NotPermitted,
    /// There is no such thing.
    NotFound,
    /// The thing is no regular file, and the verb needs one.
    NotAFile,
    /// Somebody uses it now.
    Busy,
    /// It changed while it was being worked on.
    Changed,
    /// The caller was interrupted.
    Interrupted,
    /// The request was cancelled.
    Cancelled,
    /// The question was malformed.
    Usage,
    /// No running instance answers.
    NoInstance,
    /// Another instance holds the state or the backing.
    AlreadyRunning,
    /// Made by a newer version.
    Newer,
    /// A fault in Cairn itself, or one that fits nowhere else.
    Internal,
}

impl Failure {
    /// Every failure.
    pub const ALL: [Self; 22] = [
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

    /// Its name in JSON and messages.
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

    /// The failure of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == name)
    }

    /// What a system call through the mount answers.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NoGoodCopy | Self::Conflict | Self::Foreign | Self::Lost | Self::Internal => {
                libc::EIO
            }
            Self::TierUnavailable | Self::NoInstance => libc::EHOSTDOWN,
            Self::CartridgeAbsent => libc::ENOMEDIUM,
            Self::TimedOut => libc::ETIMEDOUT,
            Self::OverBudget | Self::Changed => libc::EAGAIN,
            Self::NoSpace => libc::ENOSPC,
            Self::QuotaExceeded => libc::EDQUOT,
            Self::NotPermitted => libc::EACCES,
            Self::NotFound => libc::ENOENT,
            Self::NotAFile | Self::Usage => libc::EINVAL,
            Self::Busy | Self::AlreadyRunning => libc::EBUSY,
            Self::Interrupted => libc::EINTR,
            Self::Cancelled => libc::ECANCELED,
            Self::Newer => libc::EOPNOTSUPP,
        }
    }

    /// What a command exits with (see `cairn --help`).
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
            | Self::NotAFile
            | Self::Busy
            | Self::Changed
            | Self::Cancelled
            | Self::AlreadyRunning
            | Self::Newer
            | Self::Internal => 1,
            Self::Usage => 2,
            Self::NoInstance => 3,
            Self::TimedOut | Self::Interrupted => 4,
            Self::NotPermitted => 5,
            Self::TierUnavailable | Self::CartridgeAbsent => 6,
        }
    }

    /// What the control API answers.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Usage | Self::NotAFile => 400,
            Self::NotPermitted => 403,
            Self::NotFound => 404,
            Self::Conflict
            | Self::Foreign
            | Self::Busy
            | Self::Changed
            | Self::Cancelled
            | Self::AlreadyRunning => 409,
            Self::NoGoodCopy | Self::Lost => 410,
            Self::OverBudget => 429,
            Self::Internal | Self::Newer => 500,
            Self::TierUnavailable
            | Self::CartridgeAbsent
            | Self::NoInstance
            | Self::Interrupted => 503,
            Self::TimedOut => 504,
            Self::NoSpace | Self::QuotaExceeded => 507,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
