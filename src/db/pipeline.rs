//! Requests that are sent ahead of their answers: inside a transaction the round trip is most of what a statement costs.
//!
//! One of them may end the transaction (ON CONFLICT ROLLBACK, a full disk, an interrupt), and those behind it, which are on
//! their way, would commit alone: each says that it is to run inside a transaction only.

use std::time::Instant;

use crate::client::Conn;
use crate::db::attempt::{changes, take_rows};
use crate::db::cache::Prepared;
use crate::db::failed::{Failed, code, ended, may_end_transaction, not_run};
use crate::db::session::{Attempt, Changes, Session, Sets};
use crate::db::sql::{Statement, statements};
use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::{Call, Count};
use crate::wire::{Malformed, Params, Request, Response, Rows, Value, When};

/// Whether foreign keys are checked at the commit.
const DEFERS: &str = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE sql LIKE '%DEFERRED%')";

/// Statements that ran in a transaction of their own, which is open still.
#[derive(Default)]
pub(super) struct Begun {
    /// None for one that did not run.
    pub(super) answers: Vec<Option<Result<Changes>>>,
    /// What they break is found at the commit only, and together one could make good what another one breaks.
    pub(super) defers_checks: bool,
}

impl Session {
    /// Runs a statement once for each set of parameters, inside a transaction that the caller has opened and takes back
    /// after an error. The sum of the rows affected.
    pub(super) fn exec_many(
        &mut self,
        statement: &Statement<'_>,
        sets: Sets<'_, '_>,
        deadline: Instant,
    ) -> Result<i64> {
        self.run(statement, deadline, |session| {
            if statement.rows || !session.is_conditional(deadline)? {
                session.one_by_one(statement, sets, deadline)
            } else {
                session.pipeline(statement, sets, deadline)
            }
        })
    }

    /// Begins a transaction and runs statements in it, none of which yields rows. None, and nothing was done, if this leader
    /// does not heed conditions.
    pub(super) fn begin_with(&mut self, all: &[Statement<'_>], deadline: Instant) -> Result<Option<Begun>> {
        let Some(begin) = statements("BEGIN IMMEDIATE").next() else {
            return Ok(None);
        };
        if !self.attempts(&begin.as_read(), deadline, |session| session.is_conditional(deadline))? {
            return Ok(None);
        }
        let began = Instant::now();
        let begun = self.run(&begin, deadline, |session| session.begin_ahead(&begin, all, deadline))?;
        for answer in begun.answers.iter().flatten() {
            self.metrics().call(Call::Write, began.elapsed(), answer.as_ref().err());
        }
        let ended = |answer: &Option<Result<Changes>>| match answer {
            Some(Ok(_)) => false,
            Some(Err(error)) => may_end_transaction(error),
            None => true,
        };
        if begun.answers.iter().any(ended) {
            self.ask_transaction(deadline);
        }
        Ok(Some(begun))
    }

    fn begin_ahead(&mut self, begin: &Statement<'_>, all: &[Statement<'_>], deadline: Instant) -> Attempt<Begun> {
        // It may be another leader than the one that was asked, and would run them without the transaction.
        if !self.is_conditional(deadline)? {
            self.exec_sql(begin, deadline)?;
            return Ok(Begun {
                answers: vec![None; all.len()],
                defers_checks: false,
            });
        }
        let conn = self.conn()?;
        let broken = |broken| ended(begin, broken);
        conn.queue(&exec_sql(begin.text), When::Always).map_err(broken)?;
        let (sql, params) = (DEFERS.as_bytes(), Params::NONE);
        let defers = Request::QuerySql { db: 0, sql, params };
        conn.queue(&defers, When::Always).map_err(broken)?;
        for statement in all {
            conn.queue(&exec_sql(statement.text), When::InTransaction)
                .map_err(broken)?;
        }
        conn.flush("EXEC_SQL", deadline).map_err(broken)?;
        // All answers are read, whatever they say, so that the connection can go on.
        let response = conn.answer("EXEC_SQL", deadline).map_err(broken)?;
        let opened = changes(&response, begin, "EXEC_SQL");
        let defers_checks = defers_checks(conn, begin, deadline)?;
        let mut answers = Vec::with_capacity(all.len());
        for statement in all {
            let response = conn.answer("EXEC_SQL", deadline).map_err(broken)?;
            answers.push(match changes(&response, statement, "EXEC_SQL") {
                Ok(changes) => Some(Ok(changes)),
                Err(Failed::Refused(error)) => Some(Err(error)),
                // The transaction was over, for one.
                Err(Failed::NotRun(_) | Failed::Misreported) => None,
                Err(failed) => return Err(failed),
            });
        }
        opened?;
        for changes in answers.iter().flatten().flatten() {
            self.changed(*changes);
        }
        Ok(Begun { answers, defers_checks })
    }

    fn one_by_one(&mut self, statement: &Statement<'_>, sets: Sets<'_, '_>, deadline: Instant) -> Attempt<i64> {
        let mut total = 0_i64;
        for set in sets {
            let changes = self.exec_prepared(statement, Params::new(&set), deadline)?;
            total = total.saturating_add(changes.rows_affected);
        }
        Ok(total)
    }

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
                let request = Request::Exec { db, stmt, params };
                if let Err(broken) = conn.queue(&request, When::InTransaction) {
                    (sent, failed) = (0, Some(ended(statement, broken)));
                    break;
                }
                sent += 1;
            }
            if sent == 0 {
                break;
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
                    Err(failure @ (Failed::Ended(_) | Failed::Woken { .. })) => return Err(failure),
                    Err(failure) => failed = failed.or(Some(failure)),
                }
            }
        }
        self.metrics().add(Count::RowsChanged, total.unsigned_abs());
        failed.map_or(Ok(total), Err)
    }

    /// Whether the server runs a statement under a condition only. Asked once for each connection, with a statement that
    /// always fails and a condition that does not hold: who heeds it does not find the statement.
    fn is_conditional(&mut self, deadline: Instant) -> Attempt<bool> {
        if let Some(known) = self.conditional {
            return Ok(known);
        }
        let when = if self.is_inside() {
            When::OutsideTransaction
        } else {
            When::InTransaction
        };
        let conn = self.conn()?;
        let answer = conn
            .queue(&exec_sql("RELEASE dqlitepy_nowhere"), when)
            .and_then(|()| conn.flush("EXEC_SQL", deadline))
            .and_then(|()| conn.answer("EXEC_SQL", deadline))
            .map_err(|broken| not_run(&broken))?;
        let heeded = matches!(
            answer,
            Response::Failure {
                code: code::NOT_OPEN,
                ..
            }
        );
        self.conditional = Some(heeded);
        Ok(heeded)
    }
}

fn exec_sql(sql: &str) -> Request<'_> {
    Request::ExecSql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::NONE,
    }
}

/// The answer to DEFERS.
fn defers_checks(conn: &mut Conn, begin: &Statement<'_>, deadline: Instant) -> Attempt<bool> {
    let mut found = true;
    let mut take = |rows: &mut Rows<'_>| {
        let garbled = |fault: Malformed| Error::internal(fault.to_string());
        while rows.next_row().map_err(garbled)? {
            found = rows.next_value().map_err(garbled)? != Value::Integer(0);
        }
        Ok(())
    };
    match take_rows(conn, begin, &mut take, deadline) {
        Ok(()) => Ok(found),
        Err(Failed::Refused(_) | Failed::NotRun(_) | Failed::Misreported) => Ok(true),
        Err(failed) => Err(failed),
    }
}
