//! What can be set on a node before it starts.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use crate::engine::{Snapshots, Trailing};
use crate::error::{Error, Result};
use crate::ffi::guard::guard;
use crate::ffi::{args, dqlitepy_handle, object};
use crate::limits;
use crate::net::Address;
use crate::node::{Bootstrap, Config, Node};

/// Behind a snapshot the same number of entries is always kept. Since 0.2.0.
pub const DQLITEPY_TRAILING_STATIC: c_int = 0;
/// Fewer are kept where they outweigh the snapshot. Since 0.2.0.
pub const DQLITEPY_TRAILING_DYNAMIC: c_int = 1;

/// A node without a list, and the first of a list, found a cluster. Since 0.2.0.
pub const DQLITEPY_BOOTSTRAP_AUTO: c_int = 0;
/// The node waits until it is a member of the cluster of others. Since 0.2.0.
pub const DQLITEPY_BOOTSTRAP_NEVER: c_int = 1;
/// The node founds a cluster wherever it stands in its list. Since 0.2.0.
pub const DQLITEPY_BOOTSTRAP_FORCE: c_int = 2;

/// Sets where the node listens, if not at its address: an interface of its own, or "0.0.0.0:9001" for all of them.
///
/// What is sent to the node's address has to come here: a start that is to join a cluster fails with DQLITEPY_INVALID while
/// another node answers there.
///
/// `address` is a NUL-terminated UTF-8 "host:port"; port 0 means the port of the node's address.
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.1.0.
///
/// # Safety
/// `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_node_set_bind_address(handle: dqlitepy_handle, address: *const c_char) -> c_int {
    configure(handle, |config| {
        // SAFETY: the caller's promise.
        let address = unsafe { args::text(address, "address") }?;
        config.bind = Some(Address::parse_listen(address, "bind address")?);
        Ok(())
    })
}

/// Sets whether a start may set damaged log segments aside (on: the default) or fails and names them (0: off).
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_auto_recovery(handle: dqlitepy_handle, enabled: c_int) -> c_int {
    configure(handle, |config| {
        config.options.auto_recovery = enabled != 0;
        Ok(())
    })
}

/// Sets how long a write waits for another connection's transaction to end, in milliseconds; 5000 unless set, 0 = not at
/// all.
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_busy_timeout(handle: dqlitepy_handle, msecs: c_uint) -> c_int {
    configure(handle, |config| {
        config.options.busy_timeout_ms = msecs;
        Ok(())
    })
}

/// Sets whether snapshots are compressed with LZ4 (on: the default).
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_snapshot_compression(handle: dqlitepy_handle, enabled: c_int) -> c_int {
    configure(handle, |config| {
        config.options.snapshot_compression = enabled != 0;
        Ok(())
    })
}

/// Sets the one-way network latency that raft's timers are made for, 1 to 3600000 milliseconds: elections after 15 times
/// that, heartbeats every 1.5 times. Unless set, 3 s and 0.5 s. The same on every member of a cluster: a leader that is cut off
/// reads for as long as its own timer allows, and must not outlast another member's.
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_network_latency_ms(handle: dqlitepy_handle, ms: c_uint) -> c_int {
    configure(handle, |config| {
        if !limits::LATENCY_MS.contains(&ms) {
            return Err(Error::invalid(format!(
                "network latency {ms} ms is not between 1 and 3600000 ms"
            )));
        }
        config.options.network_latency_ms = Some(ms);
        Ok(())
    })
}

/// Sets how long a call on the node may take in all, in milliseconds; unless set or with 0 what
/// dqlitepy_set_default_timeout says, 30000 as it comes. dqlitepy_node_start and _stop have limits of their own.
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_timeout(handle: dqlitepy_handle, msecs: c_uint) -> c_int {
    configure(handle, |config| {
        config.options.call_timeout.set(msecs);
        Ok(())
    })
}

/// Sets how long each later start may take in all, in milliseconds; unless set or with 0 what dqlitepy_set_default_timeout
/// says, 30000 as it comes.
///
/// Returns DQLITEPY_OK, DQLITEPY_INVALID (not a node) or DQLITEPY_NOTFOUND. Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_start_timeout(handle: dqlitepy_handle, msecs: c_uint) -> c_int {
    guard(|| {
        object::<Node>(handle)?.set_start_timeout(msecs);
        Ok(())
    })
}

/// Sets how long each later stop, and the destroy of a node that runs, may take in all, in milliseconds; unless set or with 0
/// what dqlitepy_set_default_timeout says, 30000 as it comes.
///
/// Returns DQLITEPY_OK, DQLITEPY_INVALID (not a node) or DQLITEPY_NOTFOUND. Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_stop_timeout(handle: dqlitepy_handle, msecs: c_uint) -> c_int {
    guard(|| {
        object::<Node>(handle)?.set_stop_timeout(msecs);
        Ok(())
    })
}

/// Sets how many members of the cluster vote, 1 or more; 3 unless set. Every node of a cluster needs the same number: the
/// leader deals the roles, and the next leader would undo what the last one did.
///
/// N voters go on while more than half of them are there, so odd numbers from 3 on are recommended: 2 tolerate no failure,
/// and 4 not more than 3. A cluster whose number of voters is even is said in the log, once, as a warning.
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_voters(handle: dqlitepy_handle, voters: c_uint) -> c_int {
    configure(handle, |config| {
        if voters == 0 {
            return Err(Error::invalid(
                "0 voters could not agree on anything: 1 is the least, 3 recommended",
            ));
        }
        config.options.targets.voters = voters as usize;
        Ok(())
    })
}

/// Sets how many members of the cluster stand by: they hold the data, have no vote, and are the first to get one when a
/// voter fails; 3 unless set. Members beyond voters and stand-bys are spares, without data. Every node of a cluster needs
/// the same number.
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_standbys(handle: dqlitepy_handle, standbys: c_uint) -> c_int {
    configure(handle, |config| {
        config.options.targets.standbys = standbys as usize;
        Ok(())
    })
}

/// Sets the failure domain of this node: nodes that can fail together (a rack, a data centre) have the same number; 0 unless
/// set. The leader spreads the voters, and the stand-bys, over as many domains as there are.
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_failure_domain(handle: dqlitepy_handle, domain: c_ulonglong) -> c_int {
    configure(handle, |config| {
        config.options.failure_domain = domain;
        Ok(())
    })
}

/// Sets the weight that this node starts with: of several nodes that would do, the lightest is promoted and the heaviest
/// demoted; 0 unless set. dqlitepy_client_set_weight changes it until the node stops.
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_weight(handle: dqlitepy_handle, weight: c_ulonglong) -> c_int {
    configure(handle, |config| {
        config.options.weight = weight;
        Ok(())
    })
}

/// Sets whether the node may found a cluster if its data directory is empty. A node that has data goes on with it in any
/// case, and where a listed node belongs to a cluster already, this one joins that.
///
/// `mode` is DQLITEPY_BOOTSTRAP_AUTO, as without this call; DQLITEPY_BOOTSTRAP_NEVER, which is best from the second start on:
/// the first of a list that has lost its data then waits for the others, where it would found a second cluster if they are
/// all down; or DQLITEPY_BOOTSTRAP_FORCE, on one node only, where the first of the list is not to be had.
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running). A node that
/// never founds a cluster and has neither data nor a list of others fails at start with DQLITEPY_INVALID.
/// Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_bootstrap(handle: dqlitepy_handle, mode: c_int) -> c_int {
    configure(handle, |config| {
        config.options.bootstrap = match mode {
            DQLITEPY_BOOTSTRAP_AUTO => Bootstrap::Auto,
            DQLITEPY_BOOTSTRAP_NEVER => Bootstrap::Never,
            DQLITEPY_BOOTSTRAP_FORCE => Bootstrap::Force,
            other => {
                return Err(Error::invalid(format!(
                    "bootstrap mode {other} is none: 0 is auto, 1 never, 2 force"
                )));
            }
        };
        Ok(())
    })
}

/// Sets when a snapshot of the data is written, and what of the log is kept behind it.
///
/// Each snapshot writes the whole database, and between two of them the log grows, on the disk and in memory. Unless this is
/// called, the library weighs one against the other: a snapshot is written after 1024 entries that weigh a quarter of it (or
/// 256 MB), after 4096 in any case, and before 1024 if they weigh more than it (and 64 MB). Behind it as much of the log stays
/// in memory as it weighs itself, from 64 to 256 MB and at most 8192 entries.
/// `threshold` is the number of log entries after which the next snapshot is written, 1 or more. `trailing` is the number of
/// entries that are kept behind a snapshot, at least 4 and at least `threshold`. A member that was away for less catches up
/// from them, any other one is sent the snapshot. `strategy` is DQLITEPY_TRAILING_STATIC or
/// DQLITEPY_TRAILING_DYNAMIC, with which `trailing` is the most, and `threshold` the least.
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_snapshot_params(
    handle: dqlitepy_handle,
    threshold: c_uint,
    trailing: c_uint,
    strategy: c_int,
) -> c_int {
    configure(handle, |config| {
        let strategy = match strategy {
            DQLITEPY_TRAILING_STATIC => Trailing::Static,
            DQLITEPY_TRAILING_DYNAMIC => Trailing::Dynamic,
            other => {
                return Err(Error::invalid(format!(
                    "snapshot strategy {other} is none: 0 is static, 1 dynamic"
                )));
            }
        };
        config.options.snapshots = Some(Snapshots::new(threshold, trailing, strategy)?);
        Ok(())
    })
}

/// Sets the unit in which the log is written to disk, in bytes: a power of 2 from 512 to 262144; unless set, what suits the
/// file system best. Each write is filled up to a multiple of it.
///
/// Before start only. Returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND or DQLITEPY_MISUSE (running).
/// Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_node_set_block_size(handle: dqlitepy_handle, bytes: c_uint) -> c_int {
    configure(handle, |config| {
        if !bytes.is_power_of_two() || !limits::BLOCK_SIZE.contains(&bytes) {
            return Err(Error::invalid(format!(
                "block size {bytes} is not a power of 2 from 512 to 262144"
            )));
        }
        config.options.block_size = Some(bytes);
        Ok(())
    })
}

fn configure(handle: dqlitepy_handle, change: impl FnOnce(&mut Config) -> Result<()>) -> c_int {
    guard(|| object::<Node>(handle)?.configure(change))
}
