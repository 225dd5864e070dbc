//! The exported functions. Each reads its arguments, makes one call into the domain, and writes its results.

// The names are C's, and `pub` is what cbindgen looks for.
#![allow(non_camel_case_types, unreachable_pub)]

mod alloc;
mod args;
mod client;
mod guard;
mod library;
mod log;
mod node;
mod ret;

use std::ffi::{c_char, c_int, c_ulonglong};
use std::sync::Arc;

use crate::engine::fork;
use crate::error::Result;
use crate::handle::{self, Object};

/// The raft id of a node: never 0.
pub type dqlitepy_node_id = c_ulonglong;

/// Stands for a node or a client. Never 0, never used twice.
pub type dqlitepy_handle = c_ulonglong;

/// A member of a cluster, as dqlitepy_client_cluster describes it in JSON.
#[repr(C)]
pub struct dqlitepy_node_info {
    pub id: dqlitepy_node_id,
    pub address: *mut c_char,
    /// DQLITEPY_VOTER, DQLITEPY_STANDBY or DQLITEPY_SPARE.
    pub role: c_int,
}

/// What a handle stands for. In a forked child nothing: another thread of the parent may have held any lock, so this is
/// checked before the first one, and after the outputs were cleared.
fn object<T: Object>(handle: dqlitepy_handle) -> Result<Arc<T>> {
    fork::check()?;
    handle::get(handle)
}
