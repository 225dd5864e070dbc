//! The log callback.

use std::ffi::{CString, c_char, c_int, c_void};

use crate::engine::fork;
use crate::ffi::guard::guard;
use crate::log::{self, Level};
use crate::net;

/// Details for whoever looks for a fault. Since 0.2.0.
pub const DQLITEPY_LOG_DEBUG: c_int = 1;
/// What happens in normal operation: a node started, stopped, joined. Since 0.2.0.
pub const DQLITEPY_LOG_INFO: c_int = 2;
/// What an operator should look at. Since 0.2.0.
pub const DQLITEPY_LOG_WARN: c_int = 3;
/// What no longer works. Since 0.2.0.
pub const DQLITEPY_LOG_ERROR: c_int = 4;

/// Receives a message of the library: `data` as it was given to dqlitepy_set_log_callback, a level DQLITEPY_LOG_..., and a
/// NUL-terminated UTF-8 text that lives until the callback returns. It must not throw. Since 0.2.0.
pub type dqlitepy_log_callback = Option<unsafe extern "C" fn(data: *mut c_void, level: c_int, message: *const c_char)>;

/// The host's pointer; what it points to is the host's business.
struct Data(*mut c_void);

// SAFETY: the pointer is only passed on to the host's callback, and the host promises that it may be used on our thread.
unsafe impl Send for Data {}
// SAFETY: as above; the calls are serialised.
unsafe impl Sync for Data {}

/// Sets who is told what the library has to say: at most one callback per process; NULL removes it. Without one, nothing is
/// said; the library never writes to stdout or stderr.
///
/// `data` is passed to each call and must stay valid until another callback is set or this one removed. The calls come from
/// one thread of the library, never two at a time, and may call any function of this library. A callback that is slow
/// misses messages and is told how many, but holds nobody up. When this returns, the callback before was called for the
/// last time, and it was told what had been logged until then (for a second at most). Inside a callback it returns at
/// once, and the call in progress is the last one.
/// Returns DQLITEPY_OK, DQLITEPY_MISUSE (a forked child) or DQLITEPY_INTERNAL (no thread). Blocks until a call in progress
/// has returned. Since 0.2.0.
///
/// # Safety
/// `callback` is NULL or a function of that type, good to be called with `data` from another thread until it is removed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_set_log_callback(callback: dqlitepy_log_callback, data: *mut c_void) -> c_int {
    guard(|| {
        fork::check()?;
        fork::arm();
        let data = Data(data);
        let sink = callback.map(|callback| -> log::Sink {
            Box::new(move |level, message| {
                let data = &data;
                let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
                // SAFETY: the caller's promise; `log::set` returns only after the last call.
                unsafe { callback(data.0, number(level), message.as_ptr()) };
            })
        });
        log::set(sink, net::sys::block_signals)
    })
}

fn number(level: Level) -> c_int {
    match level {
        Level::Debug => DQLITEPY_LOG_DEBUG,
        Level::Info => DQLITEPY_LOG_INFO,
        Level::Warn => DQLITEPY_LOG_WARN,
        Level::Error => DQLITEPY_LOG_ERROR,
    }
}
