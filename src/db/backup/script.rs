//! A script, statement by statement. Transactions that it begins are its own; around the rest there are some of ours, so
//! that not every statement waits for the disks of a majority.

use crate::db::backup::Task;
use crate::db::sql::{Kind as Sql, Statement, statements};
use crate::error::{Error, Kind, Result};
use crate::limits;

/// What an error message shows of a statement.
const EXCERPT: usize = 60;

pub(super) fn load(task: &mut Task<'_>, sql: &str) -> Result<()> {
    let mut script = Script {
        task,
        sql,
        ours: false,
        bytes: 0,
        done: 0,
        kept: 0,
    };
    script.task.watch.at(0, sql.len() as u64)?;
    for statement in statements(sql) {
        let run = script.step(&statement);
        run.map_err(|error| script.explain(error, Some(&statement)))?;
    }
    let ended = script.end();
    ended.map_err(|error| script.explain(error, None))
}

struct Script<'t, 'a> {
    task: &'t mut Task<'a>,
    sql: &'t str,
    /// The transaction that is open is ours.
    ours: bool,
    /// Bytes of SQL in it.
    bytes: usize,
    /// Statements that ran, and those of them that are committed.
    done: u64,
    kept: u64,
}

impl Script<'_, '_> {
    fn step(&mut self, statement: &Statement<'_>) -> Result<()> {
        if self.ours && (stands_alone(statement) || self.bytes >= limits::LOAD_TRANSACTION) {
            self.commit()?;
        }
        if !stands_alone(statement) && !self.task.own.in_transaction() {
            self.task.exec("BEGIN IMMEDIATE")?;
            (self.ours, self.bytes) = (true, 0);
        }
        let deadline = self.task.deadline();
        self.task.own.exec(statement, deadline)?;
        self.done += 1;
        self.bytes += statement.text.len();
        if !self.task.own.in_transaction() {
            self.kept = self.done;
        }
        // All of it is done only when the last transaction is.
        let end = self.offset(statement) + statement.text.len();
        let before_end = end.min(self.sql.len().saturating_sub(1));
        self.task.watch.at(before_end as u64, self.sql.len() as u64)
    }

    fn commit(&mut self) -> Result<()> {
        self.task.exec("COMMIT")?;
        self.ours = false;
        self.kept = self.done;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.ours {
            self.commit()?;
        }
        if self.task.own.in_transaction() {
            return Err(Error::invalid("the script ends inside a transaction that it began"));
        }
        let total = self.sql.len() as u64;
        // There is nothing left to end.
        let _ = self.task.watch.at(total, total);
        Ok(())
    }

    fn offset(&self, statement: &Statement<'_>) -> usize {
        statement.text.as_ptr() as usize - self.sql.as_ptr() as usize
    }

    /// Where it failed and what there is of the script now.
    fn explain(&self, error: Error, at: Option<&Statement<'_>>) -> Error {
        let error = match error.kind() {
            // The transaction was not the caller's, and it is over.
            Kind::TransactionLost => Error::new(Kind::Retry, error.message()),
            _ => error,
        };
        let error = match at {
            Some(statement) => {
                let text: String = statement.text.chars().take(EXCERPT).collect();
                let line = 1 + self.sql[..self.offset(statement)].matches('\n').count();
                error.at(format!("line {line} (statement {}, {text:?})", self.done + 1))
            }
            None => error.at("the end of the script"),
        };
        let open = match error.kind() {
            Kind::Unknown => ", and perhaps those after them",
            _ => "",
        };
        error.with(match self.kept {
            0 if open.is_empty() => "nothing of the script was kept".to_owned(),
            kept => format!("the first {kept} statements were kept{open}"),
        })
    }
}

/// Must not be inside a transaction of ours: it is about transactions, does nothing in one, or is refused in one.
fn stands_alone(statement: &Statement<'_>) -> bool {
    let word = statement.text.split_whitespace().next().unwrap_or_default();
    statement.controls_transaction()
        || statement.kind == Sql::Pragma
        || ["VACUUM", "ATTACH", "DETACH"]
            .iter()
            .any(|alone| word.eq_ignore_ascii_case(alone))
}
