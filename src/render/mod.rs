//! Rows as text for those who read JSON. Where the rows come from is not its business.

mod json;
mod time;

pub(crate) use json::{JsonArray, members};
pub(crate) use time::sql_time;
