//! Whether a connection is inside a transaction, known from the statements that succeeded on it.

use crate::db::sql::Kind;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transaction {
    /// Each statement commits by itself.
    None,
    /// Opened by BEGIN (`explicit`) or by the outermost savepoint.
    Open { explicit: bool, savepoints: Vec<String> },
    /// The connection died inside a transaction: what was done so far is undone, and what would follow must not be
    /// committed alone. Ends with ROLLBACK.
    Lost { reason: String },
}

impl Transaction {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// A statement of this kind succeeded.
    pub(crate) fn advance(&mut self, kind: &Kind<'_>) {
        match kind {
            Kind::Begin => *self = Self::open(true),
            Kind::Commit | Kind::Rollback => *self = Self::None,
            Kind::Savepoint(name) => {
                if !self.is_open() {
                    *self = Self::open(false);
                }
                self.savepoints().push(name.key());
            }
            Kind::Release(name) => {
                let key = name.key();
                let savepoints = self.savepoints();
                if let Some(at) = savepoints.iter().rposition(|known| *known == key) {
                    savepoints.truncate(at);
                }
                if matches!(self, Self::Open { explicit: false, savepoints } if savepoints.is_empty()) {
                    *self = Self::None;
                }
            }
            Kind::RollbackTo(name) => {
                let key = name.key();
                let savepoints = self.savepoints();
                if let Some(at) = savepoints.iter().rposition(|known| *known == key) {
                    savepoints.truncate(at + 1);
                }
            }
            Kind::Read | Kind::Insert | Kind::Change | Kind::Pragma | Kind::Other => {}
        }
    }

    /// The connection is gone.
    pub(crate) fn lose(&mut self, reason: &str) {
        if self.is_open() {
            *self = Self::Lost {
                reason: reason.to_owned(),
            };
        }
    }

    fn open(explicit: bool) -> Self {
        Self::Open {
            explicit,
            savepoints: Vec::new(),
        }
    }

    /// RELEASE and ROLLBACK TO succeed only inside a transaction; if we did not know of it, we know now.
    fn savepoints(&mut self) -> &mut Vec<String> {
        if !self.is_open() {
            *self = Self::open(true);
        }
        match self {
            Self::Open { savepoints, .. } => savepoints,
            _ => unreachable!("opened above"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::sql::statements;

    fn after(script: &str) -> Transaction {
        let mut transaction = Transaction::None;
        for statement in statements(script) {
            transaction.advance(&statement.kind);
        }
        transaction
    }

    #[test]
    fn begin_and_end() {
        assert!(after("BEGIN").is_open());
        assert!(after("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)").is_open());
        assert_eq!(after("BEGIN; COMMIT"), Transaction::None);
        assert_eq!(after("BEGIN; END TRANSACTION"), Transaction::None);
        assert_eq!(after("BEGIN; SAVEPOINT a; ROLLBACK"), Transaction::None);
    }

    #[test]
    fn the_outermost_savepoint_is_a_transaction() {
        assert!(after("SAVEPOINT a").is_open());
        assert!(after("SAVEPOINT a; SAVEPOINT b; RELEASE b").is_open());
        assert_eq!(after("SAVEPOINT a; SAVEPOINT b; RELEASE \"A\""), Transaction::None);
        assert!(after("SAVEPOINT a; ROLLBACK TO a").is_open());
        assert!(after("BEGIN; SAVEPOINT a; RELEASE a").is_open());
        assert!(after("SAVEPOINT a; SAVEPOINT a; RELEASE a").is_open());
    }

    #[test]
    fn only_an_open_transaction_can_be_lost() {
        let mut transaction = after("BEGIN");
        transaction.lose("gone");
        assert_eq!(
            transaction,
            Transaction::Lost {
                reason: "gone".to_owned()
            }
        );
        let mut none = Transaction::None;
        none.lose("gone");
        assert_eq!(none, Transaction::None);
    }
}
