//! Sessions: a database with a transaction of its own, and SQL that is run at once.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::Arc;
use std::time::Duration;

use crate::client::{Connector, WakeSlot};
use crate::db::{Mode, SharedSession};
use crate::engine::fork;
use crate::error::{Error, Result};
use crate::ffi::guard::{guard, guard_always, guard_code, guard_value, message_of};
use crate::ffi::{alloc, args, dqlitepy_handle, object, ret, rows_handle};
use crate::handle;
use crate::limits::{self, Timeout};
use crate::net::parse_csv;
use crate::node::Node;

/// Makes a call on a session and remembers its failure there.
fn session<T>(handle: dqlitepy_handle, call: impl FnOnce(&Arc<SharedSession>) -> Result<T>) -> Result<T> {
    let session = object::<SharedSession>(handle)?;
    call(&session).inspect_err(|error| session.note(error))
}

/// Opens a session on a running node: a connection to the leader with the database open, created if it does not exist.
///
/// `node` is a node's handle. `db_name` is a NUL-terminated UTF-8 name of 1 to 200 bytes without '/', ':' and '?' that does not
/// end with -wal or -journal.
/// `session_out` receives the handle, to be given back with dqlitepy_session_close; 0 on failure.
/// Each session has its own transaction, temporary tables and settings; a process may have any number of them on any
/// databases. Calls of several threads on one session wait for each other. When the node is stopped or its handle is
/// destroyed its sessions end: calls under way and later ones return DQLITEPY_SHUTDOWN.
/// Blocks until the leader has answered, 30 s at most (dqlitepy_node_set_timeout, which is also the session's).
/// Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND, DQLITEPY_MISUSE (not running), DQLITEPY_NOLEADER,
/// DQLITEPY_SHUTDOWN, DQLITEPY_STOPPED, DQLITEPY_TIMEOUT, DQLITEPY_RETRY or DQLITEPY_INTERNAL. Since 0.2.0.
///
/// # Safety
/// `db_name` is NULL or a NUL-terminated string, `session_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_open(
    node: dqlitepy_handle,
    db_name: *const c_char,
    session_out: *mut dqlitepy_handle,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let (out, name) = unsafe { (args::out(session_out, "session_out")?, args::text(db_name, "db_name")?) };
        *out = handle::insert(object::<Node>(node)?.open_session(name, Arc::default())?)?;
        Ok(())
    })
}

/// Opens a session on a cluster without any node in this process.
///
/// `addresses_csv` is a NUL-terminated UTF-8 list of members such as "10.0.0.1:9001,10.0.0.2:9001"; blanks, empty entries
/// and doubles are ignored. The leader is found through any of them, again after it has changed. The rest is as for
/// dqlitepy_session_open, with 30 s unless dqlitepy_session_set_timeout changes it.
/// Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOLEADER, DQLITEPY_TIMEOUT, DQLITEPY_RETRY or DQLITEPY_INTERNAL.
/// Since 0.2.0.
///
/// # Safety
/// The strings are NULL or NUL-terminated, `session_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_open_addresses(
    addresses_csv: *const c_char,
    db_name: *const c_char,
    session_out: *mut dqlitepy_handle,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(session_out, "session_out") }?;
        // SAFETY: the caller's promise.
        let (csv, name) = unsafe {
            (
                args::text(addresses_csv, "addresses_csv")?,
                args::text(db_name, "db_name")?,
            )
        };
        fork::check()?;
        fork::arm();
        let connector = Arc::new(Connector::new(None, parse_csv(csv)?));
        let wake = Arc::new(WakeSlot::default());
        *out = handle::insert(SharedSession::open(
            name,
            connector,
            wake,
            Timeout::new(&limits::NODE_CALL),
        )?)?;
        Ok(())
    })
}

/// Closes a session: its calls under way in other threads end with DQLITEPY_SHUTDOWN, an open transaction is rolled back.
///
/// Its statements and results can still be finalized and closed, which they need, and nothing else.
/// Blocks until the calls have ended, which does not take long. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or
/// DQLITEPY_INVALID (not a session). Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_close(session: dqlitepy_handle) -> c_int {
    guard_always(|| {
        fork::check()?;
        handle::remove::<SharedSession>(session)?.close();
        Ok(())
    })
}

/// Runs SQL: any number of statements, of any kind; rows that they yield are dropped.
///
/// `sql` is UTF-8 of `sql_size` bytes, or NUL-terminated if that is negative; a NUL inside is refused.
/// `last_insert_id_out` and `rows_affected_out` may be NULL; they receive the numbers of the last INSERT, REPLACE, UPDATE or
/// DELETE of the text, 0 if there is none or on failure. Outside a transaction each statement is committed by itself:
/// after an error the ones before it stay. A statement outside a transaction that finds the database locked by another
/// session is tried again (dqlitepy_session_set_busy_timeout).
/// Blocks until the change is committed by a majority, for the session's timeout at most.
/// Returns DQLITEPY_OK, DQLITEPY_SQL + SQLite's primary code, DQLITEPY_INVALID, DQLITEPY_NOTFOUND, DQLITEPY_MISUSE (rows of
/// this session are still being read), DQLITEPY_NOLEADER, DQLITEPY_SHUTDOWN, DQLITEPY_TIMEOUT, DQLITEPY_UNKNOWN,
/// DQLITEPY_RETRY, DQLITEPY_TRANSACTION_LOST, DQLITEPY_SETTINGS_LOST, DQLITEPY_INTERRUPTED or DQLITEPY_INTERNAL. Since 0.2.0.
///
/// # Safety
/// `sql` is NULL or as said, the other pointers are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_exec(
    session: dqlitepy_handle,
    sql: *const c_char,
    sql_size: i64,
    last_insert_id_out: *mut i64,
    rows_affected_out: *mut i64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::Numbers::new(last_insert_id_out, rows_affected_out) };
        // SAFETY: the caller's promise.
        let sql = unsafe { args::text_of(sql, sql_size, "sql") }?;
        self::session(session, |session| session.exec(sql)).map(|changes| out.set(changes))
    })
}

/// Runs one statement and gives its rows.
///
/// `sql` and `sql_size` are as for dqlitepy_session_exec; more than one statement is an error, none at all gives no rows
/// and no columns. `rows_out` receives the handle of the rows, to be given back with dqlitepy_rows_close; 0 on failure.
/// The first rows have come when it returns; a write is certain when the rows have been read to DQLITEPY_DONE, or closed
/// without an error. While more rows than these are to come the session does nothing else: other calls on it return
/// DQLITEPY_MISUSE at once. Blocks and returns as dqlitepy_session_exec. Since 0.2.0.
///
/// # Safety
/// `sql` is NULL or as said, `rows_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_query(
    session: dqlitepy_handle,
    sql: *const c_char,
    sql_size: i64,
    rows_out: *mut dqlitepy_handle,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let (out, sql) = unsafe { (args::out(rows_out, "rows_out")?, args::text_of(sql, sql_size, "sql")?) };
        *out = rows_handle(self::session(session, |session| session.query(sql))?)?;
        Ok(())
    })
}

/// Prepares the first statement of a text.
///
/// `sql` and `sql_size` are as for dqlitepy_session_exec. `statement_out` receives the handle, to be given back with
/// dqlitepy_statement_finalize; 0 on failure, and on success if the text holds blanks and comments only. `tail_out` may be
/// NULL; it receives how many bytes of the text belong to that statement, so that the rest of a script can be prepared
/// next; all of them if no other statement follows. The statement outlives a change of the leader: it is prepared again
/// when it is needed. A session keeps what was prepared last, so preparing the same text again costs no round trip.
/// Blocks until the leader has answered, for the session's timeout at most. Returns as dqlitepy_session_exec, never
/// DQLITEPY_UNKNOWN. Since 0.2.0.
///
/// # Safety
/// `sql` is NULL or as said, the other pointers are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_prepare(
    session: dqlitepy_handle,
    sql: *const c_char,
    sql_size: i64,
    statement_out: *mut dqlitepy_handle,
    tail_out: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let (tail_out, out) = unsafe { (args::optional_out(tail_out), args::out(statement_out, "statement_out")?) };
        // SAFETY: the caller's promise.
        let sql = unsafe { args::text_of(sql, sql_size, "sql") }?;
        let (statement, tail) = self::session(session, |session| session.prepare(sql))?;
        *out = statement.map_or(Ok(0), handle::insert)?;
        args::set(tail_out, tail as u64);
        Ok(())
    })
}

/// Begins a transaction: DQLITEPY_DEFERRED, DQLITEPY_IMMEDIATE or DQLITEPY_EXCLUSIVE.
///
/// The last two wait for the transaction of another session to end (dqlitepy_session_set_busy_timeout). A deferred one
/// that writes after another session has written since its first read gets DQLITEPY_SQL + 5 (extended code 517) and has
/// to be begun anew. Blocks and returns as dqlitepy_session_exec. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_begin(session: dqlitepy_handle, mode: c_int) -> c_int {
    guard(|| {
        let mode = match mode {
            ret::DQLITEPY_DEFERRED => Mode::Deferred,
            ret::DQLITEPY_IMMEDIATE => Mode::Immediate,
            ret::DQLITEPY_EXCLUSIVE => Mode::Exclusive,
            unknown => {
                return Err(Error::invalid(format!(
                    "mode {unknown} is none of the kinds of transaction"
                )));
            }
        };
        self::session(session, |session| session.begin(mode))
    })
}

/// Commits the transaction.
///
/// DQLITEPY_OK: it was applied, by a majority. DQLITEPY_UNKNOWN, and DQLITEPY_SHUTDOWN if the session was closed meanwhile:
/// it is not known; look before you repeat it. Any other code: it was not applied; after DQLITEPY_TRANSACTION_LOST call
/// dqlitepy_session_rollback, after DQLITEPY_SQL + 5 commit again or roll back.
/// Blocks as dqlitepy_session_exec. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_commit(session: dqlitepy_handle) -> c_int {
    guard(|| self::session(session, |session| session.commit()))
}

/// Rolls the transaction back, also one that was lost together with its connection; that costs no round trip.
///
/// Blocks and returns as dqlitepy_session_exec; without a transaction DQLITEPY_SQL + 1. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_rollback(session: dqlitepy_handle) -> c_int {
    guard_always(|| self::session(session, |session| session.rollback()))
}

/// Sets a savepoint; outside a transaction it begins one, which ends when the savepoint is released.
///
/// `name` is a NUL-terminated UTF-8 string of any content; it needs no quotes. Blocks and returns as
/// dqlitepy_session_exec. Since 0.2.0.
///
/// # Safety
/// `name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_savepoint(session: dqlitepy_handle, name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { args::text(name, "name") }?;
        self::session(session, |session| session.savepoint(name))
    })
}

/// Gives up the savepoint of that name and those set after it, and keeps what was done since. Since 0.2.0.
///
/// `name`, blocking and codes are as for dqlitepy_session_savepoint; if it was the outermost one and no BEGIN came before
/// it this is a commit, as dqlitepy_session_commit describes.
///
/// # Safety
/// `name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_release(session: dqlitepy_handle, name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { args::text(name, "name") }?;
        self::session(session, |session| session.release(name))
    })
}

/// Takes back what was done since the savepoint of that name, which stays. Since 0.2.0.
///
/// `name`, blocking and codes are as for dqlitepy_session_savepoint.
///
/// # Safety
/// `name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_rollback_to(session: dqlitepy_handle, name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { args::text(name, "name") }?;
        self::session(session, |session| session.rollback_to(name))
    })
}

/// Whether the session is inside a transaction, which includes one that was lost and waits for its rollback.
///
/// `inside_out` receives 1 or 0. Does not block, nor wait for a call of another thread. Returns DQLITEPY_OK,
/// DQLITEPY_NOTFOUND or DQLITEPY_INVALID. Since 0.2.0.
///
/// # Safety
/// `inside_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_in_transaction(session: dqlitepy_handle, inside_out: *mut c_int) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(inside_out, "inside_out") }?;
        *out = self::session(session, |session| session.in_transaction())?.into();
        Ok(())
    })
}

/// Ends the call that is under way on the session in another thread, and rows that are being read; else does nothing.
///
/// That call returns DQLITEPY_INTERRUPTED if nothing was changed, DQLITEPY_UNKNOWN if it may have been, and inside a
/// transaction DQLITEPY_TRANSACTION_LOST, because the connection is ended; the next call connects anew. A statement that
/// runs on a node of this process stops at once. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or
/// DQLITEPY_INVALID. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_interrupt(session: dqlitepy_handle) -> c_int {
    guard_always(|| self::session(session, |session| session.interrupt()))
}

/// Sets how long each later call on the session may take in all, in milliseconds; unless set or with 0 what
/// dqlitepy_set_default_timeout says, 30000 as it comes.
///
/// With rows it counts anew for each call that reads. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or
/// DQLITEPY_INVALID. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_set_timeout(session: dqlitepy_handle, msecs: c_uint) -> c_int {
    guard_always(|| self::session(session, |session| session.set_timeout(msecs)))
}

/// Sets how long a statement outside a transaction, or the begin of one, is tried again while other sessions keep the
/// database locked, in milliseconds; 10000 unless set, 0 = tried once.
///
/// The node that leads waits by itself too, before it says that the database is locked (dqlitepy_node_set_busy_timeout).
/// Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_set_busy_timeout(session: dqlitepy_handle, msecs: c_uint) -> c_int {
    guard_always(|| {
        let time = Duration::from_millis(msecs.into());
        self::session(session, |session| session.set_busy_timeout(time))
    })
}

/// Sets how many bytes the rows of one statement may have in all, as they travel; 0, as unless set: any number.
///
/// A query with a larger result fails with DQLITEPY_SQL + 18 (SQLITE_TOOBIG), at once if its first rows are too large, else
/// when the step is made that goes beyond. The session stays usable. Its transaction stays too if the rest can be read before
/// the session's timeout and no single message of it, some 64 KiB or one row, is larger than the limit; else the code is
/// DQLITEPY_TRANSACTION_LOST. A change whose RETURNING rows are too large is carried through, or DQLITEPY_UNKNOWN says that it
/// is not known. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_set_max_result(session: dqlitepy_handle, bytes: u64) -> c_int {
    guard_always(|| self::session(session, |session| session.set_max_result(bytes)))
}

/// The address of the leader that the session is connected to; connects first if it is not.
///
/// `address_out` receives a string that the caller frees with dqlitepy_free; NULL on failure.
/// Blocks and returns as dqlitepy_session_open. Since 0.2.0.
///
/// # Safety
/// `address_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_leader(session: dqlitepy_handle, address_out: *mut *mut c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out_text(address_out, "address_out") }?;
        *out = alloc::handed_over(self::session(session, |session| session.leader())?.into_bytes())?;
        Ok(())
    })
}

/// The last error of the session, of its statements and of its rows, whichever thread met it.
///
/// A fresh copy that the caller frees with dqlitepy_free; NULL if no call has failed yet, or the handle is no session.
/// Reading does not clear it, success does not change it. Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_last_error(session: dqlitepy_handle) -> *mut c_char {
    guard_value(std::ptr::null_mut(), || {
        let last = object::<SharedSession>(session)?.last_error();
        Ok(last.map_or(std::ptr::null_mut(), |error| {
            alloc::into_c_string(message_of(&error).into_bytes())
        }))
    })
}

/// The code of that last error; DQLITEPY_OK if no call has failed yet.
///
/// DQLITEPY_NOTFOUND or DQLITEPY_INVALID also if the handle is no session. Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_error_code(session: dqlitepy_handle) -> c_int {
    guard_code(|| {
        let last = object::<SharedSession>(session)?.last_error();
        Ok(last.map_or(ret::DQLITEPY_OK, |error| ret::code(&error)))
    })
}

/// SQLite's extended result code of that last error, such as 2067 for a UNIQUE constraint; 0 if SQLite was not the one to
/// refuse, no call has failed yet, or the handle is no session. Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_session_sqlite_code(session: dqlitepy_handle) -> c_int {
    guard_value(0, || {
        let last = object::<SharedSession>(session)?.last_error();
        Ok(last.map_or(0, |error| error.sqlite_code()))
    })
}
