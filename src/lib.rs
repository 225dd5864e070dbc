//! dqlite behind a C ABI. docs/design.md draws the house; `ffi` is its front side, and calls go one way:
//! ffi -> handle -> queue -> node -> db -> client -> wire -> net, with the door beside and the engine at the bottom.

mod client;
mod db;
mod door;
mod engine;
mod error;
mod ffi;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handle;
mod limits;
mod log;
mod memory;
mod metrics;
#[cfg(test)]
#[path = "../benches/micro.rs"]
mod micro;
mod net;
mod node;
mod queue;
mod render;
mod wire;
