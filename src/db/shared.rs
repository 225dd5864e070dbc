//! A session as its handle sees it: one transaction of its own, calls of several threads one after the other, an end that
//! wakes whoever waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::{Conn, Connector, WakeSlot};
use crate::db::failed::Failed;
use crate::db::prepared::PreparedStatement;
use crate::db::session::{Changes, Keep, Session};
use crate::db::sql::{Kind as Sql, OwnedStatement, Statement, statements};
use crate::db::stream::{ResultRows, start};
use crate::error::{Error, Kind, Result};
use crate::limits::{self, Timeout};
use crate::metrics::Metrics;

const SQLITE_ERROR: i32 = 1;

/// The kinds of BEGIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Deferred,
    Immediate,
    Exclusive,
}

/// What stands behind a session's handle.
pub(crate) struct SharedSession {
    database: String,
    core: Mutex<Session>,
    metrics: Arc<Metrics>,
    wake: Arc<WakeSlot>,
    timeout: Timeout,
    busy_ms: AtomicU64,
    /// Bytes of rows that one statement may give.
    max_result: AtomicU64,
    /// The connection is lent to rows that are not read to their end; nothing else can run until they are closed.
    streaming: AtomicBool,
    /// What `core` says, for those who cannot wait for it.
    in_transaction: AtomicBool,
    closed: AtomicBool,
    /// Statements that are open; so many are kept prepared.
    statements: AtomicUsize,
    last_error: Mutex<Option<Error>>,
}

impl SharedSession {
    /// Opens (and creates, where it does not exist) the database on the leader.
    pub(crate) fn open(name: &str, connector: Arc<Connector>, wake: Arc<WakeSlot>, timeout: Timeout) -> Result<Self> {
        crate::db::check_name(name)?;
        let mut core = Session::new(connector, name.to_owned(), Arc::clone(&wake));
        core.open(Instant::now() + timeout.get())?;
        Ok(Self {
            database: name.to_owned(),
            metrics: Arc::clone(core.metrics()),
            core: Mutex::new(core),
            wake,
            timeout,
            busy_ms: AtomicU64::new(millis(limits::SESSION_BUSY)),
            max_result: AtomicU64::new(u64::MAX),
            streaming: AtomicBool::new(false),
            in_transaction: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            statements: AtomicUsize::new(0),
            last_error: Mutex::new(None),
        })
    }

    /// Ends the calls under way and the connection; an open transaction is rolled back with it.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake
            .close(Error::new(Kind::Shutdown, "the session was closed during the call"));
        if let Some(mut core) = self.core.try_lock_for(limits::STOP.get()) {
            core.drop_connection("the session was closed");
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Others may have to wait for what it does next: it is inside a transaction, or its rows are being read.
    pub(crate) fn is_engaged(&self) -> bool {
        self.in_transaction.load(Ordering::Acquire) || self.streaming.load(Ordering::Acquire)
    }

    /// Ends the call under way, and rows that are being read; without them nothing happens.
    pub(crate) fn interrupt(&self) -> Result<()> {
        self.check_open()?;
        self.wake.interrupt();
        Ok(())
    }

    /// How long each later call may take; 0: as the process's.
    pub(crate) fn set_timeout(&self, ms: u32) -> Result<()> {
        self.check_open()?;
        self.timeout.set(ms);
        Ok(())
    }

    /// How long each later call waits for other sessions' transactions; zero: not at all.
    pub(crate) fn set_busy_timeout(&self, busy: Duration) -> Result<()> {
        self.check_open()?;
        self.busy_ms.store(millis(busy), Ordering::Relaxed);
        Ok(())
    }

    /// How many bytes of rows each later statement may give; zero: any number.
    pub(crate) fn set_max_result(&self, bytes: u64) -> Result<()> {
        self.check_open()?;
        let bytes = if bytes == 0 { u64::MAX } else { bytes };
        self.max_result.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn max_result(&self) -> u64 {
        self.max_result.load(Ordering::Relaxed)
    }

    /// Inside a transaction, or in one that is lost and waits for its ROLLBACK.
    pub(crate) fn in_transaction(&self) -> Result<bool> {
        self.check_open()?;
        Ok(self.in_transaction.load(Ordering::Acquire))
    }

    pub(crate) fn leader(&self) -> Result<String> {
        self.call(|core, deadline| core.leader(deadline))
    }

    /// Runs all statements of `sql` and reports what the last one of them that changes rows changed.
    pub(crate) fn exec(&self, sql: &str) -> Result<Changes> {
        self.call(|core, deadline| {
            let mut changes = Changes::default();
            for statement in statements(sql) {
                let done = core.exec(&statement, deadline)?;
                if matches!(statement.kind, Sql::Insert | Sql::Change) {
                    changes = done;
                }
            }
            Ok(changes)
        })
    }

    /// Runs the one statement in `sql` for its rows.
    pub(crate) fn query(self: &Arc<Self>, sql: &str) -> Result<ResultRows> {
        let mut all = statements(sql);
        let Some(statement) = all.next() else {
            return Ok(ResultRows::empty(Arc::clone(self)));
        };
        if all.next().is_some() {
            return Err(Error::sql(
                SQLITE_ERROR,
                "a query is one statement, and this text holds more: use prepare with the offset of the rest for scripts",
            ));
        }
        start(self, Arc::new(OwnedStatement::new(&statement)?), &[], Keep::No)
    }

    /// Prepares the first statement of `sql`; None if it holds none. The number of bytes says where the next one begins.
    pub(crate) fn prepare(self: &Arc<Self>, sql: &str) -> Result<(Option<PreparedStatement>, usize)> {
        let Some(statement) = statements(sql).next() else {
            self.check_open()?;
            return Ok((None, sql.len()));
        };
        let parameters = self.call(|core, deadline| core.prepare(&statement, deadline))?;
        let end = statement.text.as_ptr() as usize - sql.as_ptr() as usize + statement.text.len();
        let rest = &sql[end..];
        let blanks = rest.len() - rest.trim_start().len();
        let tail = if rest.trim_start().starts_with(';') {
            end + blanks + 1
        } else {
            end
        };
        // Comments and blanks at the end are not worth another round.
        let tail = if statements(&sql[tail..]).next().is_none() {
            sql.len()
        } else {
            tail
        };
        Ok((Some(PreparedStatement::new(self, &statement, parameters)?), tail))
    }

    pub(crate) fn begin(&self, mode: Mode) -> Result<()> {
        self.run(match mode {
            Mode::Deferred => "BEGIN DEFERRED",
            Mode::Immediate => "BEGIN IMMEDIATE",
            Mode::Exclusive => "BEGIN EXCLUSIVE",
        })
    }

    pub(crate) fn commit(&self) -> Result<()> {
        self.run("COMMIT")
    }

    pub(crate) fn rollback(&self) -> Result<()> {
        self.run("ROLLBACK")
    }

    pub(crate) fn savepoint(&self, name: &str) -> Result<()> {
        self.run(&format!("SAVEPOINT {}", quoted(name)))
    }

    pub(crate) fn release(&self, name: &str) -> Result<()> {
        self.run(&format!("RELEASE {}", quoted(name)))
    }

    pub(crate) fn rollback_to(&self, name: &str) -> Result<()> {
        self.run(&format!("ROLLBACK TO {}", quoted(name)))
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.exec(sql).map(|_| ())
    }

    /// Remembers why a call failed.
    pub(crate) fn note(&self, error: &Error) {
        *self.last_error.lock() = Some(error.clone());
    }

    pub(crate) fn last_error(&self) -> Option<Error> {
        self.last_error.lock().clone()
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout.get()
    }

    pub(super) fn statement_opened(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn statement_closed(&self) {
        self.statements.fetch_sub(1, Ordering::Relaxed);
    }

    /// The frame around every call that needs the connection.
    pub(super) fn call<T>(&self, body: impl FnOnce(&mut Session, Instant) -> Result<T>) -> Result<T> {
        self.check_free()?;
        let deadline = self.deadline();
        let Some(mut core) = self.core.try_lock_until(deadline) else {
            return Err(Error::new(
                Kind::Timeout,
                format!(
                    "other threads kept the session on {:?} busy until the deadline",
                    self.database
                ),
            ));
        };
        self.check_free()?;
        self.wake.enter()?;
        core.set_busy(Duration::from_millis(self.busy_ms.load(Ordering::Relaxed)));
        core.set_most(self.max_result());
        core.set_cached(limits::CACHED_STATEMENTS + self.statements.load(Ordering::Relaxed));
        let done = body(&mut core, deadline);
        self.leave(&mut core);
        done
    }

    /// Rows begin: `start` gives the connection if there are more than the first ones.
    pub(super) fn lend(
        &self,
        start: impl FnOnce(&mut Session, Instant) -> Result<Option<Conn>>,
    ) -> Result<Option<Conn>> {
        self.call(|core, deadline| {
            let conn = start(core, deadline)?;
            self.streaming.store(conn.is_some(), Ordering::Release);
            Ok(conn)
        })
    }

    /// The rows that had the connection came to their end.
    pub(super) fn rows_ended(&self, conn: Conn) {
        self.take_back(|core| core.give_back(conn));
    }

    /// The rows that had the connection failed, or nobody wants the rest of them.
    pub(super) fn rows_failed(&self, conn: Conn, statement: &Statement<'_>, failed: Failed) -> Error {
        let deadline = self.deadline();
        self.take_back(|core| {
            core.give_back(conn);
            core.rows_failed(statement, failed, deadline)
        })
    }

    /// Rows that only read were closed in the middle, and their rest is not worth reading.
    pub(super) fn rows_dropped(&self, conn: Conn) {
        self.take_back(|core| {
            drop(conn);
            core.drop_connection("its rows were closed in the middle");
        });
    }

    fn take_back<T>(&self, body: impl FnOnce(&mut Session) -> T) -> T {
        // Nobody has it for long: who comes now is sent away, because of `streaming`.
        let mut core = self.core.lock();
        let done = body(&mut core);
        self.streaming.store(false, Ordering::Release);
        self.leave(&mut core);
        done
    }

    /// The connection may be given up without a loss.
    pub(super) fn may_drop(&self) -> bool {
        !self.in_transaction.load(Ordering::Acquire) && !self.core.lock().is_tainted()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn wake(&self) -> &WakeSlot {
        &self.wake
    }

    fn leave(&self, core: &mut Session) {
        if self.streaming.load(Ordering::Acquire) {
            self.in_transaction.store(core.in_transaction(), Ordering::Release);
            return;
        }
        if self.wake.leave() {
            // The call may not have noticed; its connection is ended all the same.
            core.drop_connection("the call was interrupted by another thread");
        }
        if self.closed.load(Ordering::Acquire) {
            core.drop_connection("the session was closed");
        }
        self.in_transaction.store(core.in_transaction(), Ordering::Release);
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::misuse("the session is closed"));
        }
        Ok(())
    }

    fn check_free(&self) -> Result<()> {
        self.check_open()?;
        if self.streaming.load(Ordering::Acquire) {
            return Err(Error::misuse(format!(
                "the session on {:?} is still sending rows: read them to their end or close them first, or use another \
                 session",
                self.database
            )));
        }
        Ok(())
    }
}

impl Drop for SharedSession {
    fn drop(&mut self) {
        // A statement or rows may have kept it until now.
        self.close();
    }
}

/// A name as SQL writes it, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "shared_tests.rs"]
pub(super) mod tests;
