//! The door with real sockets, in front of stand-ins for the engine, and of the engine.

mod arrivals;
mod flow;
mod harness;
mod limits;
mod live;
mod live_limits;
mod requests;

pub(super) use harness::alone;
