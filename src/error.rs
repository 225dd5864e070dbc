//! What went wrong: a kind that becomes a code in `ffi::ret`, and words for a person.

use std::fmt;

/// The kinds of failure a caller can tell apart. `ffi::ret` gives each its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An argument, a file or a configuration is not acceptable.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The call is not allowed in the present state.
    Misuse,
    /// No leader was found before the deadline.
    NoLeader,
    /// The object was closed while the call was under way.
    Shutdown,
    /// The node is stopped.
    Stopped,
    /// A failure inside: the operating system, the engine, or this library.
    Internal,
    /// The deadline passed; nothing was changed, a retry is safe.
    Timeout,
    /// It is not known whether the change was applied.
    Unknown,
    /// The connection was lost; nothing was changed, a retry is safe.
    Retry,
    /// Another thread interrupted the call; nothing was changed.
    Interrupted,
    /// What belonged to the connection is gone with it; nothing was changed.
    SettingsLost,
    /// The queue takes no more requests.
    Full,
    /// The transaction is gone; every call fails until ROLLBACK.
    TransactionLost,
    /// Memory for it cannot be had; nothing was changed.
    NoMemory,
    /// SQLite's answer; the extended code says which.
    Sql,
}

impl Kind {
    const COUNT: usize = Self::Sql as usize + 1;

    /// All of them, in their order; a list of another length does not compile.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Invalid,
        Self::NotFound,
        Self::Misuse,
        Self::NoLeader,
        Self::Shutdown,
        Self::Stopped,
        Self::Internal,
        Self::Timeout,
        Self::Unknown,
        Self::Retry,
        Self::Interrupted,
        Self::SettingsLost,
        Self::Full,
        Self::TransactionLost,
        Self::NoMemory,
        Self::Sql,
    ];
}

/// A failure: its kind, what a person should read, and SQLite's extended code (0 = none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    kind: Kind,
    message: String,
    sqlite_code: i32,
}

/// The result of everything in this library that can fail.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of `kind`, described by `message`.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            sqlite_code: 0,
        }
    }

    /// SQLite refused: `code` is its extended result code.
    pub(crate) fn sql(code: i32, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Sql,
            message: message.into(),
            sqlite_code: code,
        }
    }

    /// Short for the kind that the operating system's failures get.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Short for a bad argument.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// Short for a call in the wrong state.
    pub(crate) fn misuse(message: impl Into<String>) -> Self {
        Self::new(Kind::Misuse, message)
    }

    /// The same failure, with where it happened in front.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The same failure, with what else there is to say behind it.
    pub(crate) fn with(mut self, rest: impl fmt::Display) -> Self {
        self.message = format!("{}; {rest}", self.message);
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn sqlite_code(&self) -> i32 {
        self.sqlite_code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
