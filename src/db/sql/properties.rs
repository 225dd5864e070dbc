use super::{Kind, Name, statements};
use proptest::prelude::*;

/// What is left of `sql` without blanks, comments and semicolons between tokens, for texts in which
/// no comment, quote, or bracket occurs.
fn significant(sql: &str) -> String {
    sql.chars()
        .filter(|c| !c.is_ascii_whitespace() && *c != '\x0b' && *c != ';')
        .collect()
}

fn any_sql() -> impl Strategy<Value = String> {
    let words = [
        "SELECT",
        "WITH",
        "AS",
        "INSERT",
        "RETURNING",
        "CREATE",
        "TEMP",
        "TRIGGER",
        "BEGIN",
        "END",
        "EXPLAIN",
        "QUERY",
        "PLAN",
        "ROLLBACK",
        "TO",
        "SAVEPOINT",
        "RELEASE",
        "a",
        "temp",
        ".",
        ",",
        ";",
        ";",
        "(",
        ")",
        "'",
        "\"",
        "`",
        "[",
        "]",
        "--",
        "/*",
        "*/",
        "\n",
        " ",
        "x'",
        "$a(",
        ":",
        "1e",
        "-",
        "ü",
        "\u{feff}",
        "\0",
    ];
    let piece = prop_oneof![
        4 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,4}",
        4 => Just(" ".to_owned()),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text_is_split(sql in any_sql()) {
        let mut from = 0;
        for statement in statements(&sql) {
            prop_assert!(!statement.text.is_empty());
            let at = statement.text.as_ptr() as usize - sql.as_ptr() as usize;
            let between = &sql[from..at];
            prop_assert!(statements(between).next().is_none(), "{:?} is lost", between);
            // Sent by itself, it must be what it was called.
            let again: Vec<_> = statements(statement.text).collect();
            let [alone] = &again[..] else { panic!("{} statements", again.len()) };
            prop_assert_eq!(alone.text, statement.text);
            prop_assert_eq!(&alone.kind, &statement.kind);
            prop_assert_eq!(alone.rows, statement.rows);
            prop_assert_eq!(alone.spare, statement.spare);
            prop_assert_eq!(alone.taints, statement.taints);
            from = at + statement.text.len();
        }
        prop_assert!(statements(&sql[from..]).next().is_none(), "{:?} is lost", &sql[from..]);
    }

    #[test]
    fn nothing_but_blanks_is_lost(sql in "[ a-z0-9;,.()\n\t=ü]{0,60}") {
        let joined: String = statements(&sql).map(|s| significant(s.text)).collect();
        prop_assert_eq!(joined, significant(&sql));
    }

    #[test]
    fn any_value_can_be_quoted(value: String, quote in "['\"`]") {
        let quoted = format!("{quote}{}{quote}", value.replace(&quote, &quote.repeat(2)));
        let sql = format!("INSERT INTO t VALUES({quoted});SAVEPOINT {quoted}");
        let found: Vec<_> = statements(&sql).collect();
        prop_assert_eq!(found.len(), 2);
        prop_assert!(!found[0].rows);
        prop_assert_eq!(&found[1].kind, &Kind::Savepoint(Name(&quoted)));
        prop_assert_eq!(Name(&quoted).key(), value.to_ascii_lowercase());
    }
}
