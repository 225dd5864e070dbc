//! The numbers of the ABI; the only place that knows them.

use std::ffi::c_int;

use crate::error::{Error, Kind};

/// The call succeeded.
pub const DQLITEPY_OK: c_int = 0;
/// There is no memory for the call, and nothing was changed, or none for its result; the message says which. While memory is
/// short every call that would take some returns this at once: give some back, then try again.
pub const DQLITEPY_NOMEM: c_int = 1;
/// An argument, a file or a configuration is not acceptable.
pub const DQLITEPY_INVALID: c_int = 2;
/// The handle, node or object does not exist.
pub const DQLITEPY_NOTFOUND: c_int = 3;
/// The call is not allowed now: not running, running already, no database open, a forked child.
pub const DQLITEPY_MISUSE: c_int = 4;
/// No leader was found before the deadline; the message lists each node that was asked, with its own reason.
pub const DQLITEPY_NOLEADER: c_int = 5;
/// The node or client was stopped or destroyed during the call.
pub const DQLITEPY_SHUTDOWN: c_int = 6;
/// The node is stopped.
pub const DQLITEPY_STOPPED: c_int = 7;
/// A failure of the operating system, the engine or this library; the message says which.
pub const DQLITEPY_INTERNAL: c_int = 8;
/// The deadline passed. Nothing was changed; a retry is safe. Since 0.2.0.
pub const DQLITEPY_TIMEOUT: c_int = 100;
/// It is not known whether the statement was applied: look before you repeat it. Since 0.2.0.
pub const DQLITEPY_UNKNOWN: c_int = 101;
/// The connection was lost. Nothing was changed; a retry is safe. Since 0.2.0.
pub const DQLITEPY_RETRY: c_int = 102;
/// The transaction is gone and nothing of it was kept; every call fails until ROLLBACK. Since 0.2.0.
pub const DQLITEPY_TRANSACTION_LOST: c_int = 103;
/// The call was ended by dqlitepy_session_interrupt. Nothing was changed. Since 0.2.0.
pub const DQLITEPY_INTERRUPTED: c_int = 104;
/// A queue holds as many requests as it takes; nothing was submitted. Poll it, then submit again. Since 0.2.0.
pub const DQLITEPY_FULL: c_int = 105;
/// The connection was lost, and with it the temporary tables, attached databases and settings (PRAGMA) of the session.
/// Nothing was changed. It is said once: make them again, the next call runs without them. Since 0.2.0.
pub const DQLITEPY_SETTINGS_LOST: c_int = 106;
/// A row is there. Since 0.2.0.
pub const DQLITEPY_ROW: c_int = 200;
/// There are no more rows. Since 0.2.0.
pub const DQLITEPY_DONE: c_int = 201;
/// Rows that came out of a queue: those that are here have been read, more come (dqlitepy_queue_rows_more). Since 0.2.0.
pub const DQLITEPY_MORE: c_int = 202;
/// SQLite refused: this plus SQLite's primary result code, so 1001 is a syntax error or a missing table, 1005 "database is
/// locked", 1019 a constraint. Since 0.2.0.
pub const DQLITEPY_SQL: c_int = 1000;

/// A value is an integer: member `integer`. Types of values are those of SQLite and three that a column's declared type
/// adds. Since 0.2.0.
pub const DQLITEPY_INTEGER: c_int = 1;
/// A value is a double: member `real`. Since 0.2.0.
pub const DQLITEPY_FLOAT: c_int = 2;
/// A value is a text, which is UTF-8 unless somebody stored other bytes: members `data` and `size`. Since 0.2.0.
pub const DQLITEPY_TEXT: c_int = 3;
/// A value is a blob, or a text that holds a NUL: members `data` and `size`. Since 0.2.0.
pub const DQLITEPY_BLOB: c_int = 4;
/// There is no value. Since 0.2.0.
pub const DQLITEPY_NULL: c_int = 5;
/// An integer of a column declared DATETIME, DATE or TIMESTAMP, seconds since 1970: member `integer`. Since 0.2.0.
pub const DQLITEPY_UNIXTIME: c_int = 9;
/// A text of such a column, as it is stored: members `data` and `size`. Since 0.2.0.
pub const DQLITEPY_ISO8601: c_int = 10;
/// An integer of a column declared BOOLEAN, not reduced to 0 and 1: member `integer`. Since 0.2.0.
pub const DQLITEPY_BOOLEAN: c_int = 11;

/// A transaction that takes its locks when it needs them. Since 0.2.0.
pub const DQLITEPY_DEFERRED: c_int = 0;
/// A transaction that is the only one to write from its begin on. Since 0.2.0.
pub const DQLITEPY_IMMEDIATE: c_int = 1;
/// The same as immediate, because readers never wait here. Since 0.2.0.
pub const DQLITEPY_EXCLUSIVE: c_int = 2;

/// Metrics as JSON. Since 0.2.0.
pub const DQLITEPY_METRICS_JSON: c_int = 0;
/// Metrics in Prometheus' text format. Since 0.2.0.
pub const DQLITEPY_METRICS_PROMETHEUS: c_int = 1;

/// The node votes and holds the data.
#[expect(dead_code, reason = "only C uses it")]
pub const DQLITEPY_VOTER: c_int = 0;
/// The node holds the data and does not vote.
#[expect(dead_code, reason = "only C uses it")]
pub const DQLITEPY_STANDBY: c_int = 1;
/// The node is a member and holds no data.
#[expect(dead_code, reason = "only C uses it")]
pub const DQLITEPY_SPARE: c_int = 2;

pub(super) fn code(error: &Error) -> c_int {
    match error.kind() {
        Kind::Invalid => DQLITEPY_INVALID,
        Kind::NotFound => DQLITEPY_NOTFOUND,
        Kind::Misuse => DQLITEPY_MISUSE,
        Kind::NoLeader => DQLITEPY_NOLEADER,
        Kind::Shutdown => DQLITEPY_SHUTDOWN,
        Kind::Stopped => DQLITEPY_STOPPED,
        Kind::Internal => DQLITEPY_INTERNAL,
        Kind::Timeout => DQLITEPY_TIMEOUT,
        Kind::Unknown => DQLITEPY_UNKNOWN,
        Kind::Retry => DQLITEPY_RETRY,
        Kind::SettingsLost => DQLITEPY_SETTINGS_LOST,
        Kind::Full => DQLITEPY_FULL,
        Kind::Interrupted => DQLITEPY_INTERRUPTED,
        Kind::TransactionLost => DQLITEPY_TRANSACTION_LOST,
        Kind::NoMemory => DQLITEPY_NOMEM,
        Kind::Sql => sql_code(error.sqlite_code()),
    }
}

/// dqlite's own codes lie above 1000 and have no primary part. [protocol 8]
fn sql_code(extended: c_int) -> c_int {
    match extended {
        0 | 1001..=1005 => DQLITEPY_SQL + 1,
        extended => DQLITEPY_SQL + (extended & 0xff),
    }
}
