//! Clients: who leads a cluster, who belongs to it, who joins and leaves.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use crate::client::{Client, Role};
use crate::engine::fork;
use crate::error::{Error, Result};
use crate::ffi::guard::{guard, guard_always};
use crate::ffi::{alloc, args, dqlitepy_handle, dqlitepy_node_id, object};
use crate::handle;
use crate::net::{Address, parse_csv};
use crate::node;
use crate::render;

/// Makes a call on a client, and counts it.
fn client<T>(handle: dqlitepy_handle, call: impl FnOnce(&Client) -> Result<T>) -> Result<T> {
    object::<Client>(handle)?.counted(call)
}

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
        let (out, csv) = unsafe {
            (
                args::out(handle_out, "handle_out")?,
                args::text(addresses_csv, "addresses_csv")?,
            )
        };
        fork::check()?;
        fork::arm();
        *out = handle::insert(Client::new(parse_csv(csv)?))?;
        Ok(())
    })
}

/// Sets how long a call on the client may take in all, in milliseconds; unless set or with 0 what
/// dqlitepy_set_default_timeout says, 10000 as it comes. It acts on calls that begin later.
///
/// Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID (not a client). Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_client_set_timeout(handle: dqlitepy_handle, msecs: c_uint) -> c_int {
    guard_always(|| {
        object::<Client>(handle)?.set_timeout(msecs);
        Ok(())
    })
}

/// Ends the calls that are under way on the client in other threads; without them it does nothing.
///
/// They return DQLITEPY_INTERRUPTED, which means that nothing was changed, or DQLITEPY_UNKNOWN; one that has its answer keeps
/// it. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID (not a client). Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_client_interrupt(handle: dqlitepy_handle) -> c_int {
    guard_always(|| {
        object::<Client>(handle)?.interrupt();
        Ok(())
    })
}

/// Closes a client. Its calls that are under way end by their own deadline.
///
/// Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID (not a client). Does not block. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_client_close(handle: dqlitepy_handle) -> c_int {
    guard_always(|| {
        fork::check()?;
        handle::remove::<Client>(handle).map(drop)
    })
}

/// Makes the node `id` at `address` a member of the cluster, and a voter of it if it answers.
///
/// `address` is a NUL-terminated UTF-8 "host:port". An address that does not answer is added as a spare, which is success
/// too: it costs the cluster no vote, and the role in dqlitepy_client_cluster says what the node became. A node that is a
/// member under this id and address already is success as well; one that belongs to a cluster of its own is refused with
/// DQLITEPY_MISUSE. A code other than DQLITEPY_OK means that nothing was changed, but for DQLITEPY_UNKNOWN, after which
/// dqlitepy_client_cluster tells. Blocks until the cluster has agreed, 10 s at most (dqlitepy_client_set_timeout).
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
        client(handle, |client| node::add(client, id, &address).map(drop))
    })
}

/// Takes the node `id` out of the cluster. If it leads, another node does first.
///
/// Refused with DQLITEPY_MISUSE: the last member, and a voter without which the voters that answer are no majority.
/// Blocks until the cluster has agreed, 10 s at most (dqlitepy_client_set_timeout). Returns DQLITEPY_OK, DQLITEPY_NOTFOUND (handle, or no such member),
/// DQLITEPY_INVALID, DQLITEPY_MISUSE, DQLITEPY_NOLEADER, DQLITEPY_TIMEOUT, DQLITEPY_UNKNOWN, DQLITEPY_RETRY or
/// DQLITEPY_INTERNAL. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_client_remove(handle: dqlitepy_handle, id: dqlitepy_node_id) -> c_int {
    guard(|| client(handle, |client| client.remove(id)))
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
        *out = alloc::handed_over(client(handle, Client::leader)?.into_bytes())?;
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
        let members = client(handle, Client::cluster)?;
        let list = members
            .iter()
            .map(|member| (member.id, member.address.as_str(), member.role.into()));
        *out = alloc::handed_over(render::members(list))?;
        Ok(())
    })
}

/// Gives the node `id` a role: DQLITEPY_VOTER, DQLITEPY_STANDBY or DQLITEPY_SPARE. The role that it has is success.
///
/// A leader that loses its vote lets another voter lead first. Refused with DQLITEPY_MISUSE: the only voter, and a voter
/// without which the voters that answer are no majority; with DQLITEPY_RETRY: a vote for a node that does not answer.
/// Nodes that manage roles may change it again to reach their own targets. Blocks until the cluster has agreed, which for
/// a voter includes that the node has caught up, 10 s at most; DQLITEPY_UNKNOWN then means that it goes on.
/// Returns DQLITEPY_OK, DQLITEPY_NOTFOUND (handle, or no such member), DQLITEPY_INVALID (handle or role),
/// DQLITEPY_MISUSE, DQLITEPY_NOLEADER, DQLITEPY_TIMEOUT, DQLITEPY_UNKNOWN, DQLITEPY_RETRY or DQLITEPY_INTERNAL.
/// Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_client_assign(handle: dqlitepy_handle, id: dqlitepy_node_id, role: c_int) -> c_int {
    guard(|| client(handle, |client| client.assign(id, role_of(role)?)))
}

fn role_of(number: c_int) -> Result<Role> {
    u64::try_from(number)
        .ok()
        .and_then(|number| Role::try_from(number).ok())
        .ok_or_else(|| Error::invalid(format!("role {number} is none: 0 is a voter, 1 a stand-by, 2 a spare")))
}

/// Lets the voter `id` lead, or with 0 any voter but the one that leads now. The one that leads already is success.
///
/// Blocks until another node leads, 10 s at most; statements under way at the old leader may fail meanwhile.
/// Returns DQLITEPY_OK, DQLITEPY_NOTFOUND (handle, or no such member), DQLITEPY_INVALID, DQLITEPY_MISUSE (no voter),
/// DQLITEPY_NOLEADER, DQLITEPY_TIMEOUT, DQLITEPY_UNKNOWN, DQLITEPY_RETRY (no other voter answers) or DQLITEPY_INTERNAL
/// (the node could not take over; the old leader goes on). Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_client_transfer(handle: dqlitepy_handle, id: dqlitepy_node_id) -> c_int {
    guard(|| client(handle, |client| client.transfer(id)))
}

/// Asks the node at `address` for its failure domain and its weight.
///
/// `address` is a NUL-terminated UTF-8 "host:port". Either output may be NULL; they receive 0 on failure. Voters are
/// spread over failure domains, and of two nodes the one with less weight is promoted first.
/// Blocks until the node has answered, 10 s at most. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND,
/// DQLITEPY_TIMEOUT, DQLITEPY_RETRY or DQLITEPY_INTERNAL. Since 0.2.0.
///
/// # Safety
/// `address` is NULL or a NUL-terminated string, the outputs are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_client_describe(
    handle: dqlitepy_handle,
    address: *const c_char,
    failure_domain_out: *mut c_ulonglong,
    weight_out: *mut c_ulonglong,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let (domain, weight) = unsafe { (args::optional_out(failure_domain_out), args::optional_out(weight_out)) };
        // SAFETY: the caller's promise.
        let address = Address::parse_peer(unsafe { args::text(address, "address") }?, "address")?;
        let found = client(handle, |client| client.describe(&address))?;
        domain.into_iter().for_each(|out| *out = found.failure_domain);
        weight.into_iter().for_each(|out| *out = found.weight);
        Ok(())
    })
}

/// Sets the weight of the node at `address`: lighter ones are promoted first, heavier ones demoted first. The node forgets
/// it when it stops.
///
/// `address` is a NUL-terminated UTF-8 "host:port". Blocks until the node has answered, 10 s at most.
/// Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND, DQLITEPY_TIMEOUT, DQLITEPY_RETRY or DQLITEPY_INTERNAL; after a
/// failure it may have been set. Since 0.2.0.
///
/// # Safety
/// `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_client_set_weight(
    handle: dqlitepy_handle,
    address: *const c_char,
    weight: c_ulonglong,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let address = Address::parse_peer(unsafe { args::text(address, "address") }?, "address")?;
        client(handle, |client| client.set_weight(&address, weight))
    })
}
