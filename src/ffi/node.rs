//! Nodes: from create to destroy, and SQL on them. Their options are set in `options`.

use std::ffi::{c_char, c_int};

use crate::engine::fork;
use crate::error::Result;
use crate::ffi::guard::{guard, guard_always, warn};
use crate::ffi::{alloc, args, dqlitepy_handle, dqlitepy_node_id, object};
use crate::handle;
use crate::net::{Address, parse_csv};
use crate::node::Node;

/// Makes a node that is a cluster of its own. It does not run yet and touches neither disk nor network.
///
/// `id` is its raft id: not 0, and the same at every start. `address` is a NUL-terminated UTF-8 "host:port" at which other
/// nodes and clients reach it; port 0 lets the kernel choose one, which the directory then remembers. `data_dir` is a
/// NUL-terminated UTF-8 path, created with mode 0700 at start if it is missing. `handle_out` receives the handle, to be
/// given back with dqlitepy_node_destroy; 0 on failure. A directory that belongs to a node already decides: another
/// address, or another id than that one or the generated one, fails at start.
/// Returns DQLITEPY_OK or DQLITEPY_INVALID. Does not block. Since 0.1.0.
///
/// # Safety
/// The strings are NULL or NUL-terminated, `handle_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_node_create(
    id: dqlitepy_node_id,
    address: *const c_char,
    data_dir: *const c_char,
    handle_out: *mut dqlitepy_handle,
) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { create(id, address, data_dir, Vec::new(), handle_out) })
}

/// Makes a node of a cluster whose members are listed. It does not run yet and touches neither disk nor network.
///
/// `cluster_csv` is a NUL-terminated UTF-8 list such as "10.0.0.1:9001,10.0.0.2:9001", the same for every member; blanks,
/// empty entries and doubles are ignored. The rest is as for dqlitepy_node_create. Since 0.1.0.
///
/// # Safety
/// The strings are NULL or NUL-terminated, `handle_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_node_create_with_cluster(
    id: dqlitepy_node_id,
    address: *const c_char,
    data_dir: *const c_char,
    cluster_csv: *const c_char,
    handle_out: *mut dqlitepy_handle,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            args::out(handle_out, "handle_out")?;
            let cluster = parse_csv(args::text(cluster_csv, "cluster_csv")?)?;
            create(id, address, data_dir, cluster, handle_out)
        }
    })
}

/// # Safety
/// As for dqlitepy_node_create.
unsafe fn create(
    id: dqlitepy_node_id,
    address: *const c_char,
    data_dir: *const c_char,
    cluster: Vec<Address>,
    handle_out: *mut dqlitepy_handle,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let (out, address, dir) = unsafe {
        (
            args::out(handle_out, "handle_out")?,
            args::text(address, "address")?,
            args::text(data_dir, "data_dir")?,
        )
    };
    fork::check()?;
    fork::arm();
    *out = handle::insert(Node::new(id, address, dir, cluster)?)?;
    Ok(())
}

/// Starts the node. If it runs in this process already under another handle, this handle joins it.
///
/// Blocks until the node serves, 30 s at most (dqlitepy_node_set_start_timeout). On failure the directory is as it was
/// before. After DQLITEPY_TIMEOUT (loading the log takes longer, or the disk does not answer), DQLITEPY_NOLEADER (not joined
/// yet) and DQLITEPY_INTERRUPTED the node goes on in the background: start waits again, stop and destroy end it.
/// Returns DQLITEPY_OK, DQLITEPY_INVALID (address, directory, identity), DQLITEPY_NOTFOUND, DQLITEPY_MISUSE (running
/// already), DQLITEPY_NOLEADER, DQLITEPY_SHUTDOWN, DQLITEPY_TIMEOUT, DQLITEPY_INTERRUPTED or DQLITEPY_INTERNAL (port or
/// directory in use, damaged files; the message names them). If auto-recovery has set damaged files aside, it is
/// DQLITEPY_OK, and dqlitepy_last_error gives a warning with their names, as the log does. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_start(handle: dqlitepy_handle) -> c_int {
    guard(|| {
        let node = object::<Node>(handle)?;
        node.start()?;
        if let Some(warning) = node.warning() {
            warn(&warning);
        }
        Ok(())
    })
}

/// Gives the lead and the vote to other members, if there are any; alone it is success.
///
/// Blocks for the node's timeout at most (dqlitepy_node_set_timeout). Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND,
/// DQLITEPY_MISUSE (not running), DQLITEPY_STOPPED or DQLITEPY_RETRY (nobody else can lead now), or as
/// dqlitepy_client_transfer. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_handover(handle: dqlitepy_handle) -> c_int {
    guard(|| object::<Node>(handle)?.handover())
}

/// Stops the node, for every handle that stands for it. Calls under way return DQLITEPY_SHUTDOWN. It can be started again.
///
/// Blocks until the engine has stopped, 30 s at most (dqlitepy_node_set_stop_timeout). Returns DQLITEPY_OK,
/// DQLITEPY_INVALID, DQLITEPY_NOTFOUND, DQLITEPY_MISUSE (never started), DQLITEPY_STOPPED, DQLITEPY_TIMEOUT (it goes on
/// stopping in the background) or DQLITEPY_INTERNAL.
/// Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_stop(handle: dqlitepy_handle) -> c_int {
    guard_always(|| object::<Node>(handle)?.stop())
}

/// Gives the handle back. Its calls under way return DQLITEPY_SHUTDOWN; the node stops with its last handle.
///
/// An unknown handle is ignored. Blocks until the engine has stopped, 30 s at most (dqlitepy_node_set_stop_timeout); it then
/// goes on stopping in the background. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_destroy(handle: dqlitepy_handle) {
    guard_always(|| {
        fork::check()?;
        handle::remove::<Node>(handle)?.destroy();
        Ok(())
    });
}

/// Ends the calls that are under way on the node's handle in other threads, those that wait for their turn included;
/// without them it does nothing. Sessions and other handles are left alone.
///
/// They return DQLITEPY_INTERRUPTED, which means that nothing was changed, DQLITEPY_UNKNOWN, or inside a transaction
/// DQLITEPY_TRANSACTION_LOST, because the connection is ended; one that has its answer keeps it. What ran on a node of this
/// process stops, and its locks are free within a second. A start returns and goes on in the background; stop and destroy
/// are not interrupted. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID (not a node). Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_interrupt(handle: dqlitepy_handle) -> c_int {
    guard_always(|| {
        object::<Node>(handle)?.interrupt();
        Ok(())
    })
}

/// Opens a database, creating it if it does not exist, and makes it the one that exec and query of this handle work on.
///
/// `db_name` is a NUL-terminated UTF-8 name of 1 to 200 bytes without '/', ':' and '?' that does not
/// end with -wal or -journal. Each database of a handle has a session of its own: a transaction that is open in one stays
/// open when another one is opened.
/// Blocks until the leader has answered, 30 s at most (dqlitepy_node_set_timeout).
/// Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND, DQLITEPY_MISUSE (not running), DQLITEPY_NOLEADER,
/// DQLITEPY_SHUTDOWN, DQLITEPY_STOPPED, DQLITEPY_INTERRUPTED or DQLITEPY_INTERNAL. Since 0.1.0.
///
/// # Safety
/// `db_name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_node_open_db(handle: dqlitepy_handle, db_name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { args::text(db_name, "db_name") }?;
        object::<Node>(handle)?.open_db(name)
    })
}

/// Runs SQL: any number of statements, of any kind; rows that they yield are dropped.
///
/// `sql` is a NUL-terminated UTF-8 string. `last_insert_id_out` and `rows_affected_out` may be NULL; they receive the
/// numbers of the last INSERT, REPLACE, UPDATE or DELETE of the text, 0 if there is none or on failure. Outside a
/// transaction each statement is committed by itself: after an error the ones before it stay.
/// Calls of several threads on one handle wait for each other. Blocks until the change is committed by a majority, 30 s at
/// most (dqlitepy_node_set_timeout).
/// Returns DQLITEPY_OK, DQLITEPY_SQL + SQLite's primary code, DQLITEPY_INVALID, DQLITEPY_NOTFOUND, DQLITEPY_MISUSE,
/// DQLITEPY_NOLEADER, DQLITEPY_SHUTDOWN, DQLITEPY_STOPPED, DQLITEPY_TIMEOUT, DQLITEPY_UNKNOWN, DQLITEPY_RETRY,
/// DQLITEPY_TRANSACTION_LOST, DQLITEPY_SETTINGS_LOST, DQLITEPY_INTERRUPTED or DQLITEPY_INTERNAL. Since 0.1.0.
///
/// # Safety
/// `sql` is NULL or a NUL-terminated string, the other pointers are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_node_exec(
    handle: dqlitepy_handle,
    sql: *const c_char,
    last_insert_id_out: *mut i64,
    rows_affected_out: *mut i64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let (id, rows) = unsafe {
            (
                args::optional_out(last_insert_id_out),
                args::optional_out(rows_affected_out),
            )
        };
        // SAFETY: the caller's promise.
        let sql = unsafe { args::text(sql, "sql") }?;
        let changes = object::<Node>(handle)?.exec(sql)?;
        if let Some(id) = id {
            *id = changes.last_insert_id;
        }
        if let Some(rows) = rows {
            *rows = changes.rows_affected;
        }
        Ok(())
    })
}

/// Runs one statement and returns its rows as a JSON array of objects, keys in the order of the columns.
///
/// `sql` is a NUL-terminated UTF-8 string; more than one statement is an error, none at all gives `[]`. `json_out`
/// receives a string that the caller frees with dqlitepy_free; NULL on failure. Integers are exact, reals the shortest
/// text that reads back the same (infinities as 9e999), BOOLEAN columns true or false, DATE, DATETIME and TIMESTAMP
/// columns RFC 3339; texts and blobs are strings in which bytes that are not UTF-8 are the escapes \udc80 to \udcff.
/// Blocks and returns as dqlitepy_node_exec. Since 0.1.0.
///
/// # Safety
/// `sql` is NULL or a NUL-terminated string, `json_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_node_query(
    handle: dqlitepy_handle,
    sql: *const c_char,
    json_out: *mut *mut c_char,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let (out, sql) = unsafe { (args::out_text(json_out, "json_out")?, args::text(sql, "sql")?) };
        *out = alloc::handed_over(object::<Node>(handle)?.query(sql)?)?;
        Ok(())
    })
}
