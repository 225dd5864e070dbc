//! Clients: who leads a cluster, who belongs to it, who joins and leaves.

use std::ffi::{c_char, c_int};

use crate::client::Client;
use crate::engine::fork;
use crate::ffi::guard::guard;
use crate::ffi::{alloc, args, dqlitepy_handle, dqlitepy_node_id, object};
use crate::handle;
use crate::net::{Address, parse_csv};
use crate::node;
use crate::render;

/// Makes a client of the cluster that the given nodes belong to. Does not connect yet.
///
/// `addresses_csv` is a NUL-terminated UTF-8 list such as "10.0.0.1:9001,10.0.0.2:9001"; blanks, empty entries and doubles
/// are ignored. `handle_out` receives the handle, to be closed with dqlitepy_client_close; 0 on failure.
/// Returns DQLITEPY_OK or DQLITEPY_INVALID. Does not block. Since 0.1.0.
///
/// # Safety
/// `addresses_csv` is NULL or a NUL-terminated string, `handle_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_client_create(
    addresses_csv: *const c_char,
    handle_out: *mut dqlitepy_handle,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let (out, csv) = unsafe { (args::out(handle_out, "handle_out")?, args::text(addresses_csv, "addresses_csv")?) };
        fork::check()?;
        fork::arm();
        *out = handle::insert(Client::new(parse_csv(csv)?))?;
        Ok(())
    })
}

/// Closes a client. Its calls that are under way end by their own deadline.
///
/// Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID (not a client). Does not block. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_client_close(handle: dqlitepy_handle) -> c_int {
    guard(|| {
        fork::check()?;
        handle::remove::<Client>(handle).map(drop)
    })
}

/// Makes the node `id` at `address`, which must be running, a voter of the cluster.
///
/// `address` is a NUL-terminated UTF-8 "host:port". A node that is a voter already is success; one that belongs to a
/// cluster of its own is refused with DQLITEPY_MISUSE. Blocks until the cluster has agreed, 10 s at most.
/// Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND (handle), DQLITEPY_MISUSE, DQLITEPY_NOLEADER,
/// DQLITEPY_TIMEOUT, DQLITEPY_UNKNOWN, DQLITEPY_RETRY or DQLITEPY_INTERNAL. Since 0.1.0.
///
/// # Safety
/// `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_client_add(
    handle: dqlitepy_handle,
    id: dqlitepy_node_id,
    address: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let address = Address::parse_peer(unsafe { args::text(address, "address") }?, "address")?;
        node::add(&*object::<Client>(handle)?, id, &address)
    })
}

/// Takes the node `id` out of the cluster. The last member cannot be removed (DQLITEPY_MISUSE).
///
/// Blocks until the cluster has agreed, 10 s at most. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND (handle, or no such member),
/// DQLITEPY_INVALID, DQLITEPY_MISUSE, DQLITEPY_NOLEADER, DQLITEPY_TIMEOUT, DQLITEPY_UNKNOWN or DQLITEPY_INTERNAL.
/// Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_client_remove(handle: dqlitepy_handle, id: dqlitepy_node_id) -> c_int {
    guard(|| object::<Client>(handle)?.remove(id))
}

/// The address of the leader.
///
/// `address_out` receives a string that the caller frees with dqlitepy_free; NULL on failure. Blocks until a leader is
/// found, 10 s at most. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND, DQLITEPY_INVALID or DQLITEPY_NOLEADER. Since 0.1.0.
///
/// # Safety
/// `address_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_client_leader(handle: dqlitepy_handle, address_out: *mut *mut c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out_text(address_out, "address_out") }?;
        *out = alloc::into_c_string(object::<Client>(handle)?.leader()?.into_bytes());
        Ok(())
    })
}

/// The members of the cluster as a JSON array: `[{"id": 1, "address": "127.0.0.1:9001", "role": 0}]`.
///
/// `json_out` receives a string that the caller frees with dqlitepy_free; NULL on failure. Blocks until the leader has
/// answered, 10 s at most. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND, DQLITEPY_INVALID, DQLITEPY_NOLEADER, DQLITEPY_TIMEOUT,
/// DQLITEPY_RETRY or DQLITEPY_INTERNAL. Since 0.1.0.
///
/// # Safety
/// `json_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_client_cluster(handle: dqlitepy_handle, json_out: *mut *mut c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out_text(json_out, "json_out") }?;
        let members = object::<Client>(handle)?.cluster()?;
        let list = members.iter().map(|member| (member.id, member.address.as_str(), member.role.into()));
        *out = alloc::into_c_string(render::members(list));
        Ok(())
    })
}
