//! What can be asked of a queue, and what comes of it.

use std::sync::Arc;

use crate::client::{Cancel, Connector, WakeSlot, cancelled};
use crate::db::{BoundStatement, Changes, PreparedStatement, ResultRows, SharedSession};
use crate::error::{Error, Kind, Result};
use crate::limits::{self, Timeout};
use crate::node::Node;

/// A request with everything that it needs; nothing of it is the caller's any more.
pub(crate) enum Work {
    OpenOnNode(Arc<Node>, String),
    OpenAt(Arc<Connector>, String),
    /// SQL of any number of statements.
    Script(Arc<SharedSession>, String),
    Select(Arc<SharedSession>, String),
    Prepare(Arc<SharedSession>, String),
    Exec(BoundStatement),
    Query(BoundStatement),
    Batch(BoundStatement),
    LoadRows(Arc<ResultRows>),
    CloseRows(Arc<ResultRows>),
    CloseSession(Arc<SharedSession>),
}

/// What a request gave.
pub(crate) enum Outcome {
    Done,
    Changed(Changes),
    Session(SharedSession),
    /// The statement, if the text held one, and where the next one begins.
    Prepared(Option<PreparedStatement>, usize),
    Rows(ResultRows),
}

/// What a request can be ended by.
pub(super) struct Reins {
    cancel: Arc<Cancel>,
    session: Option<Arc<SharedSession>>,
    /// Of the session that is being opened.
    opening: Arc<WakeSlot>,
}

impl Work {
    /// The session whose order it keeps.
    pub(super) fn session(&self) -> Option<&Arc<SharedSession>> {
        match self {
            Self::OpenOnNode(..) | Self::OpenAt(..) => None,
            Self::Script(session, _) | Self::Select(session, _) | Self::Prepare(session, _) => Some(session),
            Self::Exec(bound) | Self::Query(bound) | Self::Batch(bound) => Some(bound.session()),
            Self::LoadRows(rows) | Self::CloseRows(rows) => Some(rows.session()),
            Self::CloseSession(session) => Some(session),
        }
    }

    /// It gives something back, which has to be done in any case.
    pub(super) fn closes(&self) -> bool {
        matches!(self, Self::CloseRows(_) | Self::CloseSession(_))
    }

    pub(super) fn run(self, reins: &Reins) -> Result<Outcome> {
        let session = self.session().cloned();
        let done = reins.cancel.cover(|| self.call(reins));
        let Some(session) = session else { return done };
        done.map_err(|error| {
            let error = match error.kind() {
                // It was open when the request was made.
                Kind::Misuse if session.is_closed() => Error::new(Kind::Shutdown, error.message()),
                _ => error,
            };
            session.note(&error);
            error
        })
    }

    fn call(self, reins: &Reins) -> Result<Outcome> {
        let opening = || Arc::clone(&reins.opening);
        let changed = |rows_affected| {
            Outcome::Changed(Changes {
                last_insert_id: 0,
                rows_affected,
            })
        };
        match self {
            Self::OpenOnNode(node, name) => node.open_session(&name, opening()).map(Outcome::Session),
            Self::OpenAt(connector, name) => {
                SharedSession::open(&name, connector, opening(), Timeout::new(&limits::NODE_CALL)).map(Outcome::Session)
            }
            Self::Script(session, sql) => session.exec(&sql).map(Outcome::Changed),
            Self::Select(session, sql) => session.query(&sql).map(loaded),
            Self::Prepare(session, sql) => session
                .prepare(&sql)
                .map(|(found, tail)| Outcome::Prepared(found, tail)),
            Self::Exec(bound) => bound.exec().map(Outcome::Changed),
            Self::Query(bound) => bound.query().map(loaded),
            Self::Batch(bound) => bound.exec_batch().map(changed),
            Self::LoadRows(rows) => rows.load().map(|()| Outcome::Done),
            Self::CloseRows(rows) => rows.close().map(|()| Outcome::Done),
            Self::CloseSession(session) => {
                session.close();
                Ok(Outcome::Done)
            }
        }
    }
}

/// Whoever took them from a queue does not want to wait for the rest either.
fn loaded(rows: ResultRows) -> Outcome {
    rows.never_wait();
    Outcome::Rows(rows)
}

impl Reins {
    pub(super) fn of(work: &Work) -> Self {
        Self {
            cancel: Arc::default(),
            session: work.session().cloned(),
            opening: Arc::default(),
        }
    }

    /// Ends the request, whether it runs or will.
    pub(super) fn pull(&self) {
        match &self.session {
            Some(session) => session.wake().cancel(&self.cancel),
            None => self.opening.close(cancelled()),
        }
    }

    /// What a request gave that was ended too late for it to notice.
    pub(super) fn judge(&self, outcome: Result<Outcome>) -> Result<Outcome> {
        match outcome {
            Ok(Outcome::Session(session)) => self.opening.check().map(|()| Outcome::Session(session)),
            outcome => outcome,
        }
    }
}
