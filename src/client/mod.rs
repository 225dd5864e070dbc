//! Talking to a cluster from outside SQL: who leads, who belongs to it, who joins and leaves, who votes.
//!
//! | file | holds |
//! | --- | --- |
//! | `conn` | one connection: a request, its response |
//! | `connector`, `search` | finding the leader, unless whoever asked gives up |
//! | `wake` | ending the calls of a handle from another thread |
//! | `members` | a client's calls |
//! | `change` | one change of the members, made for certain |
//! | `probe` | who of the members is there |
//! | `roles` | who should vote and who should stand by: the algorithm alone |
//! | `manage` | roles as a node of this process deals, takes and hands them over |

mod change;
mod conn;
mod connector;
#[cfg(test)]
pub(crate) mod fake_tests;
mod manage;
mod members;
mod probe;
mod roles;
mod search;
mod wake;

pub(crate) use conn::{Body, Broken, Conn, Incoming};
pub(crate) use connector::{Connector, Local, who_leads};
pub(crate) use manage::{adjust_once, give_lead_away, handover};
pub(crate) use members::{Client, Member, members};
pub(crate) use roles::Targets;
pub(crate) use wake::{Cancel, Wake, WakeSlot, cancelled, interrupted};

pub(crate) use crate::wire::Role;
