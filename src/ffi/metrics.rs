//! Figures for whoever watches over the program.

use std::ffi::{c_char, c_int};

use crate::client::Client;
use crate::db::{PreparedStatement, ResultRows, SharedSession};
use crate::engine;
use crate::engine::fork;
use crate::error::{Error, Result};
use crate::ffi::guard::guard;
use crate::ffi::{alloc, args, dqlitepy_handle, object, ret};
use crate::handle::{self, Object};
use crate::metrics::{self, Families};
use crate::node::{self, Node};
use crate::queue::Queue;
use crate::render;

/// Writes figures in the format that the caller wants.
///
/// # Safety
/// `text_out` is NULL or writable.
unsafe fn write(
    format: c_int,
    text_out: *mut *mut c_char,
    collect: impl FnOnce(&mut Families) -> Result<()>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let out = unsafe { args::out_text(text_out, "text_out") }?;
    let render = match format {
        ret::DQLITEPY_METRICS_JSON => render::metrics::json,
        ret::DQLITEPY_METRICS_PROMETHEUS => render::metrics::prometheus,
        unknown => {
            return Err(Error::invalid(format!(
                "format {unknown} is none of the formats of metrics"
            )));
        }
    };
    fork::check()?;
    let mut families = Families::default();
    collect(&mut families)?;
    *out = alloc::handed_over(render(&families))?;
    Ok(())
}

fn count<T: Object>(families: &mut Families) {
    let labels = vec![("kind", T::NAME.to_owned())];
    families.gauge(
        "dqlitepy_handles",
        "Handles in use.",
        labels,
        handle::all::<T>().len() as u64,
    );
}

/// The figures of the process: what all nodes, clients and sessions together have done since the library was loaded, how
/// many handles are in use, and the figures of each node that has a handle (dqlitepy_node_metrics).
///
/// `format` is DQLITEPY_METRICS_JSON or DQLITEPY_METRICS_PROMETHEUS. `text_out` receives a NUL-terminated UTF-8 string
/// that the caller frees with dqlitepy_free; NULL on failure. As JSON it is an object with a member for each family of
/// figures: {"type": ..., "help": ..., "samples": [{"labels": {...}, "value": ...}]}, with count, sum and buckets instead
/// of value in a histogram. As Prometheus' text format 0.0.4 it can be served as it is; the names are the same, and time is
/// in seconds. The families are listed in docs/metrics.md.
/// Blocks as long as the nodes take to say how they are, half a second each at most. Returns DQLITEPY_OK, DQLITEPY_INVALID
/// or DQLITEPY_MISUSE (a forked child). Since 0.2.0.
///
/// # Safety
/// `text_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_metrics(format: c_int, text_out: *mut *mut c_char) -> c_int {
    guard(|| {
        let collect = |families: &mut Families| {
            let labels = vec![
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ("engine", engine::version().to_string_lossy().into_owned()),
            ];
            families.gauge("dqlitepy_build_info", "The versions of what is inside.", labels, 1);
            metrics::process().describe("dqlitepy", &[], families);
            count::<Node>(families);
            count::<Client>(families);
            count::<SharedSession>(families);
            count::<PreparedStatement>(families);
            count::<ResultRows>(families);
            count::<Queue>(families);
            node::figures(&handle::all::<Node>(), families);
            Ok(())
        };
        // SAFETY: the caller's promise.
        unsafe { write(format, text_out, collect) }
    })
}

/// The figures of a node: what was done through this handle and its sessions, whether the node runs, and while it does
/// its role, its leader, term and log, how many databases it holds; and what lies in its data directory.
///
/// The rest is as for dqlitepy_metrics; the codes are also DQLITEPY_NOTFOUND. Since 0.2.0.
///
/// # Safety
/// `text_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_node_metrics(
    handle: dqlitepy_handle,
    format: c_int,
    text_out: *mut *mut c_char,
) -> c_int {
    guard(|| {
        let collect = |families: &mut Families| {
            node::figures(&[object::<Node>(handle)?], families);
            Ok(())
        };
        // SAFETY: the caller's promise.
        unsafe { write(format, text_out, collect) }
    })
}

/// The figures of a client: the calls that were made with it.
///
/// The rest is as for dqlitepy_metrics, but it does not block; the codes are also DQLITEPY_NOTFOUND. Since 0.2.0.
///
/// # Safety
/// `text_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_client_metrics(
    handle: dqlitepy_handle,
    format: c_int,
    text_out: *mut *mut c_char,
) -> c_int {
    guard(|| {
        let collect = |families: &mut Families| {
            let figures = object::<Client>(handle)?.figures();
            figures.describe("dqlitepy_client", &[], families);
            Ok(())
        };
        // SAFETY: the caller's promise.
        unsafe { write(format, text_out, collect) }
    })
}
