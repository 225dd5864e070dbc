//! The exported functions. Each reads its arguments, makes one call into the domain, and writes its results.

#![allow(non_camel_case_types)]

mod alloc;
mod args;
mod client;
mod guard;
mod library;
mod log;
mod node;
mod ret;

use std::ffi::{c_char, c_int, c_ulonglong};

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
