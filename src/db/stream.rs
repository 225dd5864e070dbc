//! Rows as their handle sees them. Until the last part has come they hold the session's connection.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::client::Conn;
use crate::db::attempt::receive_part;
use crate::db::failed::{self, Failed, may_change};
use crate::db::part::Part;
use crate::db::session::Keep;
use crate::db::shared::SharedSession;
use crate::db::sql::OwnedStatement;
use crate::db::value::TOO_BIG;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::metrics::Count;
use crate::wire::{Malformed, Params, Value};

/// Takes the values of many rows: the row's number in this call, the column, the value.
pub(crate) type TakeValue<'a> = &'a mut dyn FnMut(usize, usize, Value<'_>);

/// Where a step led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Row,
    /// Behind the last row.
    Done,
    /// Behind the rows that are here; more come, and these rows are not waited for by their reader but loaded.
    Later,
}

/// What stands behind the handle of rows.
pub(crate) struct ResultRows {
    session: Arc<SharedSession>,
    /// Held through a step, so that two threads on the same rows are noticed.
    stream: Mutex<Stream>,
    closing: AtomicBool,
    /// Its reader never waits: further parts are asked for with `load`.
    loaded: AtomicBool,
}

struct Stream {
    sql: Option<Arc<OwnedStatement>>,
    part: Part,
    /// The connection, as long as more parts follow.
    conn: Option<Conn>,
    failed: Option<Error>,
    /// Bytes of all parts that have come.
    size: u64,
    /// Nobody looks at what still comes.
    closing: bool,
    /// Rows that were handed out and are not counted yet.
    read: u64,
}

/// Runs a statement up to its first rows.
pub(super) fn start(
    session: &Arc<SharedSession>,
    sql: Arc<OwnedStatement>,
    values: &[Value<'_>],
    keep: Keep,
) -> Result<ResultRows> {
    let mut part = Part::empty();
    let conn = session.lend(|core, deadline| core.start(&sql.get(), Params::new(values), keep, &mut part, deadline))?;
    Ok(ResultRows {
        session: Arc::clone(session),
        stream: Mutex::new(Stream {
            sql: Some(sql),
            size: part.size() as u64,
            part,
            conn,
            failed: None,
            closing: false,
            read: 0,
        }),
        closing: AtomicBool::new(false),
        loaded: AtomicBool::new(false),
    })
}

impl ResultRows {
    /// The rows of a text without any statement.
    pub(super) fn empty(session: Arc<SharedSession>) -> Self {
        Self {
            session,
            stream: Mutex::new(Stream {
                sql: None,
                part: Part::empty(),
                conn: None,
                failed: None,
                size: 0,
                closing: false,
                read: 0,
            }),
            closing: AtomicBool::new(false),
            loaded: AtomicBool::new(false),
        }
    }

    pub(crate) fn session(&self) -> &Arc<SharedSession> {
        &self.session
    }

    /// From now on reading never waits.
    pub(crate) fn never_wait(&self) {
        self.loaded.store(true, Ordering::Relaxed);
    }

    /// Waits for the next part, if the rows that are here have been read.
    pub(crate) fn load(&self) -> Result<()> {
        let mut stream = self.lock()?;
        if stream.part.is_finished() && stream.conn.is_some() {
            self.session.wake().go_on()?;
            stream.advance(&self.session, self.session.deadline())?;
        }
        Ok(())
    }

    /// Goes to the next row.
    pub(crate) fn step(&self) -> Result<Next> {
        let mut stream = self.lock()?;
        loop {
            let found = stream.part.next_row();
            if stream.intact(&self.session, found)? {
                stream.read += 1;
                return Ok(Next::Row);
            }
            if let Some(end) = self.follow(&mut stream)? {
                return Ok(end);
            }
        }
    }

    /// Behind the rows that are here: None once further ones have come.
    fn follow(&self, stream: &mut Stream) -> Result<Option<Next>> {
        if stream.conn.is_some() && self.loaded.load(Ordering::Relaxed) {
            return Ok(Some(Next::Later));
        }
        let more = stream.advance(&self.session, self.session.deadline())?;
        Ok((!more).then_some(Next::Done))
    }

    /// Hands up to `most` rows to `take`, as many of them as are here without waiting, but one if there is one. What a
    /// value points to stays until the next call.
    pub(crate) fn fetch(&self, most: usize, take: TakeValue<'_>) -> Result<(usize, Next)> {
        let mut stream = self.lock()?;
        loop {
            let found = stream.part.take_rows(most, take);
            let rows = stream.intact(&self.session, found)?;
            stream.read += rows as u64;
            if rows > 0 {
                return Ok((rows, Next::Row));
            }
            if most == 0 {
                return Ok((0, Next::Done));
            }
            if let Some(end) = self.follow(&mut stream)? {
                return Ok((0, end));
            }
        }
    }

    /// Looks at the names of the columns and the row that `step` went to.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Part) -> Result<T>) -> Result<T> {
        look(&self.lock()?.part)
    }

    /// The place of column `index`, from 0 on.
    pub(crate) fn column(part: &Part, index: i64) -> Result<usize> {
        let columns = part.names().len();
        usize::try_from(index).ok().filter(|at| *at < columns).ok_or_else(|| {
            Error::invalid(format!(
                "the rows have no column {index}: they have {columns}, and the first one is 0"
            ))
        })
    }

    /// The name of a column as C has it; stays as long as the rows.
    pub(crate) fn name(part: &Part, index: i64) -> Result<&CString> {
        let at = Self::column(part, index)?;
        part.names()
            .get(at)
            .ok_or_else(|| Error::internal("a column without a name"))
    }

    /// A value of the row that `step` went to.
    pub(crate) fn value(part: &Part, index: i64) -> Result<Value<'_>> {
        let at = Self::column(part, index)?;
        part.value(at).ok_or_else(|| {
            Error::misuse("there is no row: call dqlitepy_rows_step first, until it says that it is done")
        })
    }

    /// Ends the rows, in the middle if need be. A write is carried through, a read is given up if its rest is long.
    pub(crate) fn close(&self) -> Result<()> {
        self.closing.store(true, Ordering::Release);
        if let Some(mut stream) = self.stream.try_lock() {
            return stream.close(&self.session);
        }
        // Another thread waits for a row.
        self.session.wake().interrupt();
        let mut stream = self.stream.lock();
        stream.close(&self.session)?;
        match &stream.failed {
            // That thread was told; who closes a write without an error takes it for made.
            Some(error) if matches!(error.kind(), Kind::Unknown | Kind::TransactionLost) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Stream>> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::misuse("the rows are closed"));
        }
        self.stream
            .try_lock()
            .ok_or_else(|| Error::misuse("another thread is reading these rows: they have one reader at a time"))
    }
}

impl Drop for ResultRows {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.stream.get_mut().close(&self.session);
    }
}

impl Stream {
    /// Receives the next part; false if there is none.
    fn advance(&mut self, session: &SharedSession, deadline: Instant) -> Result<bool> {
        self.count(session);
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (Some(mut conn), Some(sql)) = (self.conn.take(), &self.sql) else {
            return Ok(false);
        };
        match receive_part(&mut conn, None, &sql.get(), &mut self.part, deadline) {
            Ok(()) if self.part.is_last() => session.rows_ended(conn),
            Ok(()) => self.conn = Some(conn),
            Err(failed) => return Err(self.fail(session, conn, failed)),
        }
        self.size += self.part.size() as u64;
        if self.size > session.max_result() && !self.closing {
            return Err(self.refuse(session));
        }
        Ok(true)
    }

    /// The result is larger than the caller wants. The session goes on, and its transaction where there is time to read
    /// the rest.
    fn refuse(&mut self, session: &SharedSession) -> Error {
        let error = self.close(session).err().unwrap_or_else(|| {
            let most = session.max_result();
            Error::sql(
                TOO_BIG,
                format!("the result has more than {most} bytes, the limit of this session"),
            )
        });
        self.part = Part::empty();
        self.failed = Some(error.clone());
        error
    }

    /// Rows that cannot be read end everything: the connection may be out of step.
    fn intact<T>(&mut self, session: &SharedSession, read: std::result::Result<T, Malformed>) -> Result<T> {
        read.map_err(|fault| {
            let mut error = Error::internal(format!("the rows make no sense: {fault}"));
            if let Some(sql) = &self.sql {
                error = failed::unread(&sql.get(), error);
            }
            self.part = Part::empty();
            match self.conn.take() {
                Some(conn) => self.fail(session, conn, Failed::Ended(error)),
                None => error,
            }
        })
    }

    fn fail(&mut self, session: &SharedSession, conn: Conn, failed: Failed) -> Error {
        let error = match &self.sql {
            Some(sql) => session.rows_failed(conn, &sql.get(), failed),
            None => Error::internal("rows without a statement"),
        };
        self.part = Part::empty();
        self.failed = Some(error.clone());
        error
    }

    /// Now and then, because a row costs less than its count.
    fn count(&mut self, session: &SharedSession) {
        session.metrics().add(Count::RowsRead, std::mem::take(&mut self.read));
    }

    fn close(&mut self, session: &SharedSession) -> Result<()> {
        self.count(session);
        let Some(sql) = self.sql.clone() else {
            return Ok(());
        };
        if self.conn.is_none() {
            return Ok(());
        }
        self.closing = true;
        // Whatever else the connection holds would be lost with it.
        let keep = may_change(&sql.get()) || !session.may_drop();
        let deadline = session.deadline();
        let patience = deadline.min(Instant::now() + limits::DRAIN_TIME);
        let mut read = 0;
        while (keep && Instant::now() < deadline) || (read < limits::DRAIN_BYTES && Instant::now() < patience) {
            if !self.advance(session, deadline)? {
                return Ok(());
            }
            read += self.part.size();
        }
        if keep && let Some(conn) = self.conn.take() {
            let late = failed::overdue(&sql.get(), "the rest of the rows did not come before the deadline");
            return Err(self.fail(session, conn, late));
        }
        if let Some(conn) = self.conn.take() {
            session.rows_dropped(conn);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
