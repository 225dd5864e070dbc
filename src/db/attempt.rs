//! The ways in which a statement is put to the engine and its answer is read. Each is one attempt; what a failed one means
//! for the session is decided in `session`.

use std::time::Instant;

use crate::client::Conn;
use crate::db::bound;
use crate::db::cache::Prepared;
use crate::db::failed::{Failed, ended, not_run, refused, senseless, unread};
use crate::db::part::Part;
use crate::db::session::{Attempt, Changes, Keep, Session, Sink};
use crate::db::sql::{Kind as Sql, Statement};
use crate::error::{Error, Result};
use crate::memory;
use crate::metrics::Count;
use crate::wire::{End, Params, Request, Response, Rows, Value};

impl Session {
    pub(super) fn exec_sql(&mut self, statement: &Statement<'_>, deadline: Instant) -> Attempt<Changes> {
        let request = Request::ExecSql {
            db: 0,
            sql: statement.text.as_bytes(),
            params: Params::NONE,
        };
        let response = self
            .conn()?
            .call(&request, deadline)
            .map_err(|broken| ended(statement, broken))?;
        let changes = changes(&response, statement, "EXEC_SQL")?;
        Ok(self.changed(changes))
    }

    pub(super) fn changed(&self, changes: Changes) -> Changes {
        self.metrics()
            .add(Count::RowsChanged, changes.rows_affected.unsigned_abs());
        changes
    }

    pub(super) fn exec_prepared(
        &mut self,
        statement: &Statement<'_>,
        params: Params<'_>,
        deadline: Instant,
    ) -> Attempt<Changes> {
        let Prepared { db, id: stmt, .. } = self.prepared(statement, deadline)?;
        if statement.rows {
            let request = Request::Query { db, stmt, params };
            fetch(self.conn()?, &request, statement, &mut |rows| drain(rows), deadline)?;
            let changes = self.changes_of(statement, deadline)?;
            return Ok(self.changed(changes));
        }
        let request = Request::Exec { db, stmt, params };
        let response = self
            .conn()?
            .call(&request, deadline)
            .map_err(|broken| ended(statement, broken))?;
        let changes = changes(&response, statement, "EXEC")?;
        Ok(self.changed(changes))
    }

    pub(super) fn first_part(
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
    pub(super) fn fetch_direct(&mut self, statement: &Statement<'_>, sink: Sink<'_>, deadline: Instant) -> Attempt<()> {
        let request = Request::QuerySql {
            db: 0,
            sql: statement.text.as_bytes(),
            params: Params::NONE,
        };
        fetch(self.conn()?, &request, statement, sink, deadline)
    }

    /// PREPARE and QUERY: the way that is safe for a write that yields rows, and that reports every failure.
    pub(super) fn fetch_prepared(
        &mut self,
        statement: &Statement<'_>,
        sink: Sink<'_>,
        deadline: Instant,
    ) -> Attempt<()> {
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

    /// Refuses parameters that are too few or too many.
    pub(super) fn check_count(
        &mut self,
        statement: &Statement<'_>,
        params: Params<'_>,
        deadline: Instant,
    ) -> Attempt<()> {
        let prepared = self.prepared(statement, deadline)?;
        bound::check_count(prepared.parameters, params.len()).map_err(Failed::Refused)
    }

    /// The statement as this connection knows it; nothing of it has run.
    pub(super) fn prepared(&mut self, statement: &Statement<'_>, deadline: Instant) -> Attempt<Prepared> {
        if let Some(prepared) = self.cache.get(statement.text) {
            return Ok(prepared);
        }
        while let Some(Prepared { db, id: stmt, .. }) = self.cache.evict() {
            let request = Request::Finalize { db, stmt };
            self.conn()?
                .call(&request, deadline)
                .map_err(|broken| not_run(&broken))?;
        }
        let text = memory::copy_text(statement.text, "a statement").map_err(Failed::Refused)?;
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
            other => return Err(senseless(&statement.as_read(), "PREPARE", &other)),
        };
        self.cache.insert(text, prepared);
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
        // The write is done and must not look failed because its numbers were lost. They may still come, and must not be taken
        // for the answer to something else.
        if fetch(conn, &request, statement, &mut take, deadline).is_err() {
            self.drop_connection("what a statement changed could not be asked for");
        }
        Ok(found)
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
        Response::Rows(rows) => part
            .describe(&rows)
            .map_err(|error| Failed::Ended(unread(statement, error)))?,
        Response::Failure { code, message } => return Err(refused(statement, code, message)),
        other => return Err(senseless(statement, "a query", &other)),
    }
    conn.take_body(part.body_mut())
        .map_err(|broken| ended(statement, broken))
}

/// The answer to EXEC or EXEC_SQL.
pub(super) fn changes(response: &Response<'_>, statement: &Statement<'_>, request: &str) -> Attempt<Changes> {
    match response {
        Response::Result {
            last_insert_id,
            rows_affected,
        } => Ok(numbers(statement, *last_insert_id, *rows_affected)),
        Response::Failure { code, message } => Err(refused(statement, *code, message)),
        other => Err(senseless(statement, request, other)),
    }
}

/// Sends a query and hands its parts to `sink`.
fn fetch(
    conn: &mut Conn,
    request: &Request<'_>,
    statement: &Statement<'_>,
    sink: Sink<'_>,
    deadline: Instant,
) -> Attempt<()> {
    conn.send(request, deadline)
        .map_err(|broken| ended(statement, broken))?;
    take_rows(conn, statement, sink, deadline)
}

/// Hands the parts of the next answer to `sink`, up to the end word, which alone confirms a write. [protocol 5.1]
pub(super) fn take_rows(conn: &mut Conn, statement: &Statement<'_>, sink: Sink<'_>, deadline: Instant) -> Attempt<()> {
    loop {
        match conn.next_part(deadline).map_err(|broken| ended(statement, broken))? {
            Response::Rows(mut rows) => {
                sink(&mut rows).map_err(|error| Failed::Ended(unread(statement, error)))?;
                if rows.end() == Some(End::Complete) {
                    return Ok(());
                }
            }
            Response::Failure { code, message } => return Err(refused(statement, code, message)),
            other => return Err(senseless(statement, "a query", &other)),
        }
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
