//! What a failed attempt to run a statement says about the database: did it run, may it run again.

use crate::client::Broken;
use crate::db::sql::{Kind as Sql, Statement};
use crate::db::value::TOO_BIG;
use crate::error::{Error, Kind};
use crate::net::Cause;
use crate::wire::Response;

/// FAILURE codes with a meaning of their own. [protocol 8]
pub(super) mod code {
    pub(in crate::db) const NOT_LEADER: u64 = 10250;
    pub(in crate::db) const LEADERSHIP_LOST: u64 = 10506;
    /// The two above, from servers older than 2020.
    pub(in crate::db) const OLD_NOT_LEADER: u64 = 8202;
    pub(in crate::db) const OLD_LEADERSHIP_LOST: u64 = 8458;
    /// No database or statement of that id: the node lost and regained the lead meanwhile.
    pub(in crate::db) const NOT_OPEN: u64 = 12;
    pub(in crate::db) const ERROR: u64 = 1;
    pub(in crate::db) const BUSY: u64 = 5;
    pub(in crate::db) const IO_ERROR: u64 = 10;
}

/// What the engine says of QUERY_SQL that failed before its first step, whatever the cause. [protocol 11.3]
const MISREPORTED: &[u8] = b"nonempty statement tail";
/// What it says of code 10 when SQLite has no text for it: the statement may be committed by the others.
const NO_REASON: &[u8] = b"leader exec failed";
const LIKELY_REASONS: &str =
    "leader exec failed (its disk may be full, read-only or failing, its memory or descriptors short)";

/// How an attempt to run a statement ended, if it did not succeed.
pub(super) enum Failed {
    /// It did not run; asking again is allowed outside a transaction.
    NotRun(Error),
    /// SQLite refused; the connection is fine.
    Refused(Error),
    /// The answer that QUERY_SQL gives for several reasons.
    Misreported,
    /// The connection is of no use any more.
    Ended(Error),
    /// The same, because another thread wanted it; `unknown`: the statement may have been applied.
    Woken { unknown: bool },
}

/// Whether it may have changed the database, if it is not known whether it ran.
pub(super) fn may_change(statement: &Statement<'_>) -> bool {
    match statement.kind {
        Sql::Insert | Sql::Change | Sql::Commit | Sql::Release(_) | Sql::Pragma | Sql::Other => true,
        Sql::Read | Sql::Begin | Sql::Rollback | Sql::Savepoint(_) | Sql::RollbackTo(_) => false,
    }
}

/// Some errors end a transaction on the way: a full disk, an interrupt, ON CONFLICT ROLLBACK.
pub(super) fn may_end_transaction(error: &Error) -> bool {
    let primary = u64::from(error.sqlite_code().unsigned_abs() & 0xff);
    // What this library refused was not asked of SQLite.
    error.kind() == Kind::Sql && !matches!(primary, code::ERROR | code::BUSY)
}

pub(super) fn not_run(broken: &Broken) -> Failed {
    let unchanged = |kind| Error::new(kind, format!("{}; nothing was changed", broken.reason));
    match broken.cause {
        Cause::Woken => Failed::Woken { unknown: false },
        Cause::TimedOut => Failed::Ended(unchanged(Kind::Timeout)),
        // Unless it was the answer that there was no room for, the connection is as before.
        Cause::NoMemory if broken.sent => Failed::Ended(unchanged(Kind::NoMemory)),
        Cause::NoMemory => Failed::Refused(unchanged(Kind::NoMemory)),
        Cause::Closed | Cause::TooLong | Cause::Other => Failed::NotRun(Error::new(Kind::Retry, &*broken.reason)),
    }
}

/// No answer came to a statement.
pub(super) fn ended(statement: &Statement<'_>, broken: Broken) -> Failed {
    if !broken.sent {
        return not_run(&broken);
    }
    let changes = may_change(statement);
    let (kind, outcome) = match broken.cause {
        Cause::Woken => return Failed::Woken { unknown: changes },
        _ if changes => (Kind::Unknown, "it is not known whether the statement was applied"),
        Cause::TooLong => return Failed::Ended(Error::sql(TOO_BIG, broken.reason)),
        Cause::TimedOut => (Kind::Timeout, "nothing was changed, a retry is safe"),
        Cause::NoMemory => (Kind::NoMemory, "nothing was changed"),
        Cause::Closed | Cause::Other => (Kind::Retry, "nothing was changed, a retry is safe"),
    };
    Failed::Ended(Error::new(kind, format!("{}; {outcome}", broken.reason)))
}

/// The caller's time is over, and the statement still runs.
pub(super) fn overdue(statement: &Statement<'_>, reason: &str) -> Failed {
    ended(
        statement,
        Broken {
            sent: true,
            cause: Cause::TimedOut,
            reason: reason.to_owned(),
        },
    )
}

pub(super) fn refused(statement: &Statement<'_>, code: u64, message: &[u8]) -> Failed {
    let text = String::from_utf8_lossy(message);
    match code {
        code::NOT_LEADER | code::OLD_NOT_LEADER | code::NOT_OPEN => Failed::NotRun(failure(code, &text)),
        code::LEADERSHIP_LOST | code::OLD_LEADERSHIP_LOST => undecided(statement, &text),
        code::IO_ERROR if message == NO_REASON => undecided(statement, LIKELY_REASONS),
        code::ERROR if message == MISREPORTED => Failed::Misreported,
        _ => Failed::Refused(failure(code, &text)),
    }
}

/// The leader could not finish the statement; the others may have it all the same.
pub(super) fn undecided(statement: &Statement<'_>, text: &str) -> Failed {
    Failed::Ended(if may_change(statement) {
        Error::new(
            Kind::Unknown,
            format!("the leader says: {text}; it is not known whether the statement was applied"),
        )
    } else {
        Error::new(
            Kind::Retry,
            format!("the leader says: {text}; nothing was changed, a retry is safe"),
        )
    })
}

pub(super) fn failure(code: u64, text: &str) -> Error {
    Error::sql(i32::try_from(code).unwrap_or(1), text)
}

pub(super) fn senseless(statement: &Statement<'_>, request: &str, response: &Response<'_>) -> Failed {
    let answer = format!("{request} was answered with {}", response.name());
    Failed::Ended(unread(statement, Error::internal(answer)))
}

/// An answer that could not be taken: of a write only its end says that it was done.
pub(super) fn unread(statement: &Statement<'_>, error: Error) -> Error {
    if !may_change(statement) {
        return error;
    }
    let text = format!("{}; it is not known whether the statement was applied", error.message());
    Error::new(Kind::Unknown, text)
}

/// The statement failed behind rows that were handed out: run again, it would give them twice.
pub(super) fn behind_rows(statement: &Statement<'_>, failed: Failed) -> Failed {
    match failed {
        // Its first step was done.
        Failed::NotRun(error) => undecided(statement, error.message()),
        Failed::Refused(error) if error.sqlite_code() == code::BUSY as i32 => Failed::Ended(error),
        Failed::Misreported => Failed::Refused(misreported()),
        failed => failed,
    }
}

/// What stands for an error whose reason is not told.
pub(super) fn misreported() -> Error {
    Error::sql(code::ERROR as i32, String::from_utf8_lossy(MISREPORTED))
}
