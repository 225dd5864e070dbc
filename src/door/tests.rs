//! The door with real sockets, in front of stand-ins for the engine.

mod flow;
mod harness;
mod limits;
mod requests;

pub(super) use harness::alone;
