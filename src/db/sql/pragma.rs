//! What a PRAGMA does to its connection.

use crate::db::sql::Name;
use crate::db::sql::token::{Class, Token};

/// What stands behind these is an argument, or is kept in the database.
const HARMLESS: [&str; 15] = [
    "application_id",
    "foreign_key_check",
    "foreign_key_list",
    "incremental_vacuum",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "optimize",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
    "wal_checkpoint",
];

/// A PRAGMA that another connection does not see: one with a value, which is neither an argument nor kept in the database.
pub(super) fn sets_connection<'a>(rest: impl Iterator<Item = Token<'a>>) -> bool {
    let mut name = Name("");
    for token in rest {
        match token.class {
            Class::Word | Class::Quoted => name = Name(token.text),
            Class::Open => return !HARMLESS.contains(&name.key().as_str()),
            Class::Other if token.text == "=" => return !HARMLESS.contains(&name.key().as_str()),
            _ => {}
        }
    }
    false
}
