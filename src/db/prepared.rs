//! A statement as its handle sees it: SQL, what is bound to it, and the sets that wait for a batch.
//!
//! The server's id for it is not here but in the session's cache, where it ends with its connection; after a reconnect the
//! next run prepares the text again.

use std::iter;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::db::bound::{self, BoundStatement};
use crate::db::session::Changes;
use crate::db::shared::SharedSession;
use crate::db::sql::{OwnedStatement, Statement, parameters};
use crate::db::stream::ResultRows;
use crate::db::value::{Owned, check_total};
use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::wire::Value;

/// What stands behind a statement's handle.
pub(crate) struct PreparedStatement {
    session: Arc<SharedSession>,
    sql: Arc<OwnedStatement>,
    /// One for each parameter; empty if they cannot be told from the text.
    names: Vec<Option<String>>,
    parameters: usize,
    /// Held through a run, so that two threads on one statement are noticed.
    bound: Mutex<Bound>,
}

struct Bound {
    values: Vec<Owned>,
    batch: Vec<Vec<Owned>>,
}

impl PreparedStatement {
    pub(super) fn new(session: &Arc<SharedSession>, statement: &Statement<'_>, parameter_count: u64) -> Result<Self> {
        let count = usize::try_from(parameter_count)
            .ok()
            .filter(|count| *count <= crate::limits::PARAMETERS * 8)
            .ok_or_else(|| Error::internal(format!("the server says {parameter_count} parameters")))?;
        let names = parameters(statement.text);
        session.statement_opened();
        Ok(Self {
            session: Arc::clone(session),
            sql: Arc::new(OwnedStatement::new(statement)?),
            names: if names.len() == count { names } else { Vec::new() },
            parameters: count,
            bound: Mutex::new(Bound {
                values: memory::collect(iter::repeat_with(|| Ok(Owned::Null)).take(count), "values")?,
                batch: Vec::new(),
            }),
        })
    }

    pub(crate) fn session(&self) -> &Arc<SharedSession> {
        &self.session
    }

    pub(crate) fn parameter_count(&self) -> usize {
        self.parameters
    }

    /// The name with its first character, as in ":id"; None for a bare "?" or a number.
    pub(crate) fn parameter_name(&self, index: i64) -> Result<Option<&str>> {
        let at = self.place(index)?;
        Ok(self.names.get(at).and_then(Option::as_deref))
    }

    /// The index, from 1 on, of the parameter that is called so in the SQL.
    pub(crate) fn parameter_index(&self, name: &str) -> Result<usize> {
        let found = self.names.iter().position(|known| known.as_deref() == Some(name));
        found.map(|at| at + 1).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("the statement has no parameter {name:?}; names begin with ':', '@' or '$', as in the SQL"),
            )
        })
    }

    /// Gives parameter `index`, from 1 on, a value, which is copied.
    pub(crate) fn bind(&self, index: i64, value: Value<'_>) -> Result<()> {
        let at = self.place(index)?;
        let value = Owned::copy(value, at + 1)?;
        self.lock()?.values[at] = value;
        Ok(())
    }

    pub(crate) fn bind_time(&self, index: i64, seconds: i64, nanoseconds: u32) -> Result<()> {
        let at = self.place(index)?;
        let value = Owned::time(seconds, nanoseconds, at + 1)?;
        self.lock()?.values[at] = value;
        Ok(())
    }

    /// Gives all parameters a value, or none if one cannot have it.
    pub(crate) fn bind_all<'a>(&self, values: impl ExactSizeIterator<Item = Result<Value<'a>>>) -> Result<()> {
        if values.len() != self.parameters {
            return Err(Error::invalid(format!(
                "the statement has {} parameters, and {} values were given",
                self.parameters,
                values.len()
            )));
        }
        let values = values.enumerate().map(|(at, value)| Owned::copy(value?, at + 1));
        let values = memory::collect(values, "values")?;
        self.lock()?.values = values;
        Ok(())
    }

    pub(crate) fn clear_bindings(&self) -> Result<()> {
        self.lock()?.values.fill_with(|| Owned::Null);
        Ok(())
    }

    /// Forgets the sets of a batch that was not run; what is bound stays.
    pub(crate) fn reset(&self) -> Result<()> {
        self.lock()?.batch.clear();
        Ok(())
    }

    pub(crate) fn exec(&self) -> Result<Changes> {
        bound::exec(&self.session, &self.sql, &self.lock()?.values)
    }

    pub(crate) fn query(&self) -> Result<ResultRows> {
        bound::query(&self.session, &self.sql, &self.lock()?.values)
    }

    /// The statement with what is bound now, to be run later.
    pub(crate) fn with_values(&self) -> Result<BoundStatement> {
        let sets = vec![copies(&self.lock()?.values)?];
        Ok(self.with(sets))
    }

    /// The statement with the sets of its batch, which are used up, to be run later.
    pub(crate) fn with_batch(&self) -> Result<BoundStatement> {
        let sets = std::mem::take(&mut self.lock()?.batch);
        Ok(self.with(sets))
    }

    fn with(&self, sets: Vec<Vec<Owned>>) -> BoundStatement {
        BoundStatement::new(Arc::clone(&self.session), Arc::clone(&self.sql), sets)
    }

    /// Keeps what is bound as one set of the next batch.
    pub(crate) fn add_batch(&self) -> Result<()> {
        let mut bound = self.lock()?;
        check_total(&bound.values, self.sql.text())?;
        let set = copies(&bound.values)?;
        memory::reserve(&mut bound.batch, 1, "sets of values")?;
        bound.batch.push(set);
        Ok(())
    }

    /// Runs the statement for all sets, all or none of it; the sum of the rows affected. The sets are used up.
    pub(crate) fn exec_batch(&self) -> Result<i64> {
        let mut bound = self.lock()?;
        let batch = std::mem::take(&mut bound.batch);
        bound::exec_batch(&self.session, &self.sql, &batch)
    }

    fn place(&self, index: i64) -> Result<usize> {
        usize::try_from(index)
            .ok()
            .and_then(|index| index.checked_sub(1))
            .filter(|at| *at < self.parameters)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "the statement has no parameter {index}: it has {}, and the first one is 1",
                    self.parameters
                ))
            })
    }

    fn lock(&self) -> Result<MutexGuard<'_, Bound>> {
        self.bound
            .try_lock()
            .ok_or_else(|| Error::misuse("another thread is using this statement: each thread needs its own"))
    }
}

fn copies(values: &[Owned]) -> Result<Vec<Owned>> {
    let copies = values
        .iter()
        .enumerate()
        .map(|(at, value)| Owned::copy(value.as_value(), at + 1));
    memory::collect(copies, "values")
}

impl Drop for PreparedStatement {
    fn drop(&mut self) {
        self.session.statement_closed();
    }
}

#[cfg(test)]
#[path = "prepared_tests.rs"]
mod tests;
