//! Writers that wait for one another are committed together: what a commit costs is then shared by all of them.
//!
//! Who finds the session busy leaves a ticket. One of those who wait leads: when the session is free it takes all tickets,
//! its own among them, and gives each its result. Nobody hears of a success before the commit.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::db::session::{Changes, Session};
use crate::db::sql::{Kind as Sql, Statement, statements};
use crate::error::{Error, Kind, Result};
use crate::limits;

/// A statement that waits.
pub(super) struct Ticket {
    sql: Box<str>,
    turn: Mutex<Option<Turn>>,
    told: Condvar,
}

/// What becomes of who waits.
pub(super) enum Turn {
    /// It takes all tickets, when it has the session.
    Lead,
    /// Who led has run its statement.
    Done(Result<Changes>),
}

/// Those who wait for one session.
#[derive(Default)]
pub(super) struct Group(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Vec<Arc<Ticket>>,
    /// One of them leads.
    led: bool,
}

/// Whether the text is a single statement that changes rows and yields none: it can be committed with others.
pub(super) fn groups(sql: &str) -> bool {
    // What fits no group need not be copied for one.
    if sql.len() > limits::GROUP_BYTES {
        return false;
    }
    let mut all = statements(sql);
    let fits = |statement: &Statement<'_>| {
        matches!(statement.kind, Sql::Insert | Sql::Change) && !statement.rows && !statement.taints_session()
    };
    all.next().is_some_and(|first| fits(&first)) && all.next().is_none()
}

impl Group {
    pub(super) fn waits(&self) -> bool {
        self.0.lock().led
    }

    pub(super) fn join(&self, sql: &str) -> Arc<Ticket> {
        let mut queue = self.0.lock();
        let leads = !std::mem::replace(&mut queue.led, true);
        let ticket = Arc::new(Ticket {
            sql: sql.into(),
            turn: Mutex::new(leads.then_some(Turn::Lead)),
            told: Condvar::new(),
        });
        queue.waiting.push(Arc::clone(&ticket));
        ticket
    }

    /// Waits until the ticket's holder has to lead, or has its result; None if the deadline passed and nothing was done.
    pub(super) fn wait(&self, ticket: &Arc<Ticket>, deadline: Instant) -> Option<Turn> {
        let turn = ticket.wait(deadline);
        if turn.is_some() || self.leave(ticket) {
            return turn;
        }
        // Its statement is under way, on somebody else's call, whose deadline may be later.
        Some(ticket.wait(deadline + limits::GROUP_GRACE).unwrap_or_else(|| {
            Turn::Done(Err(Error::new(
                Kind::Unknown,
                "no answer before the deadline: it is not known whether the statement was applied",
            )))
        }))
    }

    /// Those who wait, as many as one transaction shall hold, `own` among them. The others, and who comes from now on, wait
    /// for the next leader.
    pub(super) fn take(&self, own: &Arc<Ticket>, deadline: Instant) -> Vec<Arc<Ticket>> {
        let mut queue = self.0.lock();
        // In the order in which they came, behind the one that has to be among them.
        queue.waiting.sort_by_key(|ticket| !Arc::ptr_eq(ticket, own));
        let mut bytes = 0;
        // Who has waited long has little time left, and the others' statements would run within it.
        let hurried = deadline < Instant::now() + limits::GROUP_TIME;
        let most = if hurried { 1 } else { limits::GROUP };
        let fits = queue.waiting.iter().take(most).take_while(|ticket| {
            bytes += ticket.sql.len();
            bytes <= limits::GROUP_BYTES
        });
        let count = fits.count().max(1).min(queue.waiting.len());
        let taken = queue.waiting.drain(..count).collect();
        queue.led = !queue.waiting.is_empty();
        if let Some(next) = queue.waiting.first() {
            next.tell(Turn::Lead);
        }
        taken
    }

    /// Who leads cannot: another one of those who wait does.
    pub(super) fn resign(&self, ticket: &Arc<Ticket>) {
        *ticket.turn.lock() = Some(Turn::Lead);
        self.leave(ticket);
    }

    /// False if it was taken already.
    fn leave(&self, ticket: &Arc<Ticket>) -> bool {
        let mut queue = self.0.lock();
        let Some(at) = queue.waiting.iter().position(|other| Arc::ptr_eq(other, ticket)) else {
            return false;
        };
        queue.waiting.remove(at);
        if matches!(*ticket.turn.lock(), Some(Turn::Lead)) {
            match queue.waiting.first() {
                Some(next) => next.tell(Turn::Lead),
                None => queue.led = false,
            }
        }
        true
    }
}

impl Ticket {
    fn tell(&self, turn: Turn) {
        *self.turn.lock() = Some(turn);
        self.told.notify_one();
    }

    fn wait(&self, deadline: Instant) -> Option<Turn> {
        let mut turn = self.turn.lock();
        while turn.is_none() && !self.told.wait_until(&mut turn, deadline).timed_out() {}
        turn.take()
    }
}

/// Runs the statements of the tickets and tells each holder; the result of `own` is returned.
pub(super) fn serve(
    session: &mut Session,
    tickets: &[Arc<Ticket>],
    own: &Arc<Ticket>,
    deadline: Instant,
) -> Result<Changes> {
    let sqls: Vec<&str> = tickets.iter().map(|ticket| &*ticket.sql).collect();
    let mut mine = Err(Error::internal("the leader of a group has no result"));
    for (ticket, result) in tickets.iter().zip(run(session, &sqls, deadline)) {
        if Arc::ptr_eq(ticket, own) {
            mine = result;
        } else {
            ticket.tell(Turn::Done(result));
        }
    }
    mine
}

pub(super) fn run(session: &mut Session, sqls: &[&str], deadline: Instant) -> Vec<Result<Changes>> {
    let together = sqls.len() > 1 && !session.in_transaction() && !session.is_tainted();
    let mut results = if together {
        commit_together(session, sqls, deadline)
    } else {
        vec![None; sqls.len()]
    };
    results
        .iter_mut()
        .zip(sqls)
        .map(|(result, sql)| result.take().unwrap_or_else(|| exec(session, sql, deadline)))
        .collect()
}

/// The results of those statements that have one; the others had no effect and have to run alone.
fn commit_together(session: &mut Session, sqls: &[&str], deadline: Instant) -> Vec<Option<Result<Changes>>> {
    let none = vec![None; sqls.len()];
    let all: Vec<_> = sqls.iter().flat_map(|sql| statements(sql)).collect();
    let begun = match session.begin_with(&all, deadline) {
        Ok(Some(begun)) => begun,
        // The database is locked by others: the wait for it was everybody's.
        Err(error) if error.kind() == Kind::Sql => return vec![Some(Err(error)); sqls.len()],
        Ok(None) | Err(_) => return none,
    };
    let whole = session.is_inside() && begun.answers.iter().all(Option::is_some);
    if !whole || begun.defers_checks {
        session.take_back(deadline);
        return none;
    }
    match exec(session, "COMMIT", deadline) {
        Ok(_) => begun.answers,
        // Refused, or not even asked.
        Err(error) if session.is_inside() || error.kind() == Kind::TransactionLost => {
            session.take_back(deadline);
            none
        }
        Err(error) => {
            session.take_back(deadline);
            let failed = |done: Result<Changes>| done.and(Err(error.clone()));
            begun.answers.into_iter().map(|answer| answer.map(failed)).collect()
        }
    }
}

fn exec(session: &mut Session, sql: &str, deadline: Instant) -> Result<Changes> {
    let mut changes = Changes::default();
    for statement in statements(sql) {
        changes = session.exec(&statement, deadline)?;
    }
    Ok(changes)
}
