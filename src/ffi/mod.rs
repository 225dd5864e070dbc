//! The exported functions. Each reads its arguments, makes one call into the domain, and writes its results.

// The names are C's, and `pub` is what cbindgen looks for.
#![allow(non_camel_case_types, unreachable_pub)]

mod alloc;
mod args;
mod backup;
mod client;
mod guard;
mod library;
mod log;
mod metrics;
mod node;
mod options;
mod queue;
mod ret;
mod rows;
mod session;
mod statement;

use std::ffi::{c_char, c_int, c_ulonglong, c_void};
use std::sync::Arc;

use crate::db::ResultRows;
use crate::engine::fork;
use crate::error::Result;
use crate::handle::{self, Object};

/// The raft id of a node: never 0.
pub type dqlitepy_node_id = c_ulonglong;

/// Stands for a node, a client, a session, a statement, the rows of a result or a queue. Never 0, never used twice.
pub type dqlitepy_handle = c_ulonglong;

/// A member of a cluster, as dqlitepy_client_cluster describes it in JSON.
#[repr(C)]
#[expect(dead_code, reason = "only C uses it")]
pub struct dqlitepy_node_info {
    pub id: dqlitepy_node_id,
    pub address: *mut c_char,
    /// DQLITEPY_VOTER, DQLITEPY_STANDBY or DQLITEPY_SPARE.
    pub role: c_int,
}

/// One SQL value, as a parameter or in a row. Which member counts depends on `type`.
#[repr(C)]
pub struct dqlitepy_value {
    /// DQLITEPY_INTEGER, DQLITEPY_FLOAT, DQLITEPY_TEXT, DQLITEPY_BLOB, DQLITEPY_NULL, DQLITEPY_UNIXTIME, DQLITEPY_ISO8601
    /// or DQLITEPY_BOOLEAN.
    pub r#type: c_int,
    pub integer: i64,
    pub real: f64,
    /// Bytes of a text, blob or ISO8601 time; a text has no NUL behind it.
    pub data: *const c_void,
    pub size: u64,
}

/// What came of a request to a queue.
#[repr(C)]
pub struct dqlitepy_completion {
    /// What the caller gave with the request.
    pub token: u64,
    /// DQLITEPY_OK or the code of the failure, as of the function that does the same and waits.
    pub code: c_int,
    /// SQLite's extended result code of the failure; 0 if SQLite was not the one to refuse.
    pub sqlite_code: c_int,
    /// What failed, on what, why, and what to do; NULL without a failure. The caller's, goes back through dqlitepy_free.
    pub message: *mut c_char,
    /// The session, statement or rows that were asked for, the caller's to close; else 0.
    pub handle: dqlitepy_handle,
    /// As of dqlitepy_session_exec.
    pub last_insert_id: i64,
    /// As of dqlitepy_session_exec; of a batch the sum.
    pub rows_affected: i64,
    /// As tail_out of dqlitepy_session_prepare.
    pub tail: u64,
}

/// What a handle stands for. In a forked child nothing: another thread of the parent may have held any lock, so this is
/// checked before the first one, and after the outputs were cleared.
fn object<T: Object>(handle: dqlitepy_handle) -> Result<Arc<T>> {
    fork::check()?;
    handle::get(handle)
}

/// A handle for rows. Without memory for it they are closed, and what gave them is not undone.
fn rows_handle(rows: ResultRows) -> Result<dqlitepy_handle> {
    handle::insert(rows).map_err(|error| error.with(alloc::STAYS_DONE))
}

/// For benches/micro.rs.
#[cfg(test)]
pub(crate) use node::dqlitepy_node_exec;
