//! Rows, one at a time or many, without a copy.

use std::ffi::{c_char, c_double, c_int, c_void};

use crate::db::{Next, ResultRows, Value};
use crate::engine::fork;
use crate::error::{Error, Result};
use crate::ffi::guard::{guard_always, guard_code};
use crate::ffi::{args, dqlitepy_handle, dqlitepy_value, object, ret};
use crate::handle;

/// Makes a call on rows and remembers its failure with their session.
fn rows<T>(handle: dqlitepy_handle, call: impl FnOnce(&ResultRows) -> Result<T>) -> Result<T> {
    let rows = object::<ResultRows>(handle)?;
    call(&rows).inspect_err(|error| rows.session().note(error))
}

/// Looks at a value of the row that the last step went to.
fn value<T>(handle: dqlitepy_handle, column: c_int, look: impl FnOnce(Value<'_>) -> Result<T>) -> Result<T> {
    rows(handle, |rows| {
        rows.look(|part| look(ResultRows::value(part, column.into())?))
    })
}

/// Goes to the next row.
///
/// Blocks until it has come, for the session's timeout at most; most rows are there already. Returns DQLITEPY_ROW,
/// DQLITEPY_DONE behind the last row (a write is certain now), DQLITEPY_NOTFOUND, DQLITEPY_INVALID, DQLITEPY_MISUSE
/// (another thread is reading these rows), or what dqlitepy_session_exec returns; after a failure every further step
/// returns the same one. Rows that came out of a queue do not block and return DQLITEPY_MORE when those that are here have
/// been read: dqlitepy_queue_rows_more asks for the next ones. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_rows_step(rows: dqlitepy_handle) -> c_int {
    guard_code(|| self::rows(rows, ResultRows::step).map(in_code))
}

/// How many columns the rows have; 0 for a statement that yields none.
///
/// `count_out` receives the number. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND, DQLITEPY_INVALID or
/// DQLITEPY_MISUSE (another thread is reading these rows). Since 0.2.0.
///
/// # Safety
/// `count_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_column_count(rows: dqlitepy_handle, count_out: *mut c_int) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(count_out, "count_out") }?;
        let count = self::rows(rows, |rows| rows.look(|part| Ok(part.names().len())))?;
        *out = c_int::try_from(count).unwrap_or(c_int::MAX);
        Ok(())
    })
}

/// The name of a column, which several columns may share.
///
/// `column` counts from 0. `name_out` receives a NUL-terminated string that stays until the rows are closed; not to be
/// freed. Does not block. Returns as dqlitepy_rows_column_count. Since 0.2.0.
///
/// # Safety
/// `name_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_column_name(
    rows: dqlitepy_handle,
    column: c_int,
    name_out: *mut *const c_char,
) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out_pointer(name_out, "name_out") }?;
        *out = self::rows(rows, |rows| {
            rows.look(|part| Ok(ResultRows::name(part, column.into())?.as_ptr()))
        })?;
        Ok(())
    })
}

/// The type of a value in this row: DQLITEPY_INTEGER, DQLITEPY_FLOAT, DQLITEPY_TEXT, DQLITEPY_BLOB, DQLITEPY_NULL,
/// DQLITEPY_UNIXTIME, DQLITEPY_ISO8601 or DQLITEPY_BOOLEAN. It may differ from row to row.
///
/// `column` counts from 0. `type_out` receives the type. A text that holds a NUL comes as a blob. Does not block. Returns
/// DQLITEPY_OK, DQLITEPY_NOTFOUND, DQLITEPY_INVALID (no such column) or DQLITEPY_MISUSE (there is no row; another thread
/// is reading these rows). Since 0.2.0.
///
/// # Safety
/// `type_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_column_type(
    rows: dqlitepy_handle,
    column: c_int,
    type_out: *mut c_int,
) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(type_out, "type_out") }?;
        *out = value(rows, column, |value| Ok(value.code().into()))?;
        Ok(())
    })
}

/// An integer, boolean or unix time of this row; 0 for NULL. Another type gives DQLITEPY_INVALID.
///
/// The rest is as for dqlitepy_rows_column_type. Since 0.2.0.
///
/// # Safety
/// `value_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_column_int64(
    rows: dqlitepy_handle,
    column: c_int,
    value_out: *mut i64,
) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(value_out, "value_out") }?;
        *out = value(rows, column, |value| match value {
            Value::Null => Ok(0),
            Value::Integer(number) | Value::UnixTime(number) => Ok(number),
            Value::Boolean(number) => Ok(number.cast_signed()),
            other => Err(mistaken(column, &other, "an integer")),
        })?;
        Ok(())
    })
}

/// A double of this row, or an integer as the nearest double; 0 for NULL. Another type gives DQLITEPY_INVALID.
///
/// The rest is as for dqlitepy_rows_column_type. Since 0.2.0.
///
/// # Safety
/// `value_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_column_double(
    rows: dqlitepy_handle,
    column: c_int,
    value_out: *mut c_double,
) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(value_out, "value_out") }?;
        *out = value(rows, column, |value| match value {
            Value::Null => Ok(0.0),
            Value::Real(number) => Ok(number),
            Value::Integer(number) => Ok(number as c_double),
            other => Err(mistaken(column, &other, "a double")),
        })?;
        Ok(())
    })
}

/// The bytes of a text, ISO8601 time or blob of this row; NULL and 0 for NULL. Another type gives DQLITEPY_INVALID.
///
/// `text_out` receives where they are, without a copy and without a NUL behind them: they stay until the next step, fetch
/// or close of these rows. `size_out` receives how many there are. The rest is as for dqlitepy_rows_column_type.
/// Since 0.2.0.
///
/// # Safety
/// The pointers are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_column_text(
    rows: dqlitepy_handle,
    column: c_int,
    text_out: *mut *const c_char,
    size_out: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    guard_always(|| unsafe { bytes(rows, column, text_out.cast(), size_out) })
}

/// The same as dqlitepy_rows_column_text, for those who expect a blob. Since 0.2.0.
///
/// # Safety
/// The pointers are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_column_blob(
    rows: dqlitepy_handle,
    column: c_int,
    data_out: *mut *const c_void,
    size_out: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    guard_always(|| unsafe { bytes(rows, column, data_out, size_out) })
}

/// # Safety
/// As for dqlitepy_rows_column_text.
unsafe fn bytes(rows: dqlitepy_handle, column: c_int, data_out: *mut *const c_void, size_out: *mut u64) -> Result<()> {
    // SAFETY: the caller's promise.
    let size = unsafe { args::out(size_out, "size_out") };
    // SAFETY: the caller's promise.
    let (data, size) = unsafe { (args::out_pointer(data_out, "the place of the bytes")?, size?) };
    (*data, *size) = value(rows, column, |value| match value {
        Value::Null => Ok((std::ptr::null(), 0)),
        Value::Text(bytes) | Value::Iso8601(bytes) | Value::Blob(bytes) => {
            Ok((bytes.as_ptr().cast(), bytes.len() as u64))
        }
        other => Err(mistaken(column, &other, "bytes")),
    })?;
    Ok(())
}

/// All values of this row in one call.
///
/// `values` are `count` places, as many as there are columns (DQLITEPY_INVALID otherwise). What they point to stays until
/// the next step, fetch or close of these rows. The rest is as for dqlitepy_rows_column_type. Since 0.2.0.
///
/// # Safety
/// `values` points to `count` writable places, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_row(rows: dqlitepy_handle, values: *mut dqlitepy_value, count: u64) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let places = unsafe { args::places(values, count, "values") }?;
        self::rows(rows, |rows| {
            rows.look(|part| {
                check_count(count, part.names().len())?;
                for (column, place) in (0..).zip(places) {
                    place.write(in_c(ResultRows::value(part, column)?));
                }
                Ok(())
            })
        })
    })
}

/// Many rows in one call: as many as are here without waiting, up to `max_rows`; it waits only if there is none.
///
/// `values` are `max_rows` times the number of columns places, row after row; without columns it may be NULL.
/// `rows_out` receives how many rows were written. What the values point to stays until the next step, fetch or close of
/// these rows. Blocks and returns as dqlitepy_rows_step: DQLITEPY_ROW with one row or more, DQLITEPY_DONE with none.
/// Since 0.2.0.
///
/// # Safety
/// `values` points to so many writable places, or is NULL; `rows_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_rows_fetch(
    rows: dqlitepy_handle,
    values: *mut dqlitepy_value,
    max_rows: u64,
    rows_out: *mut u64,
) -> c_int {
    guard_code(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(rows_out, "rows_out") }?;
        let (count, next) = self::rows(rows, |rows| {
            let columns = rows.look(|part| Ok(part.names().len()))?;
            // SAFETY: the caller's promise.
            let places = unsafe { args::places(values, max_rows.saturating_mul(columns as u64), "values") }?;
            let most = usize::try_from(max_rows).unwrap_or(usize::MAX);
            rows.fetch(most, &mut |row, column, value| {
                if let Some(place) = places.get_mut(row * columns + column) {
                    place.write(in_c(value));
                }
            })
        })?;
        *out = count as u64;
        Ok(in_code(next))
    })
}

/// Gives rows back, in the middle too. What was borrowed from them must not be used afterwards.
///
/// Rows that are still to come are read and dropped if there are few, if they belong to a write, or if the session has a
/// transaction, temporary tables or settings that would go with its connection; else the connection is ended, and the
/// session makes a new one when it needs it. Blocks for the session's timeout at most. Returns DQLITEPY_OK,
/// DQLITEPY_NOTFOUND or DQLITEPY_INVALID; of a write or inside a transaction also the codes of dqlitepy_session_exec.
/// In any case the rows are closed. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_rows_close(rows: dqlitepy_handle) -> c_int {
    guard_always(|| {
        fork::check()?;
        let rows = handle::remove::<ResultRows>(rows)?;
        rows.close().inspect_err(|error| rows.session().note(error))
    })
}

fn in_code(next: Next) -> c_int {
    match next {
        Next::Row => ret::DQLITEPY_ROW,
        Next::Done => ret::DQLITEPY_DONE,
        Next::Later => ret::DQLITEPY_MORE,
    }
}

fn in_c(value: Value<'_>) -> dqlitepy_value {
    let mut c = dqlitepy_value {
        r#type: value.code().into(),
        integer: 0,
        real: 0.0,
        data: std::ptr::null(),
        size: 0,
    };
    match value {
        Value::Null => {}
        Value::Integer(number) | Value::UnixTime(number) => c.integer = number,
        Value::Boolean(number) => c.integer = number.cast_signed(),
        Value::Real(number) => c.real = number,
        Value::Text(bytes) | Value::Iso8601(bytes) | Value::Blob(bytes) => {
            (c.data, c.size) = (bytes.as_ptr().cast(), bytes.len() as u64);
        }
    }
    c
}

fn check_count(given: u64, columns: usize) -> Result<()> {
    if given == columns as u64 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "there are {columns} columns, and {given} places were given"
    )))
}

fn mistaken(column: c_int, value: &Value<'_>, wanted: &str) -> Error {
    let found = match value {
        Value::Null => "NULL",
        Value::Integer(_) => "INTEGER",
        Value::Real(_) => "FLOAT",
        Value::Text(_) => "TEXT",
        Value::Blob(_) => "BLOB",
        Value::UnixTime(_) => "UNIXTIME",
        Value::Iso8601(_) => "ISO8601",
        Value::Boolean(_) => "BOOLEAN",
    };
    Error::invalid(format!(
        "column {column} of this row is {found}, not {wanted}; ask for its type first"
    ))
}
