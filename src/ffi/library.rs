//! Functions that need no handle.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::engine::{self, fork};
use crate::error::Error;
use crate::ffi::guard::{guard, guard_value, last_codes, last_error};
use crate::ffi::{alloc, args, dqlitepy_node_id};
use crate::limits;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a package version holds no NUL"),
};

/// The last error of the calling thread, as a fresh copy that the caller frees with dqlitepy_free.
///
/// NULL if no call of this thread has failed yet. Reading does not clear it, success does not change it, but for the warning
/// of a dqlitepy_node_start that has set damaged files aside, with code 0.
/// Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_last_error() -> *mut c_char {
    last_error()
}

/// The code that the last failed call of the calling thread returned; 0 if none has failed yet. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_last_error_code() -> c_int {
    last_codes().0
}

/// SQLite's extended result code of the last failed call of the calling thread, such as 2067 for a UNIQUE constraint; 0
/// if SQLite was not the one to refuse. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_last_sqlite_code() -> c_int {
    last_codes().1
}

/// The versions of what is inside, such as "dqlite 1.18.6, SQLite 3.53.4". Static; not to be freed. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_engine_version() -> *const c_char {
    guard_value(std::ptr::null(), || Ok(engine::version().as_ptr()))
}

/// Calls on nodes and sessions; 30000 ms as it comes. Since 0.2.0.
pub const DQLITEPY_FOR_CALLS: c_int = 1;
/// Calls on clients; 10000 ms as it comes. Since 0.2.0.
pub const DQLITEPY_FOR_CLIENTS: c_int = 2;
/// dqlitepy_node_start; 30000 ms as it comes. Since 0.2.0.
pub const DQLITEPY_FOR_START: c_int = 3;
/// dqlitepy_node_stop and the destroy of a node that runs; 30000 ms as it comes. Since 0.2.0.
pub const DQLITEPY_FOR_STOP: c_int = 4;

/// Sets for the whole process how long a call may take, in milliseconds, where its handle was told nothing else
/// (dqlitepy_node_set_timeout and its like).
///
/// `what` is DQLITEPY_FOR_CALLS, DQLITEPY_FOR_CLIENTS, DQLITEPY_FOR_START or DQLITEPY_FOR_STOP; `msecs` 0 restores what it was
/// as it came. It acts on calls that begin later, on any handle. Returns DQLITEPY_OK, DQLITEPY_INVALID (what) or
/// DQLITEPY_MISUSE (in a forked child). Does not block. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_set_default_timeout(what: c_int, msecs: c_uint) -> c_int {
    guard(|| {
        fork::check()?;
        let bound = match what {
            DQLITEPY_FOR_CALLS => &limits::NODE_CALL,
            DQLITEPY_FOR_CLIENTS => &limits::CLIENT_CALL,
            DQLITEPY_FOR_START => &limits::START,
            DQLITEPY_FOR_STOP => &limits::STOP,
            other => {
                return Err(Error::invalid(format!(
                    "{other} is no kind of call that has a time limit: see DQLITEPY_FOR_CALLS and those after it"
                )));
            }
        };
        bound.set(msecs);
        Ok(())
    })
}

/// Frees a string that a function of this library returned.
///
/// `ptr` may be NULL; otherwise it must come from this library and not be used again. The result of
/// dqlitepy_version_string is static and left alone. Since 0.1.0.
///
/// # Safety
/// As said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_free(ptr: *mut c_void) {
    if ptr.cast_const() != VERSION.as_ptr().cast() {
        // SAFETY: the caller's promise.
        unsafe { alloc::free(ptr) };
    }
}

/// An id for the node at `address`: always the same one for the same text, never 0, 1 or go-dqlite's bootstrap id.
///
/// `address` is a NUL-terminated UTF-8 string. Returns 0, and sets the last error, if it is NULL or not UTF-8.
/// Does not block. Since 0.1.0.
///
/// # Safety
/// `address` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_generate_node_id(address: *const c_char) -> dqlitepy_node_id {
    guard_value(0, || {
        // SAFETY: the caller's promise.
        engine::generate_id(unsafe { args::text(address, "address") }?)
    })
}

/// The version of this library as major * 10000 + minor * 100 + patch. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_version_number() -> c_int {
    const NUMBER: c_int = part(env!("CARGO_PKG_VERSION_MAJOR")) * 10_000
        + part(env!("CARGO_PKG_VERSION_MINOR")) * 100
        + part(env!("CARGO_PKG_VERSION_PATCH"));
    NUMBER
}

/// The version of this library, such as "0.2.0". Static; not to be freed. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_version_string() -> *mut c_char {
    VERSION.as_ptr().cast_mut()
}

const fn part(text: &str) -> c_int {
    match c_int::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("a package version is made of numbers"),
    }
}
