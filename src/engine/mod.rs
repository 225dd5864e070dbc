//! The C library: one running node, its callbacks into Rust, and nothing of policy.
//!
//! vendor/glue keeps the engine's call order and catches its assertions; here its functions become values with owners.

pub(crate) mod fork;
pub(crate) mod reserve;
pub(crate) mod sqlite;
mod sys;
pub(crate) mod visit;
#[cfg(sanitized)]
mod wrong;

// Nothing of these crates is called from Rust; naming them links their C libraries.
use libuv_sys2 as _;
use lz4_sys as _;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use once_cell::race::OnceBox;
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Kind, Result};
use crate::limits;

/// The id that go-dqlite gives the first node of a cluster: digest("1", 0). [app-behaviour 3.5]
pub(crate) const BOOTSTRAP_ID: u64 = 0x2dc1_7185_8c31_55be;

/// How a node is to run.
pub(crate) struct Options<'a> {
    pub(crate) id: u64,
    pub(crate) address: &'a str,
    pub(crate) dir: &'a Path,
    pub(crate) busy_timeout_ms: u32,
    /// None: the engine's own timers.
    pub(crate) network_latency_ms: Option<u32>,
    pub(crate) auto_recovery: bool,
    pub(crate) snapshot_compression: bool,
    /// None: the engine's own.
    pub(crate) snapshots: Option<Snapshots>,
    pub(crate) block_size: Option<u32>,
    pub(crate) failure_domain: u64,
    pub(crate) weight: u64,
    pub(crate) strangers: visit::Limits,
}

/// When a snapshot is due, and how much of the log stays behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshots {
    threshold: u32,
    trailing: u32,
    strategy: Trailing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trailing {
    /// Always the same number of entries.
    Static,
    /// Fewer, where they outweigh the snapshot.
    Dynamic,
}

impl Snapshots {
    pub(crate) fn new(threshold: u32, trailing: u32, strategy: Trailing) -> Result<Self> {
        let why = if threshold == 0 {
            "a snapshot after every 0 entries cannot be taken; 1 is the least".to_owned()
        } else if trailing < limits::TRAILING {
            format!(
                "{trailing} entries behind a snapshot are too few; {} are the least",
                limits::TRAILING
            )
        } else if trailing < threshold {
            // If the newest snapshot cannot be read, the one before it and the log make up for it.
            format!(
                "{trailing} entries behind a snapshot do not reach back to the one before it, {threshold} entries ago"
            )
        } else {
            return Ok(Self {
                threshold,
                trailing,
                strategy,
            });
        };
        Err(Error::invalid(why))
    }
}

/// What the node starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// From what is on disk; a node without state waits to be added to a cluster.
    AsIs,
    /// As the only member of a new cluster.
    Bootstrap,
}

/// How raft stands on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) leads: bool,
    /// Nothing but the first configuration was ever written, and no session is open.
    pub(crate) blank: bool,
    /// The cluster was founded by this node and never had another member.
    pub(crate) lone: bool,
    /// The leader's id, 0 if none is known.
    pub(crate) leader: u64,
    /// The other voter that has most of this leader's log, 0 if there is none.
    pub(crate) heir: u64,
    /// Bytes of the log that it has not acknowledged.
    pub(crate) heir_lacks: u64,
    pub(crate) term: u64,
    pub(crate) last_index: u64,
    pub(crate) applied_index: u64,
    /// Another number when the list of members is another one.
    pub(crate) configuration: u64,
    /// As the protocol numbers roles; None if the node is no member.
    pub(crate) role: Option<u64>,
    pub(crate) databases: u64,
}

/// How far a member is that catches up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) stage: Stage,
    /// Bytes of a snapshot, or log entries.
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// Where a member that catches up stands; the number is its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A snapshot is being sent to it.
    Sending(u64),
    /// The link broke meanwhile; it is tried again.
    Failed(u64),
    /// It has the snapshot and installs it.
    Installing(u64),
    /// The log entries after it are being sent.
    Following(u64),
    CaughtUp(u64),
    /// This node receives a snapshot.
    Receiving,
    /// This node has it in its database.
    Installed,
}

/// What a member sends on its link; the numbers are raft's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A message without its preamble and its payload.
    Message(u16, &'a [u8]),
    /// An entry of the log.
    Entry(u16, &'a [u8]),
    Snapshot(&'a [u8]),
}

/// What came of dialling a peer.
pub(crate) enum Reach {
    Connected(OwnedFd),
    /// Nobody listens at any of its addresses: its process is gone, or what stands before it.
    Refused,
    /// Anything else, which may be this host's fault.
    Failed,
}

/// Whom the engine asks and tells.
pub(crate) trait Owner: Send + Sync {
    /// The lock on the data directory is held and nothing runs yet: the moment to look at the files and to write them.
    fn prepare(&self) -> Result<Start>;
    /// Called on threads of the engine, several at once.
    fn connect(&self, address: &str) -> Reach;
    /// An assertion struck; called on the thread where it did, so it must only take note.
    fn lost(&self, reason: &str);
    /// A member catches up; called on the engine's own thread, so it must only take note.
    fn progress(&self, progress: &Progress);
    /// Whether this member's message, or part of it, is whole; false ends its link. Called as above.
    fn is_whole(&self, peer: u64, piece: Piece<'_>) -> bool;
    /// A message of this member was left out: it is true of no cluster that is in order. Called as above.
    fn left_out(&self, peer: u64, what: &str);
    /// A part of the log, named here, was left out of a start because it cannot be read. Called as above.
    fn damaged(&self, what: &str);
}

/// A node of the engine, from its start to `stop`.
pub(crate) struct Engine {
    /// None once it was stopped. Requests hold the lock shared, so that none reaches a node that is being stopped.
    node: RwLock<Option<Raw>>,
    callbacks: Mutex<Option<Box<Callbacks>>>,
}

/// The glue's node. Its functions may be called from any thread; that stop comes last is the lock's business.
#[derive(Clone, Copy)]
struct Raw(NonNull<sys::glue_node>);

// SAFETY: the glue takes calls from any thread, see `Raw`.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

struct Callbacks {
    owner: Arc<dyn Owner>,
    /// Why `prepare` refused, with its kind, which does not fit through C.
    refusal: Mutex<Option<Error>>,
    lost: AtomicBool,
}

impl Engine {
    /// Blocks until the engine's loop runs. Nothing of the engine is left behind on failure.
    pub(crate) fn start(options: &Options<'_>, owner: Arc<dyn Owner>) -> Result<Self> {
        let address = c_string(options.address.as_bytes(), "address")?;
        let dir = c_string(options.dir.as_os_str().as_bytes(), "data_dir")?;
        let callbacks = Box::new(Callbacks {
            owner,
            refusal: Mutex::new(None),
            lost: AtomicBool::new(false),
        });
        let raw = sys::glue_options {
            id: options.id,
            address: address.as_ptr(),
            dir: dir.as_ptr(),
            busy_timeout_ms: options.busy_timeout_ms,
            network_latency_ms: options.network_latency_ms.unwrap_or(0),
            failure_domain: options.failure_domain,
            weight: options.weight,
            snapshot_threshold: options.snapshots.map_or(0, |it| it.threshold),
            snapshot_trailing: options.snapshots.map_or(0, |it| it.trailing),
            snapshot_dynamic: options.snapshots.is_some_and(|it| it.strategy == Trailing::Dynamic),
            block_size: options.block_size.unwrap_or(0),
            auto_recovery: options.auto_recovery,
            snapshot_compression: options.snapshot_compression,
            prepare: Some(prepare),
            connect: Some(connect),
            lost: Some(lost),
            progress: Some(progress),
            whole: Some(whole),
            left_out: Some(left_out),
            damaged: Some(damaged),
            data: ptr::from_ref::<Callbacks>(&callbacks).cast_mut().cast(),
            arriving: options.strangers.arriving,
            pause_ms: visit::millis(options.strangers.pause),
            unread_ms: visit::millis(options.strangers.unread),
            unacknowledged_ms: visit::millis(options.strangers.unacknowledged),
            check: Some(visit::check),
            left: Some(visit::left),
        };
        sqlite::make_ready();
        let mut node = ptr::null_mut();
        let mut reason = [0 as c_char; sys::GLUE_ERRMSG_SIZE as usize];
        // SAFETY: all pointers live through the call; the strings are copied by it; `callbacks` is boxed, so its address
        // stays, and it is freed only after stop or never (see `forget_if_lost`).
        let code = unsafe { sys::glue_node_start(&raw, &mut node, reason.as_mut_ptr(), reason.len()) };
        match NonNull::new(node) {
            Some(node) if code == 0 => Ok(Self {
                node: RwLock::new(Some(Raw(node))),
                callbacks: Mutex::new(Some(callbacks)),
            }),
            _ => {
                let refusal = callbacks.refusal.lock().take();
                // SAFETY: the glue terminates the buffer.
                let reason = unsafe { CStr::from_ptr(reason.as_ptr()) }
                    .to_string_lossy()
                    .into_owned();
                forget_if_lost(callbacks);
                Err(refusal.unwrap_or_else(|| Error::internal(reason)))
            }
        }
    }

    /// How raft stands on this node, as its loop says.
    pub(crate) fn inspect(&self, timeout: Duration) -> Result<Status> {
        // SAFETY: an all-zero status is a valid one.
        let mut status: sys::glue_status = unsafe { std::mem::zeroed() };
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let node = self.node.read();
        let Raw(raw) = node.ok_or_else(|| Error::new(Kind::Stopped, "the engine is stopped"))?;
        // SAFETY: the lock keeps the node from being stopped, and the status lives through the call.
        let code = unsafe { sys::glue_node_inspect(raw.as_ptr(), millis, &mut status) };
        if code != 0 {
            let reason = std::io::Error::from_raw_os_error(code);
            return Err(Error::internal(format!(
                "the engine does not say how raft stands: {reason}"
            )));
        }
        Ok(Status {
            leads: status.leads,
            blank: status.blank,
            lone: status.lone,
            leader: status.leader,
            heir: status.heir,
            heir_lacks: status.heir_lacks,
            term: status.term,
            last_index: status.last_index,
            applied_index: status.applied_index,
            configuration: status.configuration,
            role: u64::try_from(status.role).ok(),
            databases: status.databases,
        })
    }

    /// What strangers hear who ask for the members (id, address, role as the protocol numbers them), on a node that the log
    /// does not reach. None: what raft knows.
    pub(crate) fn tell(&self, members: &[(u64, &str, u64)]) -> Result<()> {
        let addresses = members
            .iter()
            .map(|(_, address, _)| c_string(address.as_bytes(), "address"));
        let addresses = addresses.collect::<Result<Vec<_>>>()?;
        let raw: Vec<_> = members
            .iter()
            .zip(&addresses)
            .map(|((id, _, role), address)| sys::glue_member {
                id: *id,
                address: address.as_ptr(),
                role: *role,
            })
            .collect();
        let node = self.node.read();
        let Raw(node) = node.ok_or_else(|| Error::new(Kind::Stopped, "the engine is stopped"))?;
        // SAFETY: the lock keeps the node from being stopped; the members and their addresses are copied.
        match unsafe { sys::glue_node_tell(node.as_ptr(), raw.as_ptr(), raw.len()) } {
            0 => Ok(()),
            code => Err(Error::internal(format!(
                "the engine does not take a list of members: {}",
                std::io::Error::from_raw_os_error(code)
            ))),
        }
    }

    /// The descriptor that holds the lock on the data directory.
    pub(crate) fn lock_fd(&self) -> c_int {
        let node = self.node.read();
        // SAFETY: the lock keeps the node from being stopped.
        node.map_or(-1, |Raw(raw)| unsafe { sys::glue_node_lock_fd(raw.as_ptr()) })
    }

    /// Blocks until the engine has stopped, which takes as long as what it is doing on the disk. A second call finds
    /// nothing to do.
    pub(crate) fn stop(&self) -> Result<()> {
        let (Some(Raw(raw)), Some(callbacks)) = (self.node.write().take(), self.callbacks.lock().take()) else {
            return Ok(());
        };
        // SAFETY: the node was started, and taking it out of the lock made this its last call.
        let code = unsafe { sys::glue_node_stop(raw.as_ptr()) };
        let lost = callbacks.lost.load(Ordering::Acquire);
        forget_if_lost(callbacks);
        if code == 0 || lost {
            return Ok(());
        }
        Err(Error::internal(format!(
            "the engine reported code {code} when it stopped"
        )))
    }
}

/// A job of a lost node may still run and call back, so what it calls back to is never freed.
fn forget_if_lost(callbacks: Box<Callbacks>) {
    if callbacks.lost.load(Ordering::Acquire) {
        Box::leak(callbacks);
    }
}

/// The id for an address whose owner chose none: always the same, never one with a meaning of its own.
pub(crate) fn generate_id(address: &str) -> Result<u64> {
    let address = c_string(address.as_bytes(), "address")?;
    // SAFETY: a pure function of a NUL-terminated string.
    let digest = |salt| unsafe { sys::glue_digest(address.as_ptr(), salt) };
    Ok((0..)
        .map(digest)
        .find(|id| !matches!(*id, 0 | 1 | BOOTSTRAP_ID))
        .unwrap_or(2))
}

/// The version of the engine inside, as major, minor, release.
pub(crate) const VERSION: (u32, u32, u32) = (
    sys::DQLITE_VERSION_MAJOR,
    sys::DQLITE_VERSION_MINOR,
    sys::DQLITE_VERSION_RELEASE,
);

/// The versions of what is inside, for people.
pub(crate) fn version() -> &'static CStr {
    // Two threads may make it at once; none waits for the other, which a forked child would do for ever.
    static TEXT: OnceBox<CString> = OnceBox::new();
    TEXT.get_or_init(|| {
        let (major, minor, release) = VERSION;
        let sqlite = libsqlite3_sys::SQLITE_VERSION.to_string_lossy();
        Box::new(CString::new(format!("dqlite {major}.{minor}.{release}, SQLite {sqlite}")).unwrap_or_default())
    })
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::invalid(format!("{what} contains a NUL byte")))
}

/// # Safety
/// `data` is the pointer that `Engine::start` passed; the glue calls back only between start and the end of stop, or, for
/// a lost node, while the callbacks are leaked.
unsafe fn callbacks<'a>(data: *mut c_void) -> &'a Callbacks {
    // SAFETY: as above.
    unsafe { &*data.cast::<Callbacks>() }
}

unsafe extern "C" fn prepare(data: *mut c_void, reason: *mut c_char, size: usize) -> sys::glue_decision {
    // SAFETY: see `callbacks`.
    let callbacks = unsafe { callbacks(data) };
    let decided = catch_unwind(AssertUnwindSafe(|| callbacks.owner.prepare()))
        .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "preparing the data directory panicked")));
    match decided {
        Ok(Start::AsIs) => sys::GLUE_START,
        Ok(Start::Bootstrap) => sys::GLUE_BOOTSTRAP,
        Err(error) => {
            write_text(error.message(), reason, size);
            *callbacks.refusal.lock() = Some(error);
            sys::GLUE_REFUSE
        }
    }
}

unsafe extern "C" fn connect(data: *mut c_void, address: *const c_char, fd: *mut c_int) -> sys::glue_reach {
    // SAFETY: see `callbacks`; the glue passes a string and a place for the descriptor.
    let (callbacks, address) = unsafe { (callbacks(data), CStr::from_ptr(address)) };
    let connected = catch_unwind(AssertUnwindSafe(|| {
        address.to_str().map(|address| callbacks.owner.connect(address))
    }));
    match connected {
        Ok(Ok(Reach::Connected(socket))) => {
            // SAFETY: as above; the engine owns the descriptor from here on.
            unsafe { fd.write(socket.into_raw_fd()) };
            sys::GLUE_REACHED
        }
        Ok(Ok(Reach::Refused)) => sys::GLUE_REFUSED,
        _ => sys::GLUE_UNREACHED,
    }
}

unsafe extern "C" fn lost(data: *mut c_void, reason: *const c_char) {
    // SAFETY: see `callbacks`; the glue passes a string.
    let (callbacks, reason) = unsafe { (callbacks(data), CStr::from_ptr(reason)) };
    callbacks.lost.store(true, Ordering::Release);
    let _ = catch_unwind(AssertUnwindSafe(|| callbacks.owner.lost(&reason.to_string_lossy())));
}

unsafe extern "C" fn progress(data: *mut c_void, progress: *const sys::glue_progress) {
    // SAFETY: see `callbacks`; the glue passes a whole struct.
    let (callbacks, told) = unsafe { (callbacks(data), &*progress) };
    let stage = match told.stage {
        sys::GLUE_SENDING => Stage::Sending(told.peer),
        sys::GLUE_FAILED => Stage::Failed(told.peer),
        sys::GLUE_INSTALLING => Stage::Installing(told.peer),
        sys::GLUE_FOLLOWING => Stage::Following(told.peer),
        sys::GLUE_CAUGHT_UP => Stage::CaughtUp(told.peer),
        sys::GLUE_RECEIVING => Stage::Receiving,
        _ => Stage::Installed,
    };
    let progress = Progress {
        stage,
        done: told.done,
        total: told.total,
    };
    let _ = catch_unwind(AssertUnwindSafe(|| callbacks.owner.progress(&progress)));
}

unsafe extern "C" fn whole(data: *mut c_void, piece: *const sys::glue_piece) -> bool {
    // SAFETY: see `callbacks`; the glue passes a whole struct.
    let (callbacks, raw) = unsafe { (callbacks(data), &*piece) };
    let bytes = if raw.bytes.is_null() {
        &[]
    } else {
        // SAFETY: the glue passes so many readable bytes.
        unsafe { std::slice::from_raw_parts(raw.bytes, raw.size) }
    };
    let piece = match raw.kind {
        sys::GLUE_MESSAGE => Piece::Message(raw.type_, bytes),
        sys::GLUE_ENTRY => Piece::Entry(raw.type_, bytes),
        _ => Piece::Snapshot(bytes),
    };
    catch_unwind(AssertUnwindSafe(|| callbacks.owner.is_whole(raw.peer, piece))).unwrap_or(false)
}

unsafe extern "C" fn left_out(data: *mut c_void, peer: u64, what: *const c_char) {
    // SAFETY: see `callbacks`; the glue passes a string.
    let (callbacks, what) = unsafe { (callbacks(data), CStr::from_ptr(what)) };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        callbacks.owner.left_out(peer, &what.to_string_lossy());
    }));
}

unsafe extern "C" fn damaged(data: *mut c_void, what: *const c_char) {
    // SAFETY: see `callbacks`; the glue passes a string.
    let (callbacks, what) = unsafe { (callbacks(data), CStr::from_ptr(what)) };
    let _ = catch_unwind(AssertUnwindSafe(|| callbacks.owner.damaged(&what.to_string_lossy())));
}

fn write_text(text: &str, to: *mut c_char, size: usize) {
    let bytes: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != 0)
        .take(size.saturating_sub(1))
        .collect();
    if size > 0 {
        // SAFETY: the glue passes a buffer of `size` bytes; at most `size - 1` and the terminator are written.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, bytes.len());
            to.add(bytes.len()).write(0);
        }
    }
}
