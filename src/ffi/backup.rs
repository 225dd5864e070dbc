//! Whole databases out and in.

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::Arc;

use crate::db::SharedSession;
use crate::error::Result;
use crate::ffi::guard::guard;
use crate::ffi::{args, dqlitepy_handle, object};

/// Is told by a long operation how far it is: `done` of `total`, in a unit that the operation names, `total` 0 as long as
/// it is not known. Not 0 ends the operation. `data` is what was given with the callback. Called on the thread that made
/// the call, some ten times a second at most, and in the end with `done` = `total`; it must not throw, nor use the session
/// that is at work, but for dqlitepy_session_interrupt. Since 0.2.0.
pub type dqlitepy_progress_callback = Option<unsafe extern "C" fn(data: *mut c_void, done: u64, total: u64) -> c_int>;

/// # Safety
/// `progress` is NULL or good to be called with `data` until this returns.
unsafe fn watched(
    session: dqlitepy_handle,
    progress: dqlitepy_progress_callback,
    data: *mut c_void,
    call: impl FnOnce(&SharedSession, &mut dyn FnMut(u64, u64) -> bool) -> Result<()>,
) -> Result<()> {
    let session: Arc<SharedSession> = object(session)?;
    let mut report = |done, total| match progress {
        // SAFETY: the caller's promise.
        Some(progress) => unsafe { progress(data, done, total) == 0 },
        None => true,
    };
    call(&session, &mut report).inspect_err(|error| session.note(error))
}

/// Writes a copy of the session's database to a file that any SQLite can open.
///
/// `path` is a NUL-terminated UTF-8 string. What it names is replaced, but only when the copy is complete, was checked and
/// is on the disk; until then it has a temporary name beside it and is removed again on any failure. The copy is the
/// database as it was at one moment, not before the call began: everything committed until then is in it, nothing of an
/// open transaction is. It is a single file (no WAL), readable by its owner only. A database of more than 2 GiB is refused.
/// `progress` may be NULL; it counts bytes. The library needs little memory for it, the node that leads as much as the
/// database once more.
/// Uses a connection of its own; other calls on the session wait until it is done. Blocks without a limit on the whole, but
/// fails when nothing has come for the session's timeout. Returns DQLITEPY_OK, DQLITEPY_INVALID (path), DQLITEPY_NOTFOUND,
/// DQLITEPY_MISUSE, DQLITEPY_NOLEADER, DQLITEPY_SHUTDOWN, DQLITEPY_TIMEOUT, DQLITEPY_RETRY, DQLITEPY_INTERRUPTED (by
/// `progress` or dqlitepy_session_interrupt), DQLITEPY_SQL + SQLite's code or DQLITEPY_INTERNAL (such as a full disk).
/// Since 0.2.0.
///
/// # Safety
/// `path` is NULL or a NUL-terminated string, `progress` NULL or good to be called with `data` until this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_dump(
    session: dqlitepy_handle,
    path: *const c_char,
    progress: dqlitepy_progress_callback,
    data: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let path = Path::new(unsafe { args::text(path, "path") }?);
        // SAFETY: the caller's promise.
        unsafe { watched(session, progress, data, |session, report| session.dump(path, report)) }
    })
}

/// Loads a SQLite file into the session's database: its tables with all rows, indexes, views and triggers, the counters
/// of AUTOINCREMENT, user_version and application_id.
///
/// `path` is a NUL-terminated UTF-8 string. The file is only read, and checked before the first row is loaded. Refused
/// with DQLITEPY_MISUSE is a file that this process itself has locked through another SQLite, and a database that has
/// something of the same name already; with DQLITEPY_INVALID a file that is damaged or no database, or that holds virtual
/// tables. Foreign keys are not checked while rows are loaded. The statistics of ANALYZE are not loaded.
/// The rows go in transactions of some 4 MiB each; then an index is one transaction, however large. A file with less than
/// 4 MiB of rows is loaded as a whole or not at all; of a larger one the transactions before a failure stay, and the
/// message says how much that is.
/// `progress` may be NULL; it counts rows. Uses a connection of its own; other calls on the session wait until it is done,
/// and a transaction that is open on it is refused with DQLITEPY_MISUSE. Blocks without a limit on the whole; each
/// transaction has the session's timeout. Returns as dqlitepy_session_dump, and DQLITEPY_UNKNOWN if it is not known
/// whether the last transaction was applied. Since 0.2.0.
///
/// # Safety
/// As for dqlitepy_session_dump.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_load_file(
    session: dqlitepy_handle,
    path: *const c_char,
    progress: dqlitepy_progress_callback,
    data: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let path = Path::new(unsafe { args::text(path, "path") }?);
        // SAFETY: the caller's promise.
        unsafe {
            watched(session, progress, data, |session, report| {
                session.load_file(path, report)
            })
        }
    })
}

/// Runs a script, such as sqlite3's .dump writes it.
///
/// `sql` and `sql_size` are as for dqlitepy_session_exec. Statements outside a transaction of the script are put into
/// transactions of some 4 MiB of SQL each; where the script begins one itself, that one is left as it is. After an error
/// the transactions before it stay, and the message says which line failed and how many statements were kept. A script
/// that ends inside a transaction is an error, and that transaction is rolled back. Rows are dropped. Settings and
/// temporary tables of the script end with it.
/// `progress` may be NULL; it counts bytes of the script. The rest is as for dqlitepy_session_load_file, with the
/// session's timeout for each statement. Since 0.2.0.
///
/// # Safety
/// `sql` is NULL or as said, `progress` NULL or good to be called with `data` until this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_session_load_script(
    session: dqlitepy_handle,
    sql: *const c_char,
    sql_size: i64,
    progress: dqlitepy_progress_callback,
    data: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let sql = unsafe { args::text_of(sql, sql_size, "sql") }?;
        // SAFETY: the caller's promise.
        unsafe {
            watched(session, progress, data, |session, report| {
                session.load_script(sql, report)
            })
        }
    })
}
