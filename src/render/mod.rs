//! Rows and figures as text for those who read JSON or collect metrics. Where they come from is not its business.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod json;
pub(crate) mod metrics;
mod number;
mod text;
mod time;

pub(crate) use json::{JsonArray, members};
pub(crate) use time::sql_time;
