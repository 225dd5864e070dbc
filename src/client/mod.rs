//! Talking to a cluster from outside SQL: who leads, who belongs to it, who joins and leaves.

mod conn;
mod connector;
mod members;

pub(crate) use conn::{Body, Broken, Conn};
pub(crate) use connector::{Connector, Local};
pub(crate) use members::{Client, Member, members};
