//! What there is to load in a SQLite file.

use crate::db::shared::quoted;
use crate::engine::sqlite::{Cursor, SqliteFile};
use crate::error::{Error, Result};

/// Names of the hidden key of a row; a column of that name hides it.
const ROWIDS: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// The content of a file, in the order in which it is loaded: tables, their rows, the rest.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) tables: Vec<Table>,
    /// Indexes, then views, then triggers, which must not fire while rows are loaded.
    pub(super) rest: Vec<Object>,
    /// The file has tables with AUTOINCREMENT.
    pub(super) sequences: bool,
    /// The numbers in the header of the file, as pragmas: user_version and application_id.
    pub(super) numbers: Vec<(&'static str, i64)>,
}

pub(super) struct Object {
    pub(super) name: String,
    pub(super) sql: String,
}

pub(super) struct Table {
    pub(super) object: Object,
    /// What is read and written: the columns that are not computed, and the row's hidden key if it has one.
    pub(super) columns: Vec<String>,
    pub(super) rows: u64,
}

impl Plan {
    pub(super) fn read(file: &SqliteFile) -> Result<Self> {
        let mut plan = Self::default();
        refuse_virtual(file)?;
        let mut found = file.query(
            "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL
             ORDER BY type = 'trigger', type = 'view', type = 'index', rowid",
        )?;
        while found.step()? {
            let (kind, name, sql) = (found.text(0)?, found.text(1)?, found.text(2)?);
            match kind.as_str() {
                "table" if name == "sqlite_sequence" => plan.sequences = true,
                // The statistics of ANALYZE are made anew where they are wanted.
                _ if name.starts_with("sqlite_") => {}
                "table" => plan.tables.push(Table::read(file, Object { name, sql })?),
                _ => plan.rest.push(Object { name, sql }),
            }
        }
        for pragma in ["user_version", "application_id"] {
            plan.numbers
                .push((pragma, first_number(&mut file.query(&format!("PRAGMA {pragma}"))?)?));
        }
        Ok(plan)
    }

    /// The names that the database must not have yet.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let tables = self.tables.iter().map(|table| table.object.name.as_str());
        tables.chain(self.rest.iter().map(|object| object.name.as_str()))
    }

    pub(super) fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

impl Table {
    fn read(file: &SqliteFile, object: Object) -> Result<Self> {
        let table = quoted(&object.name);
        let rows = first_number(&mut file.query(&format!("SELECT count(*) FROM {table}"))?)?;
        Ok(Self {
            columns: columns(file, &table)?,
            rows: rows.unsigned_abs(),
            object,
        })
    }

    pub(super) fn select(&self) -> String {
        format!("SELECT {} FROM {}", self.columns.join(", "), quoted(&self.object.name))
    }

    /// The statement for rows in which the columns of `as_blob` are texts that only a blob can carry.
    pub(super) fn insert(&self, as_blob: &[bool]) -> String {
        let value = |blob: &bool| if *blob { "CAST(? AS TEXT)" } else { "?" };
        let values: Vec<&str> = as_blob.iter().map(value).collect();
        format!(
            "INSERT INTO {} ({}) VALUES ({})",
            quoted(&self.object.name),
            self.columns.join(", "),
            values.join(", ")
        )
    }
}

/// The columns of a table as they are written in SQL.
fn columns(file: &SqliteFile, table: &str) -> Result<Vec<String>> {
    let mut columns = Vec::new();
    let mut all = Vec::new();
    let mut keys = 0;
    let mut integer_key = false;
    let mut found = file.query(&format!("PRAGMA table_xinfo({table})"))?;
    while found.step()? {
        let (name, kind) = (found.text(1)?, found.text(2)?);
        if found.integer(5)? > 0 {
            keys += 1;
            integer_key = kind.eq_ignore_ascii_case("INTEGER");
        }
        // Others are computed.
        if found.integer(6)? == 0 {
            columns.push(quoted(&name));
        }
        all.push(name);
    }
    let hidden = ROWIDS
        .into_iter()
        .find(|rowid| !all.iter().any(|name| name.eq_ignore_ascii_case(rowid)));
    // An integer primary key is the row's key itself.
    if let Some(rowid) = hidden.filter(|_| keys != 1 || !integer_key)
        && has_rowid(file, table)?
    {
        columns.insert(0, rowid.to_owned());
    }
    Ok(columns)
}

fn has_rowid(file: &SqliteFile, table: &str) -> Result<bool> {
    let mut found = file.query(&format!("PRAGMA main.table_list({table})"))?;
    Ok(found.step()? && found.integer(4)? == 0)
}

fn refuse_virtual(file: &SqliteFile) -> Result<()> {
    let mut found = file.query("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND rootpage = 0")?;
    if !found.step()? {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the file has the virtual table {:?}, which cannot be loaded row by row: drop it, or write its content into an \
         ordinary table first",
        found.text(0)?
    )))
}

fn first_number(found: &mut Cursor<'_>) -> Result<i64> {
    if found.step()? { found.integer(0) } else { Ok(0) }
}
