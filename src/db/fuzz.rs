//! Any text as SQL: its statements follow one another in it, whole, and nothing else is lost between them.

use super::sql::{parameters, statements};

pub(crate) fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let base = text.as_ptr() as usize;
    let mut end = 0;
    for statement in statements(text) {
        let start = statement.text.as_ptr() as usize - base;
        assert!(start >= end, "statements overlap");
        assert!(!statement.text.is_empty());
        // Only blanks, comments and semicolons stand between two statements.
        assert!(
            statements(&text[end..start]).next().is_none(),
            "text between two statements"
        );
        end = start + statement.text.len();

        // A statement by itself is one statement, and is taken for the same.
        let mut alone = statements(statement.text);
        let again = alone.next();
        assert!(again.as_ref().is_some_and(|again| again.text == statement.text));
        assert!(again.is_some_and(|again| again.kind == statement.kind && again.rows == statement.rows));
        assert!(alone.next().is_none(), "one statement became two");
        let _ = (
            parameters(statement.text),
            statement.taints_session(),
            statement.controls_transaction(),
        );
    }
    assert!(
        statements(&text[end..]).next().is_none(),
        "text behind the last statement"
    );
}
