//! A statement together with the values that it runs with. Nothing of it is the caller's any more, so it can wait and run
//! on another thread.

use std::sync::Arc;

use crate::client::WakeSlot;
use crate::db::session::{Changes, Keep, Session};
use crate::db::shared::SharedSession;
use crate::db::sql::{Kind as Sql, OwnedStatement, statements};
use crate::db::stream::{ResultRows, start};
use crate::db::value::{Owned, check_total};
use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::wire::{Params, Value};

/// The savepoint around a batch inside a transaction.
const SAVEPOINT: &str = "SAVEPOINT dqlitepy_batch";
const RELEASE: &str = "RELEASE dqlitepy_batch";
const ROLLBACK_TO: &str = "ROLLBACK TO dqlitepy_batch";

pub(crate) struct BoundStatement {
    session: Arc<SharedSession>,
    sql: Arc<OwnedStatement>,
    sets: Vec<Vec<Owned>>,
}

impl BoundStatement {
    pub(super) fn new(session: Arc<SharedSession>, sql: Arc<OwnedStatement>, sets: Vec<Vec<Owned>>) -> Self {
        Self { session, sql, sets }
    }

    /// The one statement in `text` with a value for each parameter in each set, which are copied. Whether it has so many
    /// parameters turns out when it runs.
    pub(crate) fn of_text<'a, S: Iterator<Item = Result<Value<'a>>>>(
        session: &Arc<SharedSession>,
        text: &str,
        sets: impl Iterator<Item = S>,
    ) -> Result<Self> {
        let mut all = statements(text);
        let (Some(statement), None) = (all.next(), all.next()) else {
            return Err(Error::invalid(
                "values belong to one statement, and this text holds another number of them",
            ));
        };
        if statement.controls_transaction() {
            return Err(Error::invalid(
                "a statement that begins or ends a transaction takes no values",
            ));
        }
        let copy = |(at, value): (usize, Result<Value<'a>>)| Owned::copy(value?, at + 1);
        let sets = sets.map(|set| memory::collect(set.enumerate().map(copy), "values"));
        let sets = memory::collect(sets, "sets of values")?;
        let sql = Arc::new(OwnedStatement::new(&statement)?);
        Ok(Self::new(Arc::clone(session), sql, sets))
    }

    pub(crate) fn session(&self) -> &Arc<SharedSession> {
        &self.session
    }

    pub(crate) fn exec(&self) -> Result<Changes> {
        exec(&self.session, &self.sql, self.first())
    }

    pub(crate) fn query(&self) -> Result<ResultRows> {
        query(&self.session, &self.sql, self.first())
    }

    /// All sets or none; the sum of the rows affected.
    pub(crate) fn exec_batch(&self) -> Result<i64> {
        exec_batch(&self.session, &self.sql, &self.sets)
    }

    fn first(&self) -> &[Owned] {
        self.sets.first().map_or(&[], Vec::as_slice)
    }
}

pub(super) fn exec(session: &SharedSession, sql: &OwnedStatement, values: &[Owned]) -> Result<Changes> {
    check_total(values, sql.text())?;
    let values = as_values(values)?;
    session.call(|core, deadline| core.exec_with(&sql.get(), Params::new(&values), deadline))
}

pub(super) fn query(session: &Arc<SharedSession>, sql: &Arc<OwnedStatement>, values: &[Owned]) -> Result<ResultRows> {
    check_total(values, sql.text())?;
    let values = as_values(values)?;
    start(session, Arc::clone(sql), &values, Keep::Yes)
}

fn as_values(values: &[Owned]) -> Result<Vec<Value<'_>>> {
    memory::collect(values.iter().map(|value| Ok(value.as_value())), "values")
}

pub(super) fn exec_batch(session: &SharedSession, sql: &OwnedStatement, sets: &[Vec<Owned>]) -> Result<i64> {
    let Some(first) = sets.first() else {
        return Ok(0);
    };
    let statement = sql.get();
    if statement.controls_transaction() || statement.kind == Sql::Read {
        return Err(Error::misuse(
            "a batch runs statements that change rows, and this one does not",
        ));
    }
    for set in sets {
        check_total(set, sql.text())?;
    }
    session.call(|core, deadline| {
        let inside = core.in_transaction();
        let (begin, end) = if inside {
            (SAVEPOINT, RELEASE)
        } else {
            ("BEGIN IMMEDIATE", "COMMIT")
        };
        let control = |core: &mut Session, sql: &str| match statements(sql).next() {
            Some(statement) => core.exec(&statement, deadline).map(|_| ()),
            None => Ok(()),
        };
        check_count(core.prepare(&statement, deadline)?, first.len())?;
        control(core, begin)?;
        let mut values = sets.iter().map(|set| set.iter().map(Owned::as_value).collect());
        let failure = match core.exec_many(&statement, &mut values, deadline) {
            Ok(rows) => match control(core, end) {
                Ok(()) => return Ok(rows),
                Err(error) => error,
            },
            Err(error) => error,
        };
        // A transaction that is gone already needs nothing; ours alone is ended here, the caller's is told.
        if !inside {
            core.take_back(deadline);
        } else if core.is_inside() {
            let taken = control(core, ROLLBACK_TO).and_then(|()| control(core, RELEASE));
            if taken.is_err() {
                core.drop_connection("a part of a batch could not be taken back");
            }
        }
        Err(outcome(failure, inside, session.wake()))
    })
}

/// A statement with a parameter that was given no value would run with a NULL that nobody meant.
pub(super) fn check_count(parameters: u64, given: usize) -> Result<()> {
    if parameters == given as u64 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the statement has {parameters} parameters, and {given} values were given"
    )))
}

/// A transaction that the batch itself opened leaves nothing behind: to the caller it was one statement.
fn outcome(failure: Error, inside: bool, wake: &WakeSlot) -> Error {
    if inside || failure.kind() != Kind::TransactionLost {
        return failure;
    }
    let kind = wake.check().err().map_or(Kind::Retry, |why| why.kind());
    Error::new(
        kind,
        format!("nothing of the batch was kept, a retry is safe ({})", failure.message()),
    )
}
