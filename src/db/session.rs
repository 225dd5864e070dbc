//! One connection to the leader with one database open: statements in, numbers and rows out.
//!
//! What may be sent twice is decided here and nowhere else. Once a byte of a request was written it is not sent again,
//! except that the answers 10250 and 12 to a single statement outside a transaction prove that it did not run.
//! [client-behaviour 3.5]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Broken, Conn, Connector};
use crate::db::sql::{Kind as Sql, Statement};
use crate::db::transaction::Transaction;
use crate::db::wake::WakeSlot;
use crate::error::{Error, Kind, Result};
use crate::net::Cause;
use crate::wire::{End, Params, Request, Response, Rows, Value};

/// FAILURE codes with a meaning of their own. [protocol 8]
mod code {
    pub(super) const NOT_LEADER: u64 = 10250;
    pub(super) const LEADERSHIP_LOST: u64 = 10506;
    /// The two above, from servers older than 2020.
    pub(super) const OLD_NOT_LEADER: u64 = 8202;
    pub(super) const OLD_LEADERSHIP_LOST: u64 = 8458;
    /// No database or statement of that id: the node lost and regained the lead meanwhile.
    pub(super) const NOT_OPEN: u64 = 12;
    pub(super) const ERROR: u64 = 1;
    pub(super) const BUSY: u64 = 5;
    pub(super) const IO_ERROR: u64 = 10;
}

/// What the engine says of QUERY_SQL that failed before its first step, whatever the cause. [protocol 11.3]
const MISREPORTED: &[u8] = b"nonempty statement tail";
/// What it says of code 10 when SQLite has no text for it: the statement may be committed by the others.
const NO_REASON: &[u8] = b"leader exec failed";

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

pub(crate) struct Session {
    connector: Arc<Connector>,
    database: String,
    conn: Option<Conn>,
    transaction: Transaction,
    wake: Arc<WakeSlot>,
}

/// How an attempt to run a statement ended, if it did not succeed.
enum Failed {
    /// It did not run; asking again is allowed outside a transaction.
    NotRun(Error),
    /// SQLite refused; the connection is fine.
    Refused(Error),
    /// The answer that QUERY_SQL gives for several reasons.
    Misreported,
    /// The connection is of no use any more.
    Ended(Error),
}

impl Session {
    pub(crate) fn new(connector: Arc<Connector>, database: String, wake: Arc<WakeSlot>) -> Self {
        Self {
            connector,
            database,
            conn: None,
            transaction: Transaction::None,
            wake,
        }
    }

    pub(crate) fn in_transaction(&self) -> bool {
        self.transaction != Transaction::None
    }

    /// Connects now rather than at the first statement.
    pub(crate) fn open(&mut self, deadline: Instant) -> Result<()> {
        self.connect(deadline)
    }

    /// Runs a statement for its changes; rows that it yields are dropped.
    pub(crate) fn exec(&mut self, statement: &Statement<'_>, deadline: Instant) -> Result<Changes> {
        if statement.rows {
            self.run(statement, deadline, |session| {
                session.fetch_prepared(statement, &mut |rows| drain(rows), deadline)?;
                session.changes_of(statement, deadline)
            })
        } else {
            self.run(statement, deadline, |session| session.exec_sql(statement, deadline))
        }
    }

    /// Runs a statement for its rows.
    pub(crate) fn query(&mut self, statement: &Statement<'_>, sink: Sink<'_>, deadline: Instant) -> Result<()> {
        self.run(statement, deadline, |session| match statement.kind {
            Sql::Read => session.fetch_direct(statement, sink, deadline),
            _ if statement.rows => session.fetch_prepared(statement, sink, deadline),
            _ => session.exec_sql(statement, deadline).map(|_| ()),
        })
    }

    /// The frame around every statement: connection, retry, transaction.
    fn run<T>(
        &mut self,
        statement: &Statement<'_>,
        deadline: Instant,
        mut attempt: impl FnMut(&mut Self) -> std::result::Result<T, Failed>,
    ) -> Result<T>
    where
        T: Default,
    {
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
        loop {
            self.connect(deadline)?;
            match attempt(self) {
                Ok(done) => {
                    self.transaction.advance(&statement.kind);
                    return Ok(done);
                }
                Err(Failed::Refused(error)) => {
                    self.check_transaction(&error, deadline);
                    return Err(error);
                }
                Err(Failed::NotRun(error)) => {
                    self.conn = None;
                    if self.transaction.is_open() {
                        return Err(self.lose(&error));
                    }
                    if Instant::now() + RETRY_PAUSE >= deadline {
                        return Err(Error::new(Kind::NoLeader, error.message()));
                    }
                    thread::sleep(RETRY_PAUSE);
                }
                Err(Failed::Misreported) => {
                    return Err(Error::sql(1, String::from_utf8_lossy(MISREPORTED)));
                }
                Err(Failed::Ended(error)) => {
                    self.conn = None;
                    // Of the statements in a transaction only its end can have taken effect.
                    let ends = matches!(statement.kind, Sql::Commit | Sql::Release(_));
                    if !self.transaction.is_open() || ends || error.kind() == Kind::Shutdown {
                        self.transaction.lose(error.message());
                        return Err(error);
                    }
                    return Err(self.lose(&error));
                }
            }
        }
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
            Err(broken) => {
                self.conn = None;
                self.transaction.lose(&broken.reason);
            }
        }
    }

    fn connect(&mut self, deadline: Instant) -> Result<()> {
        if self.conn.is_some() {
            return Ok(());
        }
        loop {
            self.wake.check()?;
            let (mut conn, address) = self.connector.leader(deadline)?;
            self.wake.watch(conn.waker())?;
            let request = Request::Open {
                name: self.database.as_bytes(),
                flags: 0,
                vfs: b"volatile",
            };
            match conn.call(&request, deadline).map_err(Broken::into_error)? {
                Response::Db { .. } => {
                    self.conn = Some(conn);
                    return Ok(());
                }
                Response::Failure { code: code::NOT_LEADER, .. } if Instant::now() + RETRY_PAUSE < deadline => {
                    thread::sleep(RETRY_PAUSE);
                }
                Response::Failure { code, message } => {
                    let message = String::from_utf8_lossy(message);
                    return Err(failure(code, &message)
                        .at(format!("opening the database {:?} at {address}", self.database)));
                }
                other => return Err(Error::internal(format!("OPEN was answered with {}", other.name()))),
            }
        }
    }

    fn exec_sql(&mut self, statement: &Statement<'_>, deadline: Instant) -> std::result::Result<Changes, Failed> {
        let request = Request::ExecSql {
            db: 0,
            sql: statement.text.as_bytes(),
            params: Params::NONE,
        };
        match self.conn()?.call(&request, deadline).map_err(|broken| ended(statement, broken))? {
            Response::Result {
                last_insert_id,
                rows_affected,
            } => Ok(numbers(statement, last_insert_id, rows_affected)),
            Response::Failure { code, message } => Err(refused(statement, code, message)),
            other => Err(senseless("EXEC_SQL", &other)),
        }
    }

    /// A read in one round trip.
    fn fetch_direct(
        &mut self,
        statement: &Statement<'_>,
        sink: Sink<'_>,
        deadline: Instant,
    ) -> std::result::Result<(), Failed> {
        let request = Request::QuerySql {
            db: 0,
            sql: statement.text.as_bytes(),
            params: Params::NONE,
        };
        match fetch(self.conn()?, &request, statement, sink, deadline) {
            // It is one statement, so the text hides another reason; the prepared way tells.
            Err(Failed::Misreported) => self.fetch_prepared(statement, sink, deadline),
            other => other,
        }
    }

    /// PREPARE, QUERY, FINALIZE: the way that is safe for a write that yields rows, and that reports every failure.
    fn fetch_prepared(
        &mut self,
        statement: &Statement<'_>,
        sink: Sink<'_>,
        deadline: Instant,
    ) -> std::result::Result<(), Failed> {
        let request = Request::Prepare {
            db: 0,
            sql: statement.text.as_bytes(),
        };
        // Nothing runs before QUERY.
        let (db, stmt) = match self.conn()?.call(&request, deadline).map_err(|broken| not_run(&broken))? {
            Response::Stmt { db, id, .. } => (db, id),
            Response::Failure { code, message } => return Err(refused(statement, code, message)),
            other => return Err(senseless("PREPARE", &other)),
        };
        let request = Request::Query {
            db,
            stmt,
            params: Params::NONE,
        };
        let fetched = fetch(self.conn()?, &request, statement, sink, deadline);
        if matches!(fetched, Ok(()) | Err(Failed::Refused(_))) {
            let request = Request::Finalize { db, stmt };
            if self.conn()?.call(&request, deadline).is_err() {
                // The statement ran; only its connection is lost, and with it an open transaction.
                self.conn = None;
                self.transaction.lose("the connection was lost");
            }
        }
        fetched
    }

    /// After a write that was sent as a query: the numbers that only EXEC reports.
    fn changes_of(&mut self, statement: &Statement<'_>, deadline: Instant) -> std::result::Result<Changes, Failed> {
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

    fn conn(&mut self) -> std::result::Result<&mut Conn, Failed> {
        self.conn.as_mut().ok_or_else(|| Failed::NotRun(Error::internal("not connected")))
    }
}

/// Sends a query and hands its parts to `sink` up to the end word, which alone confirms a write. [protocol 5.1]
fn fetch(
    conn: &mut Conn,
    request: &Request<'_>,
    statement: &Statement<'_>,
    sink: Sink<'_>,
    deadline: Instant,
) -> std::result::Result<(), Failed> {
    let mut response = conn.query(request, deadline).map_err(|broken| ended(statement, broken))?;
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

/// Whether it may have changed the database, if it is not known whether it ran.
fn may_change(statement: &Statement<'_>) -> bool {
    match statement.kind {
        Sql::Insert | Sql::Change | Sql::Commit | Sql::Release(_) | Sql::Pragma | Sql::Other => true,
        Sql::Read | Sql::Begin | Sql::Rollback | Sql::Savepoint(_) | Sql::RollbackTo(_) => false,
    }
}

fn not_run(broken: &Broken) -> Failed {
    let kind = match broken.cause {
        Cause::Woken => Kind::Shutdown,
        Cause::TimedOut => Kind::Timeout,
        Cause::Closed | Cause::Other => return Failed::NotRun(Error::new(Kind::Retry, &*broken.reason)),
    };
    Failed::Ended(Error::new(kind, format!("{}; nothing was changed", broken.reason)))
}

/// No answer came to a statement.
fn ended(statement: &Statement<'_>, broken: Broken) -> Failed {
    if !broken.sent {
        return not_run(&broken);
    }
    let changes = may_change(statement);
    let (kind, outcome) = match broken.cause {
        Cause::Woken if changes => (Kind::Shutdown, "it is not known whether the statement was applied"),
        Cause::Woken => (Kind::Shutdown, "nothing was changed"),
        _ if changes => (Kind::Unknown, "it is not known whether the statement was applied"),
        Cause::TimedOut => (Kind::Timeout, "nothing was changed, a retry is safe"),
        Cause::Closed | Cause::Other => (Kind::Retry, "nothing was changed, a retry is safe"),
    };
    Failed::Ended(Error::new(kind, format!("{}; {outcome}", broken.reason)))
}

fn refused(statement: &Statement<'_>, code: u64, message: &[u8]) -> Failed {
    let text = String::from_utf8_lossy(message);
    match code {
        code::NOT_LEADER | code::OLD_NOT_LEADER | code::NOT_OPEN => Failed::NotRun(failure(code, &text)),
        code::LEADERSHIP_LOST | code::OLD_LEADERSHIP_LOST => undecided(statement, &text),
        code::IO_ERROR if message == NO_REASON => undecided(statement, &text),
        code::ERROR if message == MISREPORTED => Failed::Misreported,
        _ => Failed::Refused(failure(code, &text)),
    }
}

/// The leader could not finish the statement; the others may have it all the same.
fn undecided(statement: &Statement<'_>, text: &str) -> Failed {
    Failed::Ended(if may_change(statement) {
        Error::new(
            Kind::Unknown,
            format!("the leader says: {text}; it is not known whether the statement was applied"),
        )
    } else {
        Error::new(
            Kind::Retry,
            format!("the leader says: {text}; nothing was changed, a retry is safe"),
        )
    })
}

fn failure(code: u64, text: &str) -> Error {
    Error::sql(i32::try_from(code).unwrap_or(1), text)
}

fn senseless(request: &str, response: &Response<'_>) -> Failed {
    Failed::Ended(Error::internal(format!("{request} was answered with {}", response.name())))
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
