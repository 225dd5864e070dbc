//! Reading what callers pass; all unsafe access to their memory is here.

use std::ffi::{CStr, c_char};

use crate::error::{Error, Result};

/// A text of the caller.
///
/// # Safety
/// `pointer` is NULL or points to a NUL-terminated string that stays unchanged through the call.
pub(super) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    // SAFETY: not NULL, and otherwise the caller's promise.
    let bytes = unsafe { CStr::from_ptr(pointer) };
    bytes.to_str().map_err(|error| {
        Error::invalid(format!("{name} is not valid UTF-8 (at byte {})", error.valid_up_to()))
    })
}

/// A place for a result that the caller must give. It is cleared at once, so that a failure leaves no garbage in it.
///
/// # Safety
/// `pointer` is NULL or points to a writable place that nobody else uses through the call.
pub(super) unsafe fn out<'a, T: Default>(pointer: *mut T, name: &str) -> Result<&'a mut T> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL: the result needs a place")));
    }
    // SAFETY: not NULL, and otherwise the caller's promise; what was there before is overwritten without being read.
    unsafe {
        pointer.write(T::default());
        Ok(&mut *pointer)
    }
}

/// A place for a string result; like `out`, for a type without a default.
///
/// # Safety
/// As for `out`.
pub(super) unsafe fn out_text<'a>(pointer: *mut *mut c_char, name: &str) -> Result<&'a mut *mut c_char> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL: the result needs a place")));
    }
    // SAFETY: as in `out`.
    unsafe {
        pointer.write(std::ptr::null_mut());
        Ok(&mut *pointer)
    }
}

/// A place for a result that the caller may leave out.
///
/// # Safety
/// As for `out`.
pub(super) unsafe fn optional_out<'a, T: Default>(pointer: *mut T) -> Option<&'a mut T> {
    // SAFETY: as in `out`.
    (!pointer.is_null()).then(|| unsafe {
        pointer.write(T::default());
        &mut *pointer
    })
}
