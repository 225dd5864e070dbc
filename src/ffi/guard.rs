//! What stands around every exported function: no panic passes, and a failure is remembered for `dqlitepy_last_error`.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::engine::reserve;
use crate::error::{Error, Kind, Result};
use crate::ffi::{alloc, ret};

/// What is kept of a failure: the text, the code that the caller got, and SQLite's extended one.
struct Last {
    text: String,
    code: c_int,
    sqlite_code: c_int,
}

thread_local! {
    static LAST_ERROR: RefCell<Option<Last>> = const { RefCell::new(None) };
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of an exported function and turns its result into a code. While memory is short it does not.
pub(super) fn guard(body: impl FnOnce() -> Result<()>) -> c_int {
    if reserve::is_short() {
        return refuse();
    }
    guard_always(body)
}

/// The same for a function that gives something back, or needs next to nothing.
pub(super) fn guard_always(body: impl FnOnce() -> Result<()>) -> c_int {
    guard_code(|| body().map(|()| ret::DQLITEPY_OK))
}

/// What is left of the reserve is for calls that are under way.
#[cold]
fn refuse() -> c_int {
    let refused = Error::new(
        Kind::NoMemory,
        "the process has no memory left, so no new call is begun; nothing was changed. Close what is not needed, or raise the \
         limit (ulimit -v), and try again",
    );
    if reserve::thread_is_ready() {
        remember(&refused);
    }
    ret::DQLITEPY_NOMEM
}

/// The same for a function whose success has several codes.
pub(super) fn guard_code(body: impl FnOnce() -> Result<c_int>) -> c_int {
    // Without memory for the message the code has to be enough.
    if !reserve::thread_is_ready() {
        return ret::DQLITEPY_NOMEM;
    }
    match caught(body) {
        Ok(code) => code,
        Err(error) => {
            remember(&error);
            ret::code(&error)
        }
    }
}

/// The same for a function that returns a value instead of a code; `otherwise` on failure.
pub(super) fn guard_value<T>(otherwise: T, body: impl FnOnce() -> Result<T>) -> T {
    if !reserve::thread_is_ready() {
        return otherwise;
    }
    caught(body).unwrap_or_else(|error| {
        remember(&error);
        otherwise
    })
}

/// A fresh copy of this thread's last error, or NULL.
pub(super) fn last_error() -> *mut c_char {
    last(|last| alloc::into_c_string(last.text.clone().into_bytes())).unwrap_or(std::ptr::null_mut())
}

/// The code that this thread's last failed call returned, and SQLite's extended one; 0 where there is none.
pub(super) fn last_codes() -> (c_int, c_int) {
    last(|last| (last.code, last.sqlite_code)).unwrap_or_default()
}

fn last<T>(read: impl FnOnce(&Last) -> T) -> Option<T> {
    if !reserve::thread_is_ready() {
        return None;
    }
    LAST_ERROR
        .try_with(|last| last.borrow().as_ref().map(read))
        .ok()
        .flatten()
}

/// A message as C can have it.
pub(super) fn message_of(error: &Error) -> String {
    error.message().replace('\0', " ")
}

fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    silence_panics();
    let _ = INSIDE.try_with(|inside| inside.set(true));
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let _ = INSIDE.try_with(|inside| inside.set(false));
    outcome.unwrap_or_else(|payload| {
        Err(Error::internal(format!(
            "a bug in libdqlitepy: {}; please report it",
            panic_text(payload.as_ref())
        )))
    })
}

fn remember(error: &Error) {
    keep(Last {
        text: message_of(error),
        code: ret::code(error),
        sqlite_code: error.sqlite_code(),
    });
}

/// A call that succeeds has something to say.
pub(super) fn warn(text: &str) {
    keep(Last {
        text: format!("warning: {}", text.replace('\0', " ")),
        code: ret::DQLITEPY_OK,
        sqlite_code: 0,
    });
}

fn keep(last: Last) {
    // A thread that is ending has no place for it any more.
    let _ = LAST_ERROR.try_with(|place| *place.borrow_mut() = Some(last));
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a panic without a message",
    }
}

/// The host's stderr is not ours. Rust's runtime is private to this library, so the hook touches nobody else's. Nobody waits
/// for whoever does it: in a forked child that would be for ever.
fn silence_panics() {
    static SILENCED: AtomicBool = AtomicBool::new(false);
    if SILENCED.load(Ordering::Relaxed) || SILENCED.swap(true, Ordering::Relaxed) {
        return;
    }
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let inside = INSIDE.try_with(Cell::get).unwrap_or(true);
        let ours = thread::current().name().is_some_and(|name| name.starts_with("dqlite-"));
        if !inside && !ours {
            usual(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Option<String> {
        last(|last| last.text.clone())
    }

    #[test]
    fn a_panic_becomes_a_code_and_a_message() {
        assert_eq!(guard(|| panic!("{} of them", 3)), ret::DQLITEPY_INTERNAL);
        assert!(text().unwrap().contains("3 of them"));
        assert_eq!(guard_value(7, || panic!("static")), 7);
        assert!(text().unwrap().contains("static"));
    }

    #[test]
    fn the_last_error_stays_until_the_next_one_and_belongs_to_its_thread() {
        assert_eq!(
            guard(|| Err(Error::new(Kind::NotFound, "a\0b"))),
            ret::DQLITEPY_NOTFOUND
        );
        assert_eq!(guard(|| Ok(())), ret::DQLITEPY_OK);
        assert_eq!(text().as_deref(), Some("a b"));
        assert_eq!(thread::spawn(text).join().unwrap(), None);
    }

    #[test]
    fn sqlite_codes_are_reduced_to_their_primary_part() {
        for (extended, expected) in [
            (1, 1001),
            (2067, 1019),
            (517, 1005),
            (0, 1001),
            (1005, 1001),
            (10250, 1010),
        ] {
            assert_eq!(guard(|| Err(Error::sql(extended, "x"))), expected);
        }
    }
}
