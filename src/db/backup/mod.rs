//! Whole databases out and in: a copy as a SQLite file, and SQLite files and scripts back.
//!
//! Each runs on a connection of its own, so that neither settings nor a large buffer at the leader outlive it. There is no
//! limit of time on the whole; each step has the session's.

mod dump;
mod file;
mod plan;
mod script;

use std::path::Path;
use std::time::Instant;

use crate::client::Broken;
use crate::db::session::{Changes, Session};
use crate::db::shared::SharedSession;
use crate::db::sql::statements;
use crate::engine::sqlite::SqliteFile;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::wire::{Rows, Value};

/// Is told how much of how much is done; false ends the operation.
pub(crate) type Report<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

impl SharedSession {
    /// Writes the database as it is at some moment of the call to the file `target`.
    pub(crate) fn dump(&self, target: &Path, report: Report<'_>) -> Result<()> {
        self.aside(report, |task| dump::dump(task, target))
    }

    /// Loads everything in the SQLite file `source` into the database.
    pub(crate) fn load_file(&self, source: &Path, report: Report<'_>) -> Result<()> {
        self.aside(report, |task| {
            task.check_alone()?;
            file::load(task, source)
        })
    }

    /// Runs a script.
    pub(crate) fn load_script(&self, sql: &str, report: Report<'_>) -> Result<()> {
        self.aside(report, |task| {
            task.check_alone()?;
            script::load(task, sql)
        })
    }

    fn aside<T>(&self, report: Report<'_>, body: impl FnOnce(&mut Task<'_>) -> Result<T>) -> Result<T> {
        self.call(|core, _| {
            body(&mut Task {
                session: self,
                inside: core.in_transaction(),
                own: core.sibling(),
                watch: Watch {
                    session: self,
                    report,
                    told: None,
                    stand: (0, 0),
                },
            })
        })
    }
}

/// A long operation.
struct Task<'a> {
    session: &'a SharedSession,
    /// The session is inside a transaction of its own.
    inside: bool,
    own: Session,
    watch: Watch<'a>,
}

impl Task<'_> {
    /// The next step has to be done by then.
    fn deadline(&self) -> Instant {
        self.session.deadline()
    }

    /// A load waits for the write lock, and must not do so for its own session.
    fn check_alone(&self) -> Result<()> {
        if self.inside {
            return Err(Error::misuse(
                "the session is inside a transaction, which a load cannot be part of: commit it or roll it back first",
            ));
        }
        Ok(())
    }

    fn exec(&mut self, sql: &str) -> Result<Changes> {
        let deadline = self.deadline();
        match statements(sql).next() {
            Some(statement) => self.own.exec(&statement, deadline),
            None => Ok(Changes::default()),
        }
    }

    /// The first column of the rows of a query, as text.
    fn texts(&mut self, sql: &str) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        let mut take = |rows: &mut Rows<'_>| take_texts(rows, &mut texts);
        let deadline = self.deadline();
        if let Some(statement) = statements(sql).next() {
            self.own.query(&statement, &mut take, deadline)?;
        }
        Ok(texts)
    }

    /// Why no answer came.
    fn broken(&self, broken: Broken) -> Error {
        match self.session.wake().check() {
            Err(why) => why,
            Ok(()) => broken.into_error(),
        }
    }
}

fn take_texts(rows: &mut Rows<'_>, into: &mut Vec<String>) -> Result<()> {
    let garbled = |fault: crate::wire::Malformed| Error::internal(format!("the rows make no sense: {fault}"));
    while rows.next_row().map_err(garbled)? {
        for column in 0..rows.columns() {
            let value = rows.next_value().map_err(garbled)?;
            if column == 0 {
                into.push(match value {
                    Value::Text(bytes) | Value::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    Value::Integer(number) => number.to_string(),
                    _ => String::new(),
                });
            }
        }
    }
    Ok(())
}

/// Whom a long operation tells how far it is, and who may end it.
struct Watch<'a> {
    session: &'a SharedSession,
    report: Report<'a>,
    told: Option<Instant>,
    stand: (u64, u64),
}

impl Watch<'_> {
    /// So much is done. An error if the rest is not wanted any more.
    fn at(&mut self, done: u64, total: u64) -> Result<()> {
        self.stand = (done, total);
        self.session.wake().check()?;
        let often = self.told.is_some_and(|told| told.elapsed() < limits::REPORT);
        if often && done != total {
            return Ok(());
        }
        self.told = Some(Instant::now());
        if (self.report)(done, total) {
            return Ok(());
        }
        Err(Error::new(Kind::Interrupted, "ended by the progress callback"))
    }

    /// Reads a file in a way that takes long without any progress to tell.
    fn over<T>(&mut self, file: &SqliteFile, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut why = None;
        let (done, total) = self.stand;
        let mut stop = || match self.at(done, total) {
            Ok(()) => false,
            Err(error) => {
                why = Some(error);
                true
            }
        };
        let found = file.stoppable(&mut stop, body);
        why.map_or(found, Err)
    }
}

/// Checks that a file is a whole database.
fn check(file: &SqliteFile) -> Result<()> {
    // A row that breaks a CHECK is data, not damage.
    file.run("PRAGMA ignore_check_constraints = ON")?;
    let mut found = file.query("PRAGMA quick_check(1)")?;
    let verdict = if found.step()? { found.text(0)? } else { String::new() };
    if verdict == "ok" {
        return Ok(());
    }
    Err(Error::invalid(format!("the database is damaged: {verdict}")))
}
