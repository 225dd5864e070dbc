//! A SQLite file into the database: the tables, their rows in transactions of bounded size, then all that would have been
//! in their way.

use std::path::Path;

use crate::db::backup::plan::{Plan, Table};
use crate::db::backup::{Task, check};
use crate::db::sql::statements;
use crate::db::value::{Owned, check_total};
use crate::engine::sqlite::{Access, Cell, Cursor, SqliteFile};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::memory;
use crate::wire::Value;

pub(super) fn load(task: &mut Task<'_>, source: &Path) -> Result<()> {
    let file = SqliteFile::open(source, Access::Foreign)?;
    let nothing = |error: Error| error.at(source.display()).with("nothing was loaded");
    // One state of the file, whoever writes to it meanwhile.
    file.run("BEGIN").map_err(nothing)?;
    task.watch.at(0, 0).map_err(nothing)?;
    let plan = task.watch.over(&file, || {
        check(&file)?;
        Plan::read(&file)
    });
    let plan = plan.map_err(nothing)?;
    refuse_what_is_there(task, &plan).map_err(nothing)?;
    let mut load = Load {
        task,
        file: &file,
        plan: &plan,
        open: false,
        bytes: 0,
        done: Stand::default(),
        kept: Stand::default(),
    };
    load.run().map_err(|error| load.explain(error).at(source.display()))
}

/// Nothing that exists may be changed.
fn refuse_what_is_there(task: &mut Task<'_>, plan: &Plan) -> Result<()> {
    let there = task.texts("SELECT name FROM sqlite_schema")?;
    let twice: Vec<&str> = plan
        .names()
        .filter(|name| there.iter().any(|known| known.eq_ignore_ascii_case(name)))
        .collect();
    if !twice.is_empty() {
        return Err(Error::misuse(format!(
            "the database {:?} already has {}: load into another database, or drop them first",
            task.own.database(),
            twice.join(", ")
        )));
    }
    for (pragma, number) in plan.numbers.iter().filter(|(_, number)| *number != 0) {
        let known = task.texts(&format!("PRAGMA {pragma}"))?.pop().unwrap_or_default();
        if known != "0" && known != number.to_string() {
            return Err(Error::misuse(format!(
                "the database {:?} has {pragma} {known} and the file {number}: set one of them to the other first",
                task.own.database()
            )));
        }
    }
    Ok(())
}

/// How far it is.
#[derive(Clone, Default)]
struct Stand {
    rows: u64,
    tables: usize,
    rest: usize,
}

struct Load<'t, 'a> {
    task: &'t mut Task<'a>,
    file: &'t SqliteFile,
    plan: &'t Plan,
    /// A transaction is open, and so many bytes are in it.
    open: bool,
    bytes: usize,
    done: Stand,
    /// The same as of the last commit.
    kept: Stand,
}

/// Rows that go out together, and which of their columns are texts that travel as blobs.
#[derive(Default)]
struct Batch {
    rows: Vec<Vec<Owned>>,
    as_blob: Vec<bool>,
    bytes: usize,
}

impl Load<'_, '_> {
    fn run(&mut self) -> Result<()> {
        for table in &self.plan.tables {
            self.exec(&table.object.sql)
                .map_err(|error| error.at(&table.object.name))?;
            self.done.tables += 1;
        }
        for table in &self.plan.tables {
            self.rows(table).map_err(|error| error.at(&table.object.name))?;
        }
        self.sequences()?;
        for object in &self.plan.rest {
            self.exec(&object.sql).map_err(|error| error.at(&object.name))?;
            self.done.rest += 1;
            // An index is as large as its table. What is small altogether stays one transaction.
            if self.kept.tables > 0 {
                self.commit()?;
            }
            self.tell()?;
        }
        for (pragma, number) in self.plan.numbers.iter().filter(|(_, number)| *number != 0) {
            self.exec(&format!("PRAGMA {pragma} = {number}"))?;
        }
        self.commit()?;
        let rows = self.plan.rows();
        // There is nothing left to end.
        let _ = self.task.watch.at(rows, rows);
        Ok(())
    }

    fn tell(&mut self) -> Result<()> {
        let total = self.plan.rows();
        // All of it is done only when the last transaction is.
        self.task.watch.at(self.done.rows.min(total.saturating_sub(1)), total)
    }

    fn rows(&mut self, table: &Table) -> Result<()> {
        let mut found = self.file.query(&table.select())?;
        let mut batch = Batch::default();
        while found.step()? {
            let (row, as_blob) = read(&mut found, table.columns.len())?;
            if !batch.rows.is_empty() && (batch.is_full() || batch.as_blob != as_blob) {
                self.insert(table, &batch)?;
                batch = Batch::default();
            }
            batch.bytes += size(&row);
            batch.as_blob = as_blob;
            batch.rows.push(row);
        }
        self.insert(table, &batch)
    }

    fn insert(&mut self, table: &Table, batch: &Batch) -> Result<()> {
        if batch.rows.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let sql = table.insert(&batch.as_blob);
        for row in batch.rows.iter().filter(|_| batch.bytes > limits::LOAD_BATCH) {
            check_total(row, &sql)?;
        }
        let deadline = self.task.deadline();
        let mut sets = batch.rows.iter().map(|row| row.iter().map(Owned::as_value).collect());
        if let Some(statement) = statements(&sql).next() {
            self.task.own.exec_many(&statement, &mut sets, deadline)?;
        }
        self.bytes += batch.bytes;
        self.done.rows += batch.rows.len() as u64;
        if self.bytes >= limits::LOAD_TRANSACTION {
            self.commit()?;
        }
        self.tell()
    }

    /// The largest number that AUTOINCREMENT has given in each table, which may be above the largest one there.
    fn sequences(&mut self) -> Result<()> {
        if !self.plan.sequences {
            return Ok(());
        }
        let mut found = self.file.query("SELECT name, seq FROM sqlite_sequence")?;
        while found.step()? {
            let (row, as_blob) = read(&mut found, 2)?;
            let known = |name: &[u8]| {
                self.plan
                    .tables
                    .iter()
                    .any(|table| table.object.name.as_bytes() == name)
            };
            let [Owned::Text(name), seq] = row.as_slice() else {
                continue;
            };
            if !known(name) || as_blob.contains(&true) {
                continue;
            }
            self.begin()?;
            let name = Value::Text(name);
            self.change("DELETE FROM sqlite_sequence WHERE name = ?", vec![name])?;
            self.change(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
                vec![name, seq.as_value()],
            )?;
        }
        Ok(())
    }

    fn change(&mut self, sql: &str, values: Vec<Value<'_>>) -> Result<()> {
        let deadline = self.task.deadline();
        let mut sets = std::iter::once(values);
        match statements(sql).next() {
            Some(statement) => self.task.own.exec_many(&statement, &mut sets, deadline).map(drop),
            None => Ok(()),
        }
    }

    fn exec(&mut self, sql: &str) -> Result<()> {
        self.begin()?;
        self.bytes += sql.len();
        self.task.exec(sql).map(drop)
    }

    fn begin(&mut self) -> Result<()> {
        if self.open {
            return Ok(());
        }
        // The rows come as they are, in whatever order. It has no effect inside a transaction, and a new connection, after
        // the old one was lost, does not have it.
        self.task.exec("PRAGMA foreign_keys = OFF")?;
        self.task.exec("BEGIN IMMEDIATE")?;
        (self.open, self.bytes) = (true, 0);
        if self.task.texts("PRAGMA foreign_keys")?.pop().as_deref() == Some("0") {
            return Ok(());
        }
        Err(Error::new(Kind::Retry, "the leader changed between two transactions"))
    }

    fn commit(&mut self) -> Result<()> {
        if self.open {
            self.task.exec("COMMIT")?;
            self.open = false;
            self.kept = self.done.clone();
        }
        Ok(())
    }

    /// What there is of the file in the database now.
    fn explain(&self, error: Error) -> Error {
        let error = match error.kind() {
            // The transaction was not the caller's, and it is over.
            Kind::TransactionLost => Error::new(Kind::Retry, error.message()),
            _ => error,
        };
        let Stand { rows, tables, rest } = self.kept;
        let unknown = error.kind() == Kind::Unknown;
        if tables == 0 && !unknown {
            return error.with("nothing was loaded");
        }
        let perhaps = if unknown { ", perhaps more" } else { "" };
        error.with(format!(
            "kept were {tables} of {} tables, {rows} of {} rows, {rest} of {} indexes, views and triggers{perhaps}: drop \
             them before the next attempt",
            self.plan.tables.len(),
            self.plan.rows(),
            self.plan.rest.len()
        ))
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes >= limits::LOAD_BATCH || self.rows.len() >= limits::LOAD_ROWS
    }
}

/// The row that `found` is at, and which of its values are texts with a NUL: they travel as blobs.
fn read(found: &mut Cursor<'_>, columns: usize) -> Result<(Vec<Owned>, Vec<bool>)> {
    let mut as_blob = vec![false; columns];
    let mut row = Vec::with_capacity(columns);
    for (column, blob) in as_blob.iter_mut().enumerate() {
        row.push(match found.cell(column)? {
            Cell::Null => Owned::Null,
            Cell::Integer(number) => Owned::Integer(number),
            Cell::Real(number) => Owned::Real(number),
            Cell::Blob(bytes) => Owned::Blob(memory::copy(bytes, "a value")?),
            Cell::Text(bytes) if memchr::memchr(0, bytes).is_some() => {
                *blob = true;
                Owned::Blob(memory::copy(bytes, "a value")?)
            }
            Cell::Text(bytes) => Owned::Text(memory::copy(bytes, "a value")?),
        });
    }
    Ok((row, as_blob))
}

fn size(row: &[Owned]) -> usize {
    row.iter()
        .map(|value| match value {
            Owned::Text(bytes) | Owned::Blob(bytes) | Owned::Time(bytes) => bytes.len() + 16,
            _ => 8,
        })
        .sum()
}
