//! One connection to the leader with one database open: statements in, numbers and rows out.
//!
//! What may be sent twice is decided here and nowhere else. Once a byte of a request was written it is not sent again,
//! except that the answers 10250, 12 and 5 to a single statement outside a transaction prove that it did not run.
//! [client-behaviour 3.5]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Broken, Conn, Connector};
use crate::db::cache::{Cache, Prepared};
use crate::db::failed::{self, Failed, code, ended, failure, not_run, refused, senseless};
use crate::db::part::Part;
use crate::db::patience::Patience;
use crate::db::sql::{Kind as Sql, Statement};
use crate::db::transaction::Transaction;
use crate::db::wake::WakeSlot;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::wire::{End, Params, Request, Response, Rows, Value};

/// Between being told "not leader" by the leader and asking again: a transfer of leadership is under way.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

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
type Attempt<T> = std::result::Result<T, Failed>;

pub(crate) struct Session {
    connector: Arc<Connector>,
    database: String,
    conn: Option<Conn>,
    /// Where the connection leads to.
    address: String,
    /// What is prepared on the connection.
    cache: Cache,
    /// The connection has what a new one would not: temporary objects, settings.
    tainted: bool,
    transaction: Transaction,
    wake: Arc<WakeSlot>,
    /// How long a statement waits for another session's transaction.
    busy: Duration,
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
            tainted: false,
            transaction: Transaction::None,
            wake,
            busy: Duration::ZERO,
        }
    }

    /// How long a statement outside a transaction is sent again while others keep the database locked.
    pub(super) fn set_busy(&mut self, busy: Duration) {
        self.busy = busy;
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

    /// Connects now rather than at the first statement.
    pub(crate) fn open(&mut self, deadline: Instant) -> Result<()> {
        self.connect(deadline)
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
            session.exec_prepared(statement, params, deadline)
        })
    }

    /// Runs a statement once for each set of parameters, inside a transaction that the caller has opened and takes back
    /// after an error. The sum of the rows affected.
    pub(super) fn exec_many(
        &mut self,
        statement: &Statement<'_>,
        sets: Sets<'_, '_>,
        deadline: Instant,
    ) -> Result<i64> {
        self.run(statement, deadline, |session| {
            if statement.rows {
                session.one_by_one(statement, sets, deadline)
            } else {
                session.pipeline(statement, sets, deadline)
            }
        })
    }

    /// Runs a statement for its rows.
    pub(crate) fn query(&mut self, statement: &Statement<'_>, sink: Sink<'_>, deadline: Instant) -> Result<()> {
        self.run(statement, deadline, |session| match statement.kind {
            Sql::Read => session.fetch_direct(statement, sink, deadline),
            _ if statement.rows => session.fetch_prepared(statement, sink, deadline),
            _ => session.exec_sql(statement, deadline).map(|_| ()),
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
        self.run(statement, deadline, |session| {
            session.first_part(statement, params, keep, part, deadline)
        })?;
        Ok(if part.is_last() { None } else { self.conn.take() })
    }

    /// Takes back a connection that was lent out: its rows ended, or failed.
    pub(super) fn give_back(&mut self, conn: Conn) {
        self.conn = Some(conn);
    }

    /// The rows of a statement failed after the first part.
    pub(super) fn rows_failed(&mut self, statement: &Statement<'_>, failed: Failed, deadline: Instant) -> Error {
        let failed = match failed {
            // Its first step was done.
            Failed::NotRun(error) => failed::undecided(statement, error.message()),
            failed => failed,
        };
        self.settle(statement, failed, deadline)
    }

    /// How many parameters a statement has; it is prepared for its first run.
    pub(super) fn prepare(&mut self, statement: &Statement<'_>, deadline: Instant) -> Result<u64> {
        if statement.controls_transaction() {
            return Ok(0);
        }
        // To prepare is to read: it changes nothing, whatever the statement is.
        self.run(&statement.as_read(), deadline, |session| {
            Ok(session.prepared(statement, deadline)?.parameters)
        })
    }

    /// The frame around every statement: connection, retry, transaction.
    fn run<T: Default>(
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
                Some(pause) => self.wake.pause(pause)?,
                None => return Err(self.settle(statement, failed, deadline)),
            }
        }
    }

    /// What a failed attempt means for the connection, the transaction and the caller.
    fn settle(&mut self, statement: &Statement<'_>, failed: Failed, deadline: Instant) -> Error {
        let error = match failed {
            Failed::Refused(error) => {
                self.check_transaction(&error, deadline);
                return error;
            }
            Failed::Misreported => return Error::sql(1, String::from_utf8_lossy(failed::MISREPORTED)),
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

    /// Another thread closed the session, or interrupted the call.
    fn woken(&self, unknown: bool) -> Error {
        let outcome = if unknown {
            "it is not known whether the statement was applied"
        } else {
            "nothing was changed"
        };
        let (kind, why) = match self.wake.check() {
            Err(why) if why.kind() == Kind::Interrupted && unknown => (Kind::Unknown, why.message().to_owned()),
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

    /// What was prepared on the connection means nothing without it.
    fn disconnect(&mut self) {
        self.conn = None;
        self.cache.clear();
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

    /// Some errors end a transaction on the way (a full disk, an interrupt, ON CONFLICT ROLLBACK). The protocol has no
    /// word for it, so BEGIN is asked: it fails inside a transaction, and outside it is taken back.
    fn check_transaction(&mut self, error: &Error, deadline: Instant) {
        let primary = u64::from(error.sqlite_code().unsigned_abs() & 0xff);
        if !self.transaction.is_open() || matches!(primary, code::ERROR | code::BUSY) {
            return;
        }
        let Some(conn) = &mut self.conn else { return };
        let begin = |conn: &mut Conn, sql: &[u8]| {
            let request = Request::ExecSql {
                db: 0,
                sql,
                params: Params::NONE,
            };
            conn.call(&request, deadline)
                .map(|response| matches!(response, Response::Result { .. }))
        };
        match begin(conn, b"BEGIN").and_then(|outside| Ok(outside && begin(conn, b"ROLLBACK")?)) {
            Ok(true) => self.transaction = Transaction::None,
            Ok(false) => {}
            Err(broken) => self.drop_connection(&broken.reason),
        }
    }

    fn connect(&mut self, deadline: Instant) -> Result<()> {
        if self.conn.is_some() {
            return Ok(());
        }
        loop {
            self.wake.check()?;
            let (mut conn, address) = self.find_leader(deadline)?;
            self.wake.watch(conn.waker())?;
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
                    self.tainted = false;
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

    /// The search itself cannot be woken, so it goes step by step.
    fn find_leader(&self, deadline: Instant) -> Result<(Conn, String)> {
        loop {
            let found = self
                .connector
                .leader(deadline.min(Instant::now() + limits::SEARCH_SLICE));
            match found {
                Err(error) if error.kind() == Kind::NoLeader && Instant::now() + RETRY_PAUSE < deadline => {
                    self.wake.pause(RETRY_PAUSE)?;
                }
                found => return found,
            }
        }
    }

    fn exec_sql(&mut self, statement: &Statement<'_>, deadline: Instant) -> Attempt<Changes> {
        let request = Request::ExecSql {
            db: 0,
            sql: statement.text.as_bytes(),
            params: Params::NONE,
        };
        let response = self
            .conn()?
            .call(&request, deadline)
            .map_err(|broken| ended(statement, broken))?;
        changes(&response, statement, "EXEC_SQL")
    }

    fn exec_prepared(&mut self, statement: &Statement<'_>, params: Params<'_>, deadline: Instant) -> Attempt<Changes> {
        let Prepared { db, id: stmt, .. } = self.prepared(statement, deadline)?;
        if statement.rows {
            let request = Request::Query { db, stmt, params };
            fetch(self.conn()?, &request, statement, &mut |rows| drain(rows), deadline)?;
            return self.changes_of(statement, deadline);
        }
        let request = Request::Exec { db, stmt, params };
        let response = self
            .conn()?
            .call(&request, deadline)
            .map_err(|broken| ended(statement, broken))?;
        changes(&response, statement, "EXEC")
    }

    fn one_by_one(&mut self, statement: &Statement<'_>, sets: Sets<'_, '_>, deadline: Instant) -> Attempt<i64> {
        let mut total = 0_i64;
        for set in sets {
            let changes = self.exec_prepared(statement, Params::new(&set), deadline)?;
            total = total.saturating_add(changes.rows_affected);
        }
        Ok(total)
    }

    /// Sends requests ahead of their answers: inside a transaction the round trip is most of what a statement costs.
    fn pipeline(&mut self, statement: &Statement<'_>, sets: Sets<'_, '_>, deadline: Instant) -> Attempt<i64> {
        let Prepared { db, id: stmt, .. } = self.prepared(statement, deadline)?;
        let conn = self.conn()?;
        let mut total = 0_i64;
        let mut failed = None;
        while failed.is_none() {
            let mut sent = 0;
            while sent < limits::PIPELINE && conn.queued() < limits::PIPELINE_BYTES {
                let Some(set) = sets.next() else { break };
                let params = Params::new(&set);
                conn.queue(&Request::Exec { db, stmt, params });
                sent += 1;
            }
            if sent == 0 {
                return Ok(total);
            }
            conn.flush("EXEC", deadline)
                .map_err(|broken| ended(statement, broken))?;
            // All answers are read, whatever they say, so that the connection can go on.
            for _ in 0..sent {
                let response = conn
                    .answer("EXEC", deadline)
                    .map_err(|broken| ended(statement, broken))?;
                match changes(&response, statement, "EXEC") {
                    Ok(changes) => total = total.saturating_add(changes.rows_affected),
                    Err(failure) => failed = failed.or(Some(failure)),
                }
            }
        }
        failed.map_or(Ok(total), Err)
    }

    fn first_part(
        &mut self,
        statement: &Statement<'_>,
        params: Params<'_>,
        keep: Keep,
        part: &mut Part,
        deadline: Instant,
    ) -> Attempt<()> {
        if statement.controls_transaction() || (keep == Keep::No && !statement.rows) {
            return self.exec_sql(statement, deadline).map(|_| ());
        }
        if !statement.rows {
            return self.exec_prepared(statement, params, deadline).map(|_| ());
        }
        // In one round trip, unless it is prepared already.
        if keep == Keep::No && statement.kind == Sql::Read && self.cache.get(statement.text).is_none() {
            let request = Request::QuerySql {
                db: 0,
                sql: statement.text.as_bytes(),
                params,
            };
            match receive_part(self.conn()?, Some(&request), statement, part, deadline) {
                // It is one statement, so the text hides another reason; the prepared way tells.
                Err(Failed::Misreported) => {}
                other => return other,
            }
        }
        let Prepared { db, id: stmt, .. } = self.prepared(statement, deadline)?;
        let request = Request::Query { db, stmt, params };
        receive_part(self.conn()?, Some(&request), statement, part, deadline)
    }

    /// A read in one round trip.
    fn fetch_direct(&mut self, statement: &Statement<'_>, sink: Sink<'_>, deadline: Instant) -> Attempt<()> {
        let request = Request::QuerySql {
            db: 0,
            sql: statement.text.as_bytes(),
            params: Params::NONE,
        };
        match fetch(self.conn()?, &request, statement, sink, deadline) {
            // As in `first_part`.
            Err(Failed::Misreported) => self.fetch_prepared(statement, sink, deadline),
            other => other,
        }
    }

    /// PREPARE and QUERY: the way that is safe for a write that yields rows, and that reports every failure.
    fn fetch_prepared(&mut self, statement: &Statement<'_>, sink: Sink<'_>, deadline: Instant) -> Attempt<()> {
        let Prepared { db, id: stmt, .. } = self.prepared(statement, deadline)?;
        let params = Params::NONE;
        fetch(
            self.conn()?,
            &Request::Query { db, stmt, params },
            statement,
            sink,
            deadline,
        )
    }

    /// The statement as this connection knows it; nothing of it has run.
    fn prepared(&mut self, statement: &Statement<'_>, deadline: Instant) -> Attempt<Prepared> {
        if let Some(prepared) = self.cache.get(statement.text) {
            return Ok(prepared);
        }
        while let Some(Prepared { db, id: stmt, .. }) = self.cache.evict() {
            let request = Request::Finalize { db, stmt };
            self.conn()?
                .call(&request, deadline)
                .map_err(|broken| not_run(&broken))?;
        }
        let request = Request::Prepare {
            db: 0,
            sql: statement.text.as_bytes(),
        };
        let prepared = match self
            .conn()?
            .call(&request, deadline)
            .map_err(|broken| not_run(&broken))?
        {
            Response::Stmt { db, id, params, .. } => Prepared {
                db,
                id,
                parameters: params,
            },
            Response::Failure { code, message } => return Err(refused(statement, code, message)),
            other => return Err(senseless("PREPARE", &other)),
        };
        self.cache.insert(statement.text, prepared);
        Ok(prepared)
    }

    /// After a write that was sent as a query: the numbers that only EXEC reports.
    fn changes_of(&mut self, statement: &Statement<'_>, deadline: Instant) -> Attempt<Changes> {
        if !matches!(statement.kind, Sql::Insert | Sql::Change) {
            return Ok(Changes::default());
        }
        let Some(conn) = &mut self.conn else {
            return Ok(Changes::default());
        };
        let request = Request::QuerySql {
            db: 0,
            sql: b"SELECT last_insert_rowid(), changes()",
            params: Params::NONE,
        };
        let mut found = Changes::default();
        let mut take = |rows: &mut Rows<'_>| take_numbers(rows, statement, &mut found);
        // The write is done and must not look failed because its numbers were lost.
        let _ = fetch(conn, &request, statement, &mut take, deadline);
        Ok(found)
    }

    fn conn(&mut self) -> Attempt<&mut Conn> {
        self.conn
            .as_mut()
            .ok_or_else(|| Failed::NotRun(Error::internal("not connected")))
    }
}

/// Receives a part of a result, the first one as the answer to `request`.
pub(super) fn receive_part(
    conn: &mut Conn,
    request: Option<&Request<'_>>,
    statement: &Statement<'_>,
    part: &mut Part,
    deadline: Instant,
) -> Attempt<()> {
    let response = match request {
        Some(request) => conn.query(request, deadline),
        None => conn.next_part(deadline),
    };
    match response.map_err(|broken| ended(statement, broken))? {
        Response::Rows(rows) => part.describe(&rows),
        Response::Failure { code, message } => return Err(refused(statement, code, message)),
        other => return Err(senseless("a query", &other)),
    }
    conn.take_body(part.body_mut());
    Ok(())
}

/// The answer to EXEC or EXEC_SQL.
fn changes(response: &Response<'_>, statement: &Statement<'_>, request: &str) -> Attempt<Changes> {
    match response {
        Response::Result {
            last_insert_id,
            rows_affected,
        } => Ok(numbers(statement, *last_insert_id, *rows_affected)),
        Response::Failure { code, message } => Err(refused(statement, *code, message)),
        other => Err(senseless(request, other)),
    }
}

/// Sends a query and hands its parts to `sink` up to the end word, which alone confirms a write. [protocol 5.1]
fn fetch(
    conn: &mut Conn,
    request: &Request<'_>,
    statement: &Statement<'_>,
    sink: Sink<'_>,
    deadline: Instant,
) -> Attempt<()> {
    let mut response = conn
        .query(request, deadline)
        .map_err(|broken| ended(statement, broken))?;
    loop {
        match response {
            Response::Rows(mut rows) => {
                sink(&mut rows).map_err(Failed::Ended)?;
                if rows.end() == Some(End::Complete) {
                    return Ok(());
                }
            }
            Response::Failure { code, message } => return Err(refused(statement, code, message)),
            other => return Err(senseless("a query", &other)),
        }
        response = conn.next_part(deadline).map_err(|broken| ended(statement, broken))?;
    }
}

/// Reads a part to its end without looking at it.
fn drain(rows: &mut Rows<'_>) -> Result<()> {
    while rows.next_row().map_err(|fault| Error::internal(fault.to_string()))? {}
    Ok(())
}

/// The engine's numbers are those of the last change on the connection; they count only where this statement made one.
fn numbers(statement: &Statement<'_>, last_insert_id: i64, rows_affected: u64) -> Changes {
    let rows_affected = i64::try_from(rows_affected).unwrap_or(i64::MAX);
    match statement.kind {
        Sql::Insert if rows_affected > 0 => Changes {
            last_insert_id,
            rows_affected,
        },
        Sql::Insert | Sql::Change => Changes {
            last_insert_id: 0,
            rows_affected,
        },
        _ => Changes::default(),
    }
}

/// Reads the one row of `SELECT last_insert_rowid(), changes()`.
fn take_numbers(rows: &mut Rows<'_>, statement: &Statement<'_>, found: &mut Changes) -> Result<()> {
    let garbled = |fault: crate::wire::Malformed| Error::internal(fault.to_string());
    while rows.next_row().map_err(garbled)? {
        if let (Value::Integer(id), Value::Integer(count)) =
            (rows.next_value().map_err(garbled)?, rows.next_value().map_err(garbled)?)
        {
            *found = numbers(statement, id, count.unsigned_abs());
        }
    }
    Ok(())
}
