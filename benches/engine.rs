//! The floor for clients from outside: the engine as it is in the library, but listening on TCP by itself, without the
//! door. `engine DIRECTORY [ID]` prints its address and runs until standard input ends; an id beyond 1 waits to be added to
//! the cluster of another one.
#![allow(clippy::unwrap_used)]

// Links the engine, and what the link arguments (--wrap) reach.
use dqlitepy as _;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::ptr;
use std::sync::OnceLock;

#[allow(
    dead_code,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    clippy::use_self,
    clippy::undocumented_unsafe_blocks
)]
mod sys {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

static ADDRESS: OnceLock<CString> = OnceLock::new();

unsafe extern "C" {
    fn __real_dqlite_node_set_bind_address(node: *mut c_void, address: *const c_char) -> c_int;
}

/// The glue asks for an abstract socket; build.rs sends its call here.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_dqlite_node_set_bind_address(node: *mut c_void, _abstract: *const c_char) -> c_int {
    // SAFETY: the node is the glue's, and the address is never freed.
    unsafe { __real_dqlite_node_set_bind_address(node, ADDRESS.get().unwrap().as_ptr()) }
}

extern "C" fn prepare(_: *mut c_void, _: *mut c_char, _: usize) -> sys::glue_decision {
    sys::GLUE_BOOTSTRAP
}

extern "C" fn wait(_: *mut c_void, _: *mut c_char, _: usize) -> sys::glue_decision {
    sys::GLUE_START
}

extern "C" fn connect(_: *mut c_void, address: *const c_char, fd: *mut c_int) -> sys::glue_reach {
    // SAFETY: the glue passes a text with its NUL.
    let address = unsafe { CStr::from_ptr(address) }.to_str().unwrap();
    let Ok(stream) = TcpStream::connect(address) else {
        return sys::GLUE_UNREACHED;
    };
    stream.set_nodelay(true).unwrap();
    // SAFETY: the glue passes a place for the socket, and closes it.
    unsafe { *fd = stream.into_raw_fd() };
    sys::GLUE_REACHED
}

extern "C" fn lost(_: *mut c_void, _: *const c_char) {}

fn main() {
    let Some(dir) = std::env::args().nth(1).filter(|arg| !arg.starts_with('-')) else {
        eprintln!("usage: engine DIRECTORY [ID]");
        return;
    };
    std::fs::create_dir_all(&dir).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = ADDRESS.get_or_init(|| CString::new(free.to_string()).unwrap());
    let dir = CString::new(dir).unwrap();
    // SAFETY: a struct of C, whose numbers and pointers may all be zero: the engine's own settings.
    let mut options: sys::glue_options = unsafe { std::mem::zeroed() };
    options.id = std::env::args().nth(2).map_or(1, |id| id.parse().unwrap());
    options.address = address.as_ptr();
    options.dir = dir.as_ptr();
    options.busy_timeout_ms = 5000;
    options.auto_recovery = true;
    options.snapshot_compression = true;
    options.prepare = Some(if options.id == 1 { prepare } else { wait });
    options.connect = Some(connect);
    options.lost = Some(lost);
    let mut node = ptr::null_mut();
    let mut reason = [0; 600];
    // SAFETY: the options and what they point to live until the end of main, the buffer has the size that is said.
    let rc = unsafe { sys::glue_node_start(&raw const options, &raw mut node, reason.as_mut_ptr(), reason.len()) };
    // SAFETY: the glue ends the reason with a NUL.
    assert_eq!(rc, 0, "{:?}", unsafe { CStr::from_ptr(reason.as_ptr()) });
    println!("{free}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    // SAFETY: the node was started above and is stopped once.
    unsafe { sys::glue_node_stop(node) };
}
