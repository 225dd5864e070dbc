//! What bindgen reads from vendor/glue/glue.h and dqlite.h.

#![allow(
    non_camel_case_types,
    non_upper_case_globals,
    dead_code,
    unreachable_pub,
    clippy::all
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
