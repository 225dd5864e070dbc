//! Queues: the same calls for callers who must not wait. What is read of the caller's memory is copied before the return.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::client::Connector;
use crate::db::{BoundStatement, PreparedStatement, ResultRows, SharedSession};
use crate::engine::fork;
use crate::error::{Error, Kind, Result};
use crate::ffi::guard::{guard, guard_always, message_of};
use crate::ffi::{alloc, args, dqlitepy_completion, dqlitepy_handle, dqlitepy_value, object, ret, rows_handle};
use crate::handle;
use crate::memory;
use crate::net::parse_csv;
use crate::node::Node;
use crate::queue::{Completion, Outcome, Queue, Work};

/// Puts what `work` gives into the queue, if there is a place for it.
fn submit(queue: dqlitepy_handle, token: u64, work: impl FnOnce() -> Result<Work>) -> Result<()> {
    let place = object::<Queue>(queue)?.reserve()?;
    place.submit(token, work()?)
}

/// Opens a queue: requests are submitted to it, threads of this library carry them out, and their results are polled. The
/// caller needs no thread.
///
/// One queue serves any number of sessions. Each request is submitted with a `token`, any number, that comes back with its
/// result; each submitted request gives exactly one result. Requests on one session are carried out one after the other
/// in the order in which they were submitted, with those of its statements and rows; sessions run beside each other, on a
/// thread each, up to 64 at a time and more for sessions inside a transaction. All that a submitting function reads is
/// copied before it returns. It does not block and returns DQLITEPY_OK, DQLITEPY_INVALID, DQLITEPY_NOTFOUND, DQLITEPY_FULL,
/// DQLITEPY_SHUTDOWN (another thread has closed the queue) or DQLITEPY_INTERNAL (no thread could be started); other than
/// with DQLITEPY_OK nothing was submitted. What the request itself can fail with is said of the function that waits.
/// `capacity` is how many requests the queue takes, counted until their results are polled: 1 to 1048576, 0 = 4096.
/// `queue_out` receives the handle, to be given back with dqlitepy_queue_close; 0 on failure.
/// Does not block. Returns DQLITEPY_OK, DQLITEPY_INVALID or DQLITEPY_INTERNAL (no descriptor is left). Since 0.2.0.
///
/// # Safety
/// `queue_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_open(capacity: u64, queue_out: *mut dqlitepy_handle) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(queue_out, "queue_out") }?;
        fork::check()?;
        fork::arm();
        *out = handle::insert(Queue::new(capacity)?)?;
        Ok(())
    })
}

/// The descriptor that is readable while results wait, for select, poll, epoll or an event loop such as asyncio or libuv.
///
/// `fd_out` receives it, -1 on failure. It belongs to the queue and is not to be read, written or closed: polling the
/// queue empty makes it unreadable again. Take it out of the event loop before dqlitepy_queue_close, which closes it.
/// Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or DQLITEPY_INVALID. Since 0.2.0.
///
/// # Safety
/// `fd_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_fd(queue: dqlitepy_handle, fd_out: *mut c_int) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(fd_out, "fd_out") }?;
        *out = -1;
        *out = object::<Queue>(queue)?.fd();
        Ok(())
    })
}

/// Fetches results, in the order in which they came.
///
/// `completions` are `max` places. `count_out` receives how many were written, 0 if none was there; fewer than `max` means
/// that none is left. Their messages and handles are the caller's. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or
/// DQLITEPY_INVALID. Since 0.2.0.
///
/// # Safety
/// `completions` points to `max` writable places, or is NULL; `count_out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_poll(
    queue: dqlitepy_handle,
    completions: *mut dqlitepy_completion,
    max: u64,
    count_out: *mut u64,
) -> c_int {
    guard_always(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { args::out(count_out, "count_out") }?;
        // SAFETY: the caller's promise.
        let places = unsafe { args::places(completions, max, "completions") }?;
        let done = object::<Queue>(queue)?.poll(places.len());
        *out = done.len() as u64;
        for (completion, place) in done.into_iter().zip(places) {
            write(completion, place);
        }
        Ok(())
    })
}

/// Ends the requests with this token that have not ended: one that waits never runs, one that runs is ended like a call by
/// dqlitepy_session_interrupt. Their results come as for all requests, with DQLITEPY_INTERRUPTED or what else is true.
///
/// Closing a session or rows cannot be cancelled. Does not block. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND (no such request, or
/// it has ended) or DQLITEPY_INVALID. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_queue_cancel(queue: dqlitepy_handle, token: u64) -> c_int {
    guard_always(|| match object::<Queue>(queue)?.cancel(token) {
        true => Ok(()),
        false => Err(Error::new(
            Kind::NotFound,
            format!("no request with the token {token} is waiting or running in the queue"),
        )),
    })
}

/// Closes a queue: requests that wait never run, those that run are ended as by dqlitepy_queue_cancel, results that were
/// not polled are dropped and what they hold is closed. Sessions, statements and rows that the caller has stay open; those
/// that were submitted to be closed are closed.
///
/// Blocks until the requests have ended, which does not take long. Returns DQLITEPY_OK, DQLITEPY_NOTFOUND or
/// DQLITEPY_INVALID. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_queue_close(queue: dqlitepy_handle) -> c_int {
    guard_always(|| {
        fork::check()?;
        handle::remove::<Queue>(queue)?.close();
        Ok(())
    })
}

/// Submits what dqlitepy_session_open does; the result's handle is the session. Since 0.2.0.
///
/// # Safety
/// `db_name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_session_open(
    queue: dqlitepy_handle,
    token: u64,
    node: dqlitepy_handle,
    db_name: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { args::text(db_name, "db_name") }?;
        submit(queue, token, || {
            Ok(Work::OpenOnNode(object::<Node>(node)?, name.to_owned()))
        })
    })
}

/// Submits what dqlitepy_session_open_addresses does; the result's handle is the session. Since 0.2.0.
///
/// # Safety
/// The strings are NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_session_open_addresses(
    queue: dqlitepy_handle,
    token: u64,
    addresses_csv: *const c_char,
    db_name: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let csv = unsafe { args::text(addresses_csv, "addresses_csv") }?;
        // SAFETY: the caller's promise.
        let name = unsafe { args::text(db_name, "db_name") }?;
        submit(queue, token, || {
            let connector = Connector::new(None, parse_csv(csv)?);
            Ok(Work::OpenAt(Arc::new(connector), name.to_owned()))
        })
    })
}

/// Submits what dqlitepy_session_close does, behind the requests that were submitted on the session before. The handle
/// means nothing from now on. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_queue_session_close(queue: dqlitepy_handle, token: u64, session: dqlitepy_handle) -> c_int {
    guard_always(|| {
        submit(queue, token, || {
            Ok(Work::CloseSession(handle::remove::<SharedSession>(session)?))
        })
    })
}

/// Submits what dqlitepy_session_exec does, or, with values, what dqlitepy_statement_exec does with a statement that they
/// are bound to.
///
/// `sql` and `sql_size` are as for dqlitepy_session_exec. `values` are `count` values, as many as the statement has
/// parameters; else the result is DQLITEPY_INVALID. Without values the text may hold any number of statements, also BEGIN,
/// COMMIT, ROLLBACK and savepoints; with values exactly one. Since 0.2.0.
///
/// # Safety
/// `sql` is NULL or as said; `values` points to `count` values, each with `size` readable bytes at `data` if its type has
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_session_exec(
    queue: dqlitepy_handle,
    token: u64,
    session: dqlitepy_handle,
    sql: *const c_char,
    sql_size: i64,
    values: *const dqlitepy_value,
    count: u64,
) -> c_int {
    guard(|| {
        submit(queue, token, || {
            let session = object::<SharedSession>(session)?;
            // SAFETY: the caller's promise.
            match unsafe { text_and_values(&session, sql, sql_size, values, count, 1) }? {
                (text, None) => Ok(Work::Script(session, memory::copy_text(text, "a statement")?)),
                (_, Some(bound)) => Ok(Work::Exec(bound)),
            }
        })
    })
}

/// Submits what dqlitepy_session_query does, or, with values, what dqlitepy_statement_query does; the result's handle are
/// the rows.
///
/// The arguments are as for dqlitepy_queue_session_exec. The first rows have come with the result. Reading them does not
/// block: when those that are here have been read, dqlitepy_rows_step and dqlitepy_rows_fetch return DQLITEPY_MORE, and
/// dqlitepy_queue_rows_more asks for the next ones. Until they have been read to DQLITEPY_DONE, or closed, other requests
/// on the session give DQLITEPY_MISUSE. Since 0.2.0.
///
/// # Safety
/// As for dqlitepy_queue_session_exec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_session_query(
    queue: dqlitepy_handle,
    token: u64,
    session: dqlitepy_handle,
    sql: *const c_char,
    sql_size: i64,
    values: *const dqlitepy_value,
    count: u64,
) -> c_int {
    guard(|| {
        submit(queue, token, || {
            let session = object::<SharedSession>(session)?;
            // SAFETY: the caller's promise.
            match unsafe { text_and_values(&session, sql, sql_size, values, count, 1) }? {
                (text, None) => Ok(Work::Select(session, memory::copy_text(text, "a statement")?)),
                (_, Some(bound)) => Ok(Work::Query(bound)),
            }
        })
    })
}

/// Submits what dqlitepy_statement_exec_batch does, without a statement's handle.
///
/// `sql` and `sql_size` are one statement, as for dqlitepy_session_exec. `values` are `sets` times `columns` values, set
/// after set; `columns` is at least 1. Since 0.2.0.
///
/// # Safety
/// `sql` is NULL or as said; `values` points to so many values, each with `size` readable bytes at `data` if its type has
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_session_exec_batch(
    queue: dqlitepy_handle,
    token: u64,
    session: dqlitepy_handle,
    sql: *const c_char,
    sql_size: i64,
    values: *const dqlitepy_value,
    columns: u64,
    sets: u64,
) -> c_int {
    guard(|| {
        submit(queue, token, || {
            let session = object::<SharedSession>(session)?;
            // SAFETY: the caller's promise.
            match unsafe { text_and_values(&session, sql, sql_size, values, columns, sets) }? {
                (_, Some(bound)) => Ok(Work::Batch(bound)),
                (_, None) => Err(Error::invalid("a batch needs columns and sets: one value or more")),
            }
        })
    })
}

/// Submits what dqlitepy_session_prepare does; the result has the statement as its handle and the tail. Since 0.2.0.
///
/// # Safety
/// `sql` is NULL or as said for dqlitepy_session_exec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlitepy_queue_session_prepare(
    queue: dqlitepy_handle,
    token: u64,
    session: dqlitepy_handle,
    sql: *const c_char,
    sql_size: i64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let sql = unsafe { args::text_of(sql, sql_size, "sql") }?;
        submit(queue, token, || {
            Ok(Work::Prepare(
                object::<SharedSession>(session)?,
                memory::copy_text(sql, "a statement")?,
            ))
        })
    })
}

/// Submits what dqlitepy_statement_exec does, with what is bound now: the statement can be bound and submitted anew, or
/// finalized, at once. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_queue_statement_exec(
    queue: dqlitepy_handle,
    token: u64,
    statement: dqlitepy_handle,
) -> c_int {
    guard(|| {
        submit(queue, token, || {
            Ok(Work::Exec(object::<PreparedStatement>(statement)?.with_values()?))
        })
    })
}

/// Submits what dqlitepy_statement_query does, with what is bound now; the result's handle are the rows, which are as those
/// of dqlitepy_queue_session_query. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_queue_statement_query(
    queue: dqlitepy_handle,
    token: u64,
    statement: dqlitepy_handle,
) -> c_int {
    guard(|| {
        submit(queue, token, || {
            Ok(Work::Query(object::<PreparedStatement>(statement)?.with_values()?))
        })
    })
}

/// Submits what dqlitepy_statement_exec_batch does, with the sets that were kept, which are used up. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_queue_statement_exec_batch(
    queue: dqlitepy_handle,
    token: u64,
    statement: dqlitepy_handle,
) -> c_int {
    guard(|| {
        submit(queue, token, || {
            Ok(Work::Batch(object::<PreparedStatement>(statement)?.with_batch()?))
        })
    })
}

/// Asks for the next rows after DQLITEPY_MORE: with the result DQLITEPY_OK they have come, and stepping goes on. At most one
/// message of them, some 64 KiB or one row, is in memory. Rows that have not been read to their end stay. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_queue_rows_more(queue: dqlitepy_handle, token: u64, rows: dqlitepy_handle) -> c_int {
    guard(|| submit(queue, token, || Ok(Work::LoadRows(object::<ResultRows>(rows)?))))
}

/// Submits what dqlitepy_rows_close does. The handle means nothing from now on, and what was borrowed from the rows must
/// not be used any more. Rows that were read to DQLITEPY_DONE close without blocking by dqlitepy_rows_close too. Since 0.2.0.
#[unsafe(no_mangle)]
pub extern "C" fn dqlitepy_queue_rows_close(queue: dqlitepy_handle, token: u64, rows: dqlitepy_handle) -> c_int {
    guard_always(|| {
        submit(queue, token, || {
            Ok(Work::CloseRows(handle::remove::<ResultRows>(rows)?))
        })
    })
}

/// The text, and if there are values the statement that they are bound to.
///
/// # Safety
/// As for dqlitepy_queue_session_exec_batch.
unsafe fn text_and_values<'a>(
    session: &Arc<SharedSession>,
    sql: *const c_char,
    sql_size: i64,
    values: *const dqlitepy_value,
    columns: u64,
    sets: u64,
) -> Result<(&'a str, Option<BoundStatement>)> {
    // SAFETY: the caller's promise.
    let text = unsafe { args::text_of(sql, sql_size, "sql") }?;
    // SAFETY: the caller's promise.
    let values = unsafe { args::list(values, columns.saturating_mul(sets), "values") }?;
    if values.is_empty() {
        return Ok((text, None));
    }
    // SAFETY: the caller's promise; an index that is no int is more than any statement has.
    let read = |(at, value)| unsafe { args::value(value, c_int::try_from(at).unwrap_or(c_int::MAX - 1) + 1) };
    // Not larger than the list, which lies in memory.
    let sets = values
        .chunks(columns as usize)
        .map(|set| set.iter().enumerate().map(read));
    BoundStatement::of_text(session, text, sets).map(|bound| (text, Some(bound)))
}

/// Writes a result as C has it; what it holds gets handles.
fn write(completion: Completion, place: &mut MaybeUninit<dqlitepy_completion>) {
    let mut c = dqlitepy_completion {
        token: completion.token,
        code: ret::DQLITEPY_OK,
        sqlite_code: 0,
        message: std::ptr::null_mut(),
        handle: 0,
        last_insert_id: 0,
        rows_affected: 0,
        tail: 0,
    };
    if let Err(error) = completion.outcome.and_then(|outcome| fill(&mut c, outcome)) {
        c.code = ret::code(&error);
        c.sqlite_code = error.sqlite_code();
        c.message = alloc::into_c_string(message_of(&error).into_bytes());
    }
    place.write(c);
}

fn fill(c: &mut dqlitepy_completion, outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Done => {}
        Outcome::Changed(changes) => {
            c.last_insert_id = changes.last_insert_id;
            c.rows_affected = changes.rows_affected;
        }
        Outcome::Session(session) => c.handle = handle::insert(session)?,
        Outcome::Prepared(statement, tail) => {
            c.handle = statement.map_or(Ok(0), handle::insert)?;
            c.tail = tail as u64;
        }
        Outcome::Rows(rows) => c.handle = rows_handle(rows)?,
    }
    Ok(())
}
