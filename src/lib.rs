//! dqlite behind a C ABI. docs/design.md draws the house; `ffi` is its front side, and calls go one way:
//! ffi -> handle -> node -> client | db -> wire -> net, with the engine at the bottom.

mod engine;
mod error;
