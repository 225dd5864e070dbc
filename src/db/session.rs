//! One connection to the leader with one database open: statements in, numbers and rows out.
//!
//! What may be sent twice is decided here and nowhere else. Once a byte of a request was written it is not sent again,
//! except that the answers 10250, 12 and 5 to a single statement outside a transaction prove that it did not run.
//! [client-behaviour 3.5]

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Broken, Conn, Connector, WakeSlot};
use crate::db::cache::Cache;
use crate::db::failed::{self, Failed, code, failure};
use crate::db::part::Part;
use crate::db::patience::Patience;
use crate::db::sql::{Kind as Sql, Statement, statements};
use crate::db::transaction::Transaction;
use crate::db::value::check_text;
use crate::error::{Error, Kind, Result};
use crate::metrics::{Call, Count, Metrics};
use crate::wire::{Params, Request, Response, Rows, Value};

/// Between being told "not leader" by the leader and asking again: a transfer of leadership is under way.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// What SQLite says of BEGIN inside a transaction.
const INSIDE: &[u8] = b"cannot start a transaction within a transaction";

/// What a statement changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) last_insert_id: i64,
    pub(crate) rows_affected: i64,
}

/// Takes the parts of a result as they come.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&mut Rows<'_>) -> Result<()>;

/// The parameter sets of a batch, one after the other.
pub(super) type Sets<'a, 'b> = &'a mut dyn Iterator<Item = Vec<Value<'b>>>;

/// What an attempt to run a statement gives.
pub(super) type Attempt<T> = std::result::Result<T, Failed>;

pub(crate) struct Session {
    connector: Arc<Connector>,
    database: String,
    pub(super) conn: Option<Conn>,
    /// Where the connection leads to.
    address: String,
    /// What is prepared on the connection.
    pub(super) cache: Cache,
    /// Whether the server heeds conditions; None until it was asked.
    pub(super) conditional: Option<bool>,
    /// The connection has what a new one would not: temporary objects, settings.
    tainted: bool,
    transaction: Transaction,
    wake: Arc<WakeSlot>,
    /// How long a statement waits for another session's transaction.
    busy: Duration,
    /// Bytes of rows that one statement may give.
    most: u64,
}

/// Whether a query is worth preparing for the next time, or a text that comes once.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Keep {
    No,
    Yes,
}

impl Session {
    pub(crate) fn new(connector: Arc<Connector>, database: String, wake: Arc<WakeSlot>) -> Self {
        Self {
            connector,
            database,
            conn: None,
            address: String::new(),
            cache: Cache::default(),
            conditional: None,
            tainted: false,
            transaction: Transaction::None,
            wake,
            busy: Duration::ZERO,
            most: u64::MAX,
        }
    }

    /// A session on the same database with a connection of its own, which ends with this one's calls.
    pub(super) fn sibling(&self) -> Self {
        let mut sibling = Self::new(
            Arc::clone(&self.connector),
            self.database.clone(),
            Arc::clone(&self.wake),
        );
        sibling.busy = self.busy;
        sibling
    }

    pub(super) fn wake(&self) -> &WakeSlot {
        &self.wake
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// How long a statement outside a transaction is sent again while others keep the database locked.
    pub(super) fn set_busy(&mut self, busy: Duration) {
        self.busy = busy;
    }

    /// How many bytes of rows a statement may give.
    pub(super) fn set_most(&mut self, bytes: u64) {
        self.most = bytes;
    }

    /// How many prepared statements are kept.
    pub(super) fn set_cached(&mut self, statements: usize) {
        self.cache.set_limit(statements);
    }

    pub(super) fn is_tainted(&self) -> bool {
        self.tainted
    }

    pub(crate) fn in_transaction(&self) -> bool {
        self.transaction != Transaction::None
    }

    /// In one that is not lost.
    pub(super) fn is_inside(&self) -> bool {
        self.transaction.is_open()
    }

    /// Connects now rather than at the first statement.
    pub(crate) fn open(&mut self, deadline: Instant) -> Result<()> {
        self.counted(Call::Prepare, |session| session.connect(deadline))
    }

    /// Where the leader is that the session is connected to; connects if it is not.
    pub(super) fn leader(&mut self, deadline: Instant) -> Result<String> {
        self.connect(deadline)?;
        Ok(self.address.clone())
    }

    /// Runs a statement for its changes; rows that it yields are dropped.
    pub(crate) fn exec(&mut self, statement: &Statement<'_>, deadline: Instant) -> Result<Changes> {
        self.run(statement, deadline, |session| {
            if statement.rows {
                session.exec_prepared(statement, Params::NONE, deadline)
            } else {
                session.exec_sql(statement, deadline)
            }
        })
    }

    /// The same with parameters, for a statement that is kept.
    pub(super) fn exec_with(
        &mut self,
        statement: &Statement<'_>,
        params: Params<'_>,
        deadline: Instant,
    ) -> Result<Changes> {
        if statement.controls_transaction() {
            return self.exec(statement, deadline);
        }
        self.run(statement, deadline, |session| {
            session.check_count(statement, params, deadline)?;
            session.exec_prepared(statement, params, deadline)
        })
    }

    /// Runs a statement for its rows.
    pub(crate) fn query(&mut self, statement: &Statement<'_>, sink: Sink<'_>, deadline: Instant) -> Result<()> {
        let taken = Cell::new(false);
        let mut sink = |rows: &mut Rows<'_>| {
            taken.set(true);
            sink(rows)
        };
        self.run(statement, deadline, |session| {
            let fetched = match statement.kind {
                Sql::Read => match session.fetch_direct(statement, &mut sink, deadline) {
                    // It is one statement, so the text hides another reason; the prepared way tells.
                    Err(Failed::Misreported) if !taken.get() => session.fetch_prepared(statement, &mut sink, deadline),
                    fetched => fetched,
                },
                _ if statement.rows => session.fetch_prepared(statement, &mut sink, deadline),
                _ => session.exec_sql(statement, deadline).map(|_| ()),
            };
            fetched.map_err(|failed| match taken.get() {
                true => failed::behind_rows(statement, failed),
                false => failed,
            })
        })
    }

    /// Runs a statement up to the first part of its rows. If more follow, the connection is lent out for them.
    pub(super) fn start(
        &mut self,
        statement: &Statement<'_>,
        params: Params<'_>,
        keep: Keep,
        part: &mut Part,
        deadline: Instant,
    ) -> Result<Option<Conn>> {
        *part = Part::empty();
        let started = self.run(statement, deadline, |session| {
            if keep == Keep::Yes && !statement.controls_transaction() {
                session.check_count(statement, params, deadline)?;
            }
            let most = session.most;
            session.conn()?.take_at_most(most);
            session.first_part(statement, params, keep, part, deadline)
        });
        if started.is_ok() && !part.is_last() {
            return Ok(self.conn.take());
        }
        // Other statements have no such limit, whatever became of this one.
        self.conn.iter_mut().for_each(|conn| conn.take_at_most(u64::MAX));
        started.map(|()| None)
    }

    /// Takes back a connection that was lent out: its rows ended, or failed.
    pub(super) fn give_back(&mut self, mut conn: Conn) {
        conn.take_at_most(u64::MAX);
        self.conn = Some(conn);
    }

    /// The rows of a statement failed after the first part.
    pub(super) fn rows_failed(&mut self, statement: &Statement<'_>, failed: Failed, deadline: Instant) -> Error {
        let error = self.settle(statement, failed::behind_rows(statement, failed), deadline);
        self.metrics().error(&error);
        error
    }

    /// How many parameters a statement has; it is prepared for its first run.
    pub(super) fn prepare(&mut self, statement: &Statement<'_>, deadline: Instant) -> Result<u64> {
        if statement.controls_transaction() {
            return Ok(0);
        }
        // To prepare is to read: it changes nothing, whatever the statement is.
        self.counted(Call::Prepare, |session| {
            session.attempts(&statement.as_read(), deadline, |session| {
                Ok(session.prepared(statement, deadline)?.parameters)
            })
        })
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        self.connector.metrics()
    }

    fn counted<T>(&mut self, call: Call, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let done = body(self);
        self.metrics().call(call, began.elapsed(), done.as_ref().err());
        done
    }

    pub(super) fn run<T: Default>(
        &mut self,
        statement: &Statement<'_>,
        deadline: Instant,
        attempt: impl FnMut(&mut Self) -> Attempt<T>,
    ) -> Result<T> {
        self.counted(about(statement), |session| {
            session.attempts(statement, deadline, attempt)
        })
    }

    /// The frame around every statement: connection, retry, transaction.
    pub(super) fn attempts<T: Default>(
        &mut self,
        statement: &Statement<'_>,
        deadline: Instant,
        mut attempt: impl FnMut(&mut Self) -> Attempt<T>,
    ) -> Result<T> {
        if let Transaction::Lost { reason } = &self.transaction {
            if statement.kind == Sql::Rollback {
                self.transaction = Transaction::None;
                return Ok(T::default());
            }
            return Err(Error::new(
                Kind::TransactionLost,
                format!("the transaction is gone ({reason}); nothing of it was kept. Call ROLLBACK, then begin again"),
            ));
        }
        check_text(statement.text)?;
        let mut patience = Patience::new(self.busy, deadline);
        loop {
            self.connect(deadline)?;
            let failed = match attempt(self) {
                Ok(done) => {
                    self.transaction.advance(&statement.kind);
                    self.tainted |= statement.taints_session();
                    return Ok(done);
                }
                Err(failed) => failed,
            };
            let pause = match &failed {
                // What was before it in the transaction would not be repeated.
                _ if self.transaction.is_open() => None,
                Failed::NotRun(_) => {
                    self.disconnect();
                    (Instant::now() + RETRY_PAUSE < deadline).then_some(RETRY_PAUSE)
                }
                Failed::Refused(error) if error.sqlite_code() == code::BUSY as i32 => patience.next(),
                _ => None,
            };
            match pause {
                Some(pause) => {
                    self.metrics().add(Count::Retries, 1);
                    self.wake.pause(pause)?;
                }
                None => return Err(self.settle(statement, failed, deadline)),
            }
        }
    }

    /// What a failed attempt means for the connection, the transaction and the caller.
    fn settle(&mut self, statement: &Statement<'_>, failed: Failed, deadline: Instant) -> Error {
        let error = match failed {
            Failed::Refused(error) => {
                if self.transaction.is_open() && failed::may_end_transaction(&error) {
                    self.ask_transaction(deadline);
                }
                return error;
            }
            Failed::Misreported => return failed::misreported(),
            Failed::NotRun(error) => {
                self.disconnect();
                if self.transaction.is_open() {
                    return self.lose(&error);
                }
                return Error::new(Kind::NoLeader, error.message());
            }
            Failed::Ended(error) => error,
            Failed::Woken { unknown } => self.woken(unknown),
        };
        self.disconnect();
        // Of the statements in a transaction only its end can have taken effect.
        let ends = matches!(statement.kind, Sql::Commit | Sql::Release(_));
        if !self.transaction.is_open() || ends || error.kind() == Kind::Shutdown {
            self.transaction.lose(error.message());
            return error;
        }
        self.lose(&error)
    }

    /// Another thread closed the session, or interrupted the call; or the node is lost.
    fn woken(&self, unknown: bool) -> Error {
        let outcome = if unknown {
            "it is not known whether the statement was applied"
        } else {
            "nothing was changed"
        };
        let (kind, why) = match self.wake.check() {
            Err(why) if why.kind() != Kind::Shutdown && unknown => (Kind::Unknown, why.message().to_owned()),
            Err(why) => (why.kind(), why.message().to_owned()),
            Ok(()) => (Kind::Shutdown, "the call was ended by another thread".to_owned()),
        };
        Error::new(kind, format!("{why}; {outcome}"))
    }

    /// Ends the connection; a transaction that was open on it is lost.
    pub(super) fn drop_connection(&mut self, reason: &str) {
        self.disconnect();
        self.transaction.lose(reason);
    }

    /// Whatever is left of a transaction that nobody else knows is gone afterwards, also what the session remembers of it.
    pub(super) fn take_back(&mut self, deadline: Instant) {
        let rollback = statements("ROLLBACK").next();
        if self.in_transaction() && rollback.is_none_or(|rollback| self.exec(&rollback, deadline).is_err()) {
            self.disconnect();
            self.transaction = Transaction::None;
        }
    }

    /// What was prepared on the connection means nothing without it.
    fn disconnect(&mut self) {
        self.conn = None;
        self.cache.clear();
        self.conditional = None;
    }

    fn lose(&mut self, error: &Error) -> Error {
        self.transaction.lose(error.message());
        Error::new(
            Kind::TransactionLost,
            format!(
                "{}; the transaction is gone and nothing of it was kept. Call ROLLBACK, then begin again",
                error.message()
            ),
        )
    }

    /// Whether the transaction still is after something that may have ended it. The protocol has no word for it, so BEGIN
    /// is asked: it fails inside a transaction, and outside it is taken back. A transaction of which this cannot be told is
    /// lost: what follows would perhaps be committed alone.
    pub(super) fn ask_transaction(&mut self, deadline: Instant) {
        match self.is_outside(deadline) {
            Ok(true) => self.transaction = Transaction::None,
            Ok(false) => {}
            Err(reason) => self.drop_connection(&reason),
        }
    }

    fn is_outside(&mut self, deadline: Instant) -> std::result::Result<bool, String> {
        let Some(conn) = &mut self.conn else { return Ok(false) };
        for sql in [&b"BEGIN"[..], b"ROLLBACK"] {
            let (db, params) = (0, Params::NONE);
            match conn.call(&Request::ExecSql { db, sql, params }, deadline) {
                Ok(Response::Result { .. }) => {}
                Ok(Response::Failure { message: INSIDE, .. }) => return Ok(false),
                Ok(_) => return Err("it cannot be told whether a transaction is open".to_owned()),
                Err(broken) => return Err(broken.reason),
            }
        }
        Ok(true)
    }

    fn connect(&mut self, deadline: Instant) -> Result<()> {
        if self.conn.is_some() {
            return Ok(());
        }
        if std::mem::take(&mut self.tainted) {
            return Err(Error::new(
                Kind::SettingsLost,
                "the connection was lost, and with it the temporary tables, attached databases and settings (PRAGMA) that \
                 were made on it; nothing was changed. Make them again: the next call runs without them",
            ));
        }
        loop {
            self.wake.check()?;
            let (mut conn, address) = self.connector.leader_for(&self.wake, deadline)?;
            self.wake.watch(Box::new(conn.waker()))?;
            conn.ends_with_lead_of(&address, &Arc::new(self.connector.for_call(&self.wake)));
            let request = Request::Open {
                name: self.database.as_bytes(),
                flags: 0,
                vfs: b"volatile",
            };
            let opened = conn.call(&request, deadline).map_err(Broken::into_error);
            // Why the connection was ended says more than that it was.
            self.wake.check()?;
            match opened? {
                Response::Db { .. } => {
                    self.conn = Some(conn);
                    self.address = address;
                    return Ok(());
                }
                Response::Failure {
                    code: code::NOT_LEADER, ..
                } if Instant::now() + RETRY_PAUSE < deadline => {
                    self.wake.pause(RETRY_PAUSE)?;
                }
                Response::Failure { code, message } => {
                    let message = String::from_utf8_lossy(message);
                    return Err(
                        failure(code, &message).at(format!("opening the database {:?} at {address}", self.database))
                    );
                }
                other => return Err(Error::internal(format!("OPEN was answered with {}", other.name()))),
            }
        }
    }

    pub(super) fn conn(&mut self) -> Attempt<&mut Conn> {
        self.conn
            .as_mut()
            .ok_or_else(|| Failed::NotRun(Error::internal("not connected")))
    }
}

/// What a statement is about, as it is counted.
fn about(statement: &Statement<'_>) -> Call {
    match statement.kind {
        _ if statement.controls_transaction() => Call::Transaction,
        Sql::Read => Call::Read,
        _ => Call::Write,
    }
}
