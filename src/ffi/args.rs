//! Reading what callers pass; all unsafe access to their memory is here.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::db::{Changes, Value, check_size};
use crate::error::{Error, Result};
use crate::ffi::{dqlitepy_value, ret};

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
    bytes
        .to_str()
        .map_err(|error| Error::invalid(format!("{name} is not valid UTF-8 (at byte {})", error.valid_up_to())))
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

/// The same for a pointer that the caller borrows.
///
/// # Safety
/// As for `out`.
pub(super) unsafe fn out_pointer<'a, T>(pointer: *mut *const T, name: &str) -> Result<&'a mut *const T> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL: the result needs a place")));
    }
    // SAFETY: as in `out`.
    unsafe {
        pointer.write(std::ptr::null());
        Ok(&mut *pointer)
    }
}

/// Writes a result that the caller may have left out.
pub(super) fn set<T>(place: Option<&mut T>, value: T) {
    if let Some(place) = place {
        *place = value;
    }
}

/// Where the numbers of a change go.
pub(super) struct Numbers<'a> {
    last_insert_id: Option<&'a mut i64>,
    rows_affected: Option<&'a mut i64>,
}

impl Numbers<'_> {
    /// # Safety
    /// As for `optional_out`.
    pub(super) unsafe fn new(last_insert_id: *mut i64, rows_affected: *mut i64) -> Self {
        Self {
            // SAFETY: the caller's promise.
            last_insert_id: unsafe { optional_out(last_insert_id) },
            // SAFETY: the caller's promise.
            rows_affected: unsafe { optional_out(rows_affected) },
        }
    }

    pub(super) fn set(self, changes: Changes) {
        set(self.last_insert_id, changes.last_insert_id);
        set(self.rows_affected, changes.rows_affected);
    }
}

/// A text of the caller with a length, or up to its NUL if the length is negative. A NUL inside is refused.
///
/// # Safety
/// `pointer` is NULL or points to `length` bytes, or to a NUL-terminated string, that stay unchanged through the call.
pub(super) unsafe fn text_of<'a>(pointer: *const c_char, length: i64, name: &str) -> Result<&'a str> {
    let Ok(length) = usize::try_from(length) else {
        // SAFETY: the caller's promise.
        return unsafe { text(pointer, name) };
    };
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(pointer.cast(), length as u64, name) }?;
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(Error::invalid(format!("{name} holds a NUL (byte {at})")));
    }
    std::str::from_utf8(bytes)
        .map_err(|error| Error::invalid(format!("{name} is not valid UTF-8 (at byte {})", error.valid_up_to())))
}

/// Bytes of the caller; none of them may be NULL.
///
/// # Safety
/// `pointer` is NULL or points to `size` bytes that stay unchanged through the call.
pub(super) unsafe fn bytes<'a>(pointer: *const c_void, size: u64, name: &str) -> Result<&'a [u8]> {
    if size == 0 {
        return Ok(&[]);
    }
    let length = isize::try_from(size).map_err(|_| Error::invalid(format!("{name} cannot have {size} bytes")))?;
    if pointer.is_null() {
        return Err(Error::invalid(format!(
            "{name} is NULL and is said to have {size} bytes"
        )));
    }
    // SAFETY: not NULL, and otherwise the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), length.unsigned_abs()) })
}

/// The bytes of parameter `index`. A size that SQLite would refuse is refused before a byte is read.
///
/// # Safety
/// As for `bytes`.
pub(super) unsafe fn parameter<'a>(pointer: *const c_void, size: u64, index: c_int) -> Result<&'a [u8]> {
    check_size(size, usize::try_from(index).unwrap_or_default())?;
    // SAFETY: the caller's promise.
    unsafe { bytes(pointer, size, &format!("the value of parameter {index}")) }
}

/// A value of the caller for parameter `index`.
///
/// # Safety
/// `value.data` is as `bytes` wants it, if the type has bytes.
pub(super) unsafe fn value<'a>(value: &dqlitepy_value, index: c_int) -> Result<Value<'a>> {
    // SAFETY: the caller's promise.
    let bytes = || unsafe { parameter(value.data, value.size, index) };
    Ok(match value.r#type {
        ret::DQLITEPY_NULL => Value::Null,
        ret::DQLITEPY_INTEGER => Value::Integer(value.integer),
        ret::DQLITEPY_FLOAT => Value::Real(value.real),
        ret::DQLITEPY_TEXT => Value::Text(bytes()?),
        ret::DQLITEPY_BLOB => Value::Blob(bytes()?),
        ret::DQLITEPY_ISO8601 => Value::Iso8601(bytes()?),
        ret::DQLITEPY_UNIXTIME => Value::UnixTime(value.integer),
        ret::DQLITEPY_BOOLEAN => Value::Boolean(u64::from(value.integer != 0)),
        unknown => {
            return Err(Error::invalid(format!(
                "parameter {index} has the unknown type {unknown}"
            )));
        }
    })
}

/// `count` things of the caller.
///
/// # Safety
/// `pointer` is NULL or points to `count` readable things that stay unchanged through the call.
pub(super) unsafe fn list<'a, T>(pointer: *const T, count: u64, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    let count = check_list::<T>(pointer.is_null(), count, name)?;
    // SAFETY: not NULL, not longer than memory can be, and otherwise the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// `count` places for results.
///
/// # Safety
/// `pointer` is NULL or points to `count` writable places that nobody else uses through the call.
pub(super) unsafe fn places<'a, T>(
    pointer: *mut T,
    count: u64,
    name: &str,
) -> Result<&'a mut [std::mem::MaybeUninit<T>]> {
    if count == 0 {
        return Ok(&mut []);
    }
    let count = check_list::<T>(pointer.is_null(), count, name)?;
    // SAFETY: not NULL, not longer than memory can be, and otherwise the caller's promise; what was there before is never read.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer.cast(), count) })
}

fn check_list<T>(is_null: bool, count: u64, name: &str) -> Result<usize> {
    if is_null {
        return Err(Error::invalid(format!(
            "{name} is NULL and is said to have {count} entries"
        )));
    }
    usize::try_from(count)
        .ok()
        .filter(|count| {
            count
                .checked_mul(size_of::<T>())
                .is_some_and(|size| isize::try_from(size).is_ok())
        })
        .ok_or_else(|| Error::invalid(format!("{name} cannot have {count} entries")))
}
