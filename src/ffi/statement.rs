//! Statements: parameters in, numbers or rows out, as often as one likes.

use std::ffi::{c_char, c_double, c_int, c_uint, c_void};

use crate::db::{PreparedStatement, Value};
use crate::engine::fork;
use crate::error::Result;
use crate::ffi::guard::{guard, guard_always};
use crate::ffi::{alloc, args, dqlitepy_handle, dqlitepy_value, object, rows_handle};
use crate::handle;

/// Makes a call on a statement and remembers its failure with its session.
fn statement<T>(handle: dqlitepy_handle, call: impl FnOnce(&PreparedStatement) -> Result<T>) -> Result<T> {
    let statement = object::<PreparedStatement>(handle)?;
    call(&statement).inspect_err(|error| statement.session().note(error))
}

fn bind(handle: dqlitepy_handle, index: c_int, value: Value<'_>) -> Result<()> {
    statement(handle, |statement| statement.bind(index.into(), value))
}

/// How many parameters the statement has: the highest index that can be bound.
///
/// `count_out` receives the number. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID.
/// Since 0.2.0.
///
/// # Safety
/// `count_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_parameter_count(
    statement: dqlitepy_handle,
    count_out: *mut c_int,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(count_out, "count_out") }?;
        let count = self::statement(statement, |statement| Ok(statement.parameter_count()))?;
        *out = c_int::try_from(count).unwrap_or(c_int::MAX);
        Ok(())
    })
}

/// The index of the parameter that the SQL calls so.
///
/// `name` is a NUL-terminated UTF-8 name with its first character, such as ":id", "@id" or "$id". `index_out` receives the
/// index, 0 on failure. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND (also: no such parameter) or
/// DQLITEPY_INVALID. Since 0.2.0.
///
/// # Safety
/// `name` is NULL or a NUL-terminated string, `index_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_parameter_index(
    statement: dqlitepy_handle,
    name: *const c_char,
    index_out: *mut c_int,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let (out, name) = unsafe { (args::out(index_out, "index_out")?, args::text(name, "name")?) };
        let index = self::statement(statement, |statement| statement.parameter_index(name))?;
        *out = c_int::try_from(index).unwrap_or(c_int::MAX);
        Ok(())
    })
}

/// The name of a parameter with its first character; NULL for a bare "?" or a numbered one.
///
/// `index` counts from 1. `name_out` receives a string that the caller frees with dqlitepy_free. Does not block. Returns
/// DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID (no such index). Since 0.2.0.
///
/// # Safety
/// `name_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_parameter_name(
    statement: dqlitepy_handle,
    index: c_int,
    name_out: *mut *mut c_char,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out_text(name_out, "name_out") }?;
        self::statement(statement, |statement| {
            if let Some(name) = statement.parameter_name(index.into())? {
                *out = alloc::handed_over(name.as_bytes().to_vec())?;
            }
            Ok(())
        })
    })
}

/// Binds NULL to a parameter; one that was never bound is NULL too.
///
/// `index` counts from 1. What is bound stays until it is bound again or cleared. Does not block. Returns DQLITEPY_OK,
/// DQLITEPY_NOTFOUND, DQLITEPY_INVALID (no such index) or DQLITEPY_MISUSE (another thread is using the statement).
/// Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_bind_null(statement: dqlitepy_handle, index: c_int) -> c_int {
    guard(|| bind(statement, index, Value::Null))
}

/// Binds an integer. The rest is as for dqlitepy_statement_bind_null. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_bind_int64(statement: dqlitepy_handle, index: c_int, value: i64) -> c_int {
    guard(|| bind(statement, index, Value::Integer(value)))
}

/// Binds a double; infinities are kept, what is not a number becomes NULL, as always in SQLite. The rest is as for
/// dqlitepy_statement_bind_null. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_bind_double(statement: dqlitepy_handle, index: c_int, value: c_double) -> c_int {
    guard(|| bind(statement, index, Value::Real(value)))
}

/// Binds a boolean, which SQLite keeps as the integer 0 or 1. The rest is as for dqlitepy_statement_bind_null.
/// Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_bind_bool(statement: dqlitepy_handle, index: c_int, value: c_int) -> c_int {
    guard(|| bind(statement, index, Value::Boolean(u64::from(value != 0))))
}

/// Binds a text, which is copied.
///
/// `text` is `size` bytes of UTF-8, or NUL-terminated if `size` is negative. A NUL inside cannot travel to the engine and
/// gives DQLITEPY_INVALID: write CAST(? AS TEXT) and bind a blob. More than 1000000000 bytes give DQLITEPY_SQL + 18.
/// The rest is as for dqlitepy_statement_bind_null. Since 0.2.0.
///
/// # Safety
/// `text` is as said, or NULL with a size of 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_bind_text(
    statement: dqlitepy_handle,
    index: c_int,
    text: *const c_char,
    size: i64,
) -> c_int {
    guard(|| {
        let text = match u64::try_from(size) {
            // SAFETY: the caller's promise.
            Ok(size) => unsafe { args::parameter(text.cast(), size, index) }?,
            // SAFETY: the caller's promise.
            Err(_) => unsafe { args::text(text, "text") }?.as_bytes(),
        };
        bind(statement, index, Value::Text(text))
    })
}

/// Binds a blob of `size` bytes, which is copied; it may be empty, with `data` NULL or not.
///
/// More than 1000000000 bytes give DQLITEPY_SQL + 18. The rest is as for dqlitepy_statement_bind_null. Since 0.2.0.
///
/// # Safety
/// `data` points to `size` readable bytes, or is NULL with a size of 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_bind_blob(
    statement: dqlitepy_handle,
    index: c_int,
    data: *const c_void,
    size: u64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let data = unsafe { args::parameter(data, size, index) }?;
        bind(statement, index, Value::Blob(data))
    })
}

/// Binds a point in time, in seconds since 1970 (before it: negative) and nanoseconds after that, as the text that
/// go-dqlite stores for it: "2024-01-02 03:04:05.5+00:00".
///
/// The years 0 to 9999 can be written, others give DQLITEPY_INVALID. To store a number instead, bind an integer.
/// The rest is as for dqlitepy_statement_bind_null. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_bind_time(
    statement: dqlitepy_handle,
    index: c_int,
    seconds: i64,
    nanoseconds: c_uint,
) -> c_int {
    guard(|| {
        self::statement(statement, |statement| {
            statement.bind_time(index.into(), seconds, nanoseconds)
        })
    })
}

/// Binds all parameters in one call.
///
/// `values` are `count` values, as many as the statement has parameters, else DQLITEPY_INVALID; their bytes are
/// copied. If one is refused none is bound. DQLITEPY_UNIXTIME stands for what dqlitepy_statement_bind_time binds,
/// DQLITEPY_ISO8601 for a text. The rest is as for the functions that bind one. Since 0.2.0.
///
/// # Safety
/// `values` points to `count` values, each with `size` readable bytes at `data` if its type has bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_bind_values(
    statement: dqlitepy_handle,
    values: *const dqlitepy_value,
    count: u64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let values = unsafe { args::list(values, count, "values") }?;
        // SAFETY: the caller's promise; an index that is no int is refused for the count.
        let read = |(at, value)| unsafe { args::value(value, c_int::try_from(at).unwrap_or(-2) + 1) };
        self::statement(statement, |statement| {
            statement.bind_all(values.iter().enumerate().map(read))
        })
    })
}

/// Makes all parameters NULL. Does not block. Returns as dqlitepy_statement_bind_null. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_clear_bindings(statement: dqlitepy_handle) -> c_int {
    guard_always(|| self::statement(statement, PreparedStatement::clear_bindings))
}

/// Forgets the sets that dqlitepy_statement_add_batch has kept; what is bound stays. A statement needs no reset between
/// two runs. Does not block. Returns as dqlitepy_statement_bind_null. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_reset(statement: dqlitepy_handle) -> c_int {
    guard_always(|| self::statement(statement, PreparedStatement::reset))
}

/// Gives a statement back; the handle means nothing afterwards. Rows that it gave can still be read.
///
/// Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_finalize(statement: dqlitepy_handle) -> c_int {
    guard_always(|| {
        fork::check()?;
        handle::remove::<PreparedStatement>(statement).map(drop)
    })
}

/// Runs the statement with what is bound; rows that it yields are dropped.
///
/// `last_insert_id_out` and `rows_affected_out` may be NULL; they receive the numbers of an INSERT, REPLACE, UPDATE or
/// DELETE, 0 for other statements or on failure. Blocks and returns as dqlitepy_session_exec, and DQLITEPY_MISUSE if
/// another thread is using the statement or its session is closed. Since 0.2.0.
///
/// # Safety
/// The pointers are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_exec(
    statement: dqlitepy_handle,
    last_insert_id_out: *mut i64,
    rows_affected_out: *mut i64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::Numbers::new(last_insert_id_out, rows_affected_out) };
        self::statement(statement, PreparedStatement::exec).map(|changes| out.set(changes))
    })
}

/// Runs the statement with what is bound, for its rows.
///
/// `rows_out` receives the handle of the rows, to be given back with dqlitepy_rows_close; 0 on failure. The rows are as
/// those of dqlitepy_session_query. Blocks and returns as dqlitepy_statement_exec. Since 0.2.0.
///
/// # Safety
/// `rows_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_query(statement: dqlitepy_handle, rows_out: *mut dqlitepy_handle) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(rows_out, "rows_out") }?;
        *out = rows_handle(self::statement(statement, PreparedStatement::query)?)?;
        Ok(())
    })
}

/// Keeps what is bound as one set of parameters for dqlitepy_statement_exec_batch. What is bound stays bound.
///
/// Does not block. Returns as dqlitepy_statement_bind_null. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_statement_add_batch(statement: dqlitepy_handle) -> c_int {
    guard(|| self::statement(statement, PreparedStatement::add_batch))
}

/// Runs the statement once for each set that was kept, all of them or none: in a transaction of its own, or inside the
/// open one behind a savepoint. The sets are used up in any case.
///
/// `rows_affected_out` may be NULL; it receives the sum over all sets, 0 on failure. Without sets nothing happens. A
/// statement that only reads gives DQLITEPY_MISUSE. Blocks and returns as dqlitepy_statement_exec. Since 0.2.0.
///
/// # Safety
/// `rows_affected_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_statement_exec_batch(
    statement: dqlitepy_handle,
    rows_affected_out: *mut i64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::optional_out(rows_affected_out) };
        let rows = self::statement(statement, PreparedStatement::exec_batch)?;
        args::set(out, rows);
        Ok(())
    })
}
