//! A database as one handle sees it: sessions, transactions, statements, and what may be sent twice.

mod attempt;
mod backup;
mod bound;
mod cache;
mod failed;
#[cfg(test)]
mod fake_tests;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod group;
mod part;
mod patience;
mod pipeline;
mod prepared;
#[cfg(test)]
mod random_tests;
mod session;
mod shared;
mod sql;
mod stream;
mod transaction;
mod value;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::client::{Connector, WakeSlot, interrupted};
use crate::db::group::{Group, Turn};
use crate::db::session::{Session, Sink};
use crate::db::sql::{Kind as Sql, Statement};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::metrics::Count;
use crate::render::JsonArray;

pub(crate) use crate::db::bound::BoundStatement;
pub(crate) use crate::db::prepared::PreparedStatement;
pub(crate) use crate::db::session::Changes;
pub(crate) use crate::db::shared::{Mode, SharedSession};
pub(crate) use crate::db::sql::statements;
pub(crate) use crate::db::stream::{Next, ResultRows};
pub(crate) use crate::db::value::check_size;
use crate::wire::Rows;

pub(crate) use crate::wire::Value;

/// What SQLite says when a text that has to be one statement holds more.
const SQLITE_ERROR: i32 = 1;

/// One database of one handle. Calls of several threads queue on its session; while that is busy outside a
/// transaction, a plain read may take a spare one.
pub(crate) struct Database {
    name: String,
    connector: Arc<Connector>,
    wake: Arc<WakeSlot>,
    session: Mutex<Session>,
    group: Group,
    /// The session's connection shows what another one would not: an open transaction, temporary objects, settings.
    private: AtomicBool,
    tainted: AtomicBool,
    spares: Mutex<Vec<Session>>,
}

impl Database {
    /// Opens (and creates, where it does not exist) the database on the leader. A write waits `busy` for the transaction
    /// of another one.
    pub(crate) fn open(
        name: &str,
        connector: Arc<Connector>,
        wake: Arc<WakeSlot>,
        busy: Duration,
        deadline: Instant,
    ) -> Result<Self> {
        let mut session = Session::new(Arc::clone(&connector), name.to_owned(), wake.child()?);
        // A leader of ours has kept the statement waiting for all of this time; one of go-dqlite, or one with another
        // setting, refuses it earlier. What is cut off sees to it that no second wait begins when the first one ends.
        session.set_busy(busy - busy / 20);
        endable(&mut session, |session| session.open(deadline))?;
        Ok(Self {
            name: name.to_owned(),
            connector,
            wake,
            session: Mutex::new(session),
            group: Group::default(),
            private: AtomicBool::new(false),
            tainted: AtomicBool::new(false),
            spares: Mutex::new(Vec::new()),
        })
    }

    /// Runs all statements of `sql` and reports what the last one of them that changes rows changed.
    pub(crate) fn exec(&self, sql: &str, deadline: Instant) -> Result<Changes> {
        let interrupts = self.wake.interrupts();
        // Not past those who wait already.
        if !self.group.waits()
            && let Some(mut session) = self.session.try_lock()
        {
            return self.exec_on(&mut session, sql, deadline);
        }
        if group::groups(sql) {
            return self.exec_with_others(sql, interrupts, deadline);
        }
        self.exec_on(&mut *self.lock(interrupts, deadline)?, sql, deadline)
    }

    /// For a statement that found the session busy: it is committed with the others that did.
    fn exec_with_others(&self, sql: &str, interrupts: u64, deadline: Instant) -> Result<Changes> {
        let ticket = self.group.join(sql);
        match self.group.wait(&ticket, deadline) {
            Some(Turn::Done(result)) => result,
            Some(Turn::Lead) => {
                let locked = self.lock(interrupts, deadline);
                let mut session = locked.inspect_err(|_| self.group.resign(&ticket))?;
                let taken = self.group.take(&ticket, deadline);
                let changes = endable(&mut session, |session| group::serve(session, &taken, &ticket, deadline));
                self.private.store(session.in_transaction(), Ordering::Release);
                changes
            }
            None => Err(self.too_busy()),
        }
    }

    fn exec_on(&self, session: &mut Session, sql: &str, deadline: Instant) -> Result<Changes> {
        self.wake.check()?;
        let mut changes = Changes::default();
        let done = endable(session, |session| {
            for statement in statements(sql) {
                let done = session.exec(&statement, deadline);
                self.note(session, &statement);
                let done = done?;
                if matches!(statement.kind, Sql::Insert | Sql::Change) {
                    changes = done;
                }
            }
            Ok(())
        });
        self.private.store(session.in_transaction(), Ordering::Release);
        done.map(|()| changes)
    }

    /// The rows of the one statement in `sql` as a JSON array of objects; of none: `[]`.
    pub(crate) fn query(&self, sql: &str, deadline: Instant) -> Result<Vec<u8>> {
        let mut json = JsonArray::new();
        let mut all = statements(sql);
        if let Some(statement) = all.next() {
            if all.next().is_some() {
                return Err(Error::sql(
                    SQLITE_ERROR,
                    "a query is one statement, and this text holds more: use exec for scripts",
                ));
            }
            let mut take = |rows: &mut Rows<'_>| match json.can_take(rows) {
                true => garbled(json.part(rows)).and_then(|()| json.is_whole().then_some(()).ok_or_else(no_room)),
                false => Err(no_room()),
            };
            self.fetch(&statement, &mut take, deadline)?;
        }
        self.connector.metrics().add(Count::RowsRead, json.row_count());
        json.finish()
            .ok_or_else(|| no_room().with("what the statement did stays done"))
    }

    fn fetch(&self, statement: &Statement<'_>, sink: Sink<'_>, deadline: Instant) -> Result<()> {
        let interrupts = self.wake.interrupts();
        if let Some(mut session) = self.session.try_lock() {
            return self.fetch_on(&mut session, statement, sink, deadline);
        }
        if statement.spare && !self.private.load(Ordering::Acquire) && !self.tainted.load(Ordering::Acquire) {
            let spare = self.spares.lock().pop();
            let mut spare = match spare {
                Some(spare) => spare,
                None => Session::new(Arc::clone(&self.connector), self.name.clone(), self.wake.child()?),
            };
            let fetched = endable(&mut spare, |spare| spare.query(statement, sink, deadline));
            let mut spares = self.spares.lock();
            if spares.len() < limits::SPARES {
                spares.push(spare);
            }
            return fetched;
        }
        let mut session = self.lock(interrupts, deadline)?;
        self.fetch_on(&mut session, statement, sink, deadline)
    }

    fn fetch_on(
        &self,
        session: &mut Session,
        statement: &Statement<'_>,
        sink: Sink<'_>,
        deadline: Instant,
    ) -> Result<()> {
        let fetched = endable(session, |session| session.query(statement, sink, deadline));
        self.note(session, statement);
        fetched
    }

    /// Keeps what other threads have to know of the session without its lock.
    fn note(&self, session: &Session, statement: &Statement<'_>) {
        self.private.store(session.in_transaction(), Ordering::Release);
        if statement.taints_session() {
            self.tainted.store(true, Ordering::Release);
        }
    }

    /// For a call that began when so many interrupts had been made.
    fn lock(&self, interrupts: u64, deadline: Instant) -> Result<MutexGuard<'_, Session>> {
        let session = self.session.try_lock_until(deadline).ok_or_else(|| self.too_busy())?;
        self.wake.check()?;
        if self.wake.interrupts() != interrupts {
            return Err(interrupted());
        }
        Ok(session)
    }

    fn too_busy(&self) -> Error {
        Error::new(
            Kind::Timeout,
            format!(
                "other threads kept the database {:?} of this handle busy until the deadline",
                self.name
            ),
        )
    }
}

/// Makes a call that another thread may interrupt. The call may not have noticed; its connection is ended all the same.
fn endable<T>(session: &mut Session, call: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
    session.wake().enter()?;
    let done = call(session);
    if session.wake().leave() {
        session.drop_connection("the call was interrupted by another thread");
    }
    done
}

/// Refuses names that the engine or the file formats around it cannot carry.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > limits::DATABASE_NAME {
        "is longer than 200 bytes"
    } else if name.contains(['/', ':', '?']) {
        "contains '/', ':' or '?', and a database is a name, not a path"
    } else if name.chars().any(char::is_control) {
        "contains a control character"
    } else if limits::NO_DATABASE.iter().any(|ending| name.ends_with(ending)) {
        "ends like a name of SQLite's own for the files beside a database"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "db_name {name:?} {reason}; use a plain name such as app.db"
    )))
}

fn no_room() -> Error {
    Error::new(
        Kind::NoMemory,
        "no memory for the text of the result; read its rows one by one (dqlitepy_session_query), or ask for less",
    )
}

fn garbled(part: std::result::Result<(), crate::wire::Malformed>) -> Result<()> {
    part.map_err(|fault| Error::internal(format!("the rows make no sense: {fault}")))
}
