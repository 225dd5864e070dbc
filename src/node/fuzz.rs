//! Any bytes as a node's file, to its port, and as SQL for it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::Role;
use crate::error::Kind;

use super::Node;
use super::files;

/// The text of info.yaml or cluster.yaml: what is read and written again reads the same.
pub(crate) fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(entries) = files::parse(text) {
        // A line break cannot be written; it cannot be read either.
        assert!(entries.iter().all(|entry| !entry.address.contains('\n')));
        let written = files::sequence(&entries);
        assert_eq!(files::parse(&written).ok(), Some(entries), "{written:?}");
    }
}

/// How long one input may keep the node, and how many of them one node takes: what they leave in it adds up.
const LIMIT_MS: u32 = 500;
const PATIENCE: Duration = Duration::from_secs(10);
const INPUTS_EACH: u64 = 5000;

/// A node that runs, with its address and its directory.
struct Live {
    node: Node,
    address: String,
    dir: PathBuf,
    inputs: u64,
}

impl Live {
    fn new() -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("dqlitepy-fuzz-{}-{number}", std::process::id()));
        let address = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.to_string();
        let node = Node::new(1, &address, dir.to_str()?, Vec::new()).ok()?;
        node.configure(|config| {
            config.options.call_timeout.set(LIMIT_MS);
            Ok(())
        })
        .ok()?;
        node.start().ok()?;
        node.open_db("test.db").ok()?;
        node.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b, c BOOLEAN, d DATETIME)")
            .ok()?;
        node.exec("INSERT INTO t VALUES (1, 'x', 1, '2024-01-02'), (2, NULL, NULL, NULL), (3, x'00', 'y', 1.5)")
            .ok()?;
        Some(Self {
            node,
            address,
            dir,
            inputs: 0,
        })
    }

    /// It serves, at the latest when what was interrupted has ended.
    fn check_alive(&self) {
        let began = Instant::now();
        while let Err(error) = self.node.query("SELECT 1") {
            assert!(began.elapsed() < PATIENCE, "the node does not serve any more: {error}");
        }
    }

    /// Nobody else writes, so nobody holds the lock.
    fn check_lock(&self) {
        let began = Instant::now();
        while let Err(error) = self.node.exec("BEGIN IMMEDIATE; ROLLBACK") {
            // Another one is the input's doing, which may have set the connection to read only.
            let locked = error.to_string().contains("database is locked");
            assert!(
                !locked || began.elapsed() < PATIENCE,
                "the write lock is never given back: {error}"
            );
            if !locked {
                return;
            }
        }
    }

    /// Clients may change the members, and then it cannot be told what the node still owes.
    fn was_changed(&self) -> bool {
        let members = self.node.running().map(|running| running.instance.members());
        matches!(members, Ok(Ok(members)) if members.len() != 1 || members.iter().any(|it| it.role != Role::Voter))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.node.destroy();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// One node for each of the two targets, so that they can be replayed in one process.
static PORT: Mutex<Option<Live>> = Mutex::new(None);
static STATEMENT: Mutex<Option<Live>> = Mutex::new(None);

/// Ends the nodes and removes what they wrote.
#[cfg(test)]
pub(crate) fn close() {
    *PORT.lock() = None;
    *STATEMENT.lock() = None;
}

/// `run` says whether the node can go on.
fn with_node(place: &Mutex<Option<Live>>, run: impl FnOnce(&Live) -> bool) {
    let mut place = place.lock();
    if place.as_ref().is_some_and(|live| live.inputs >= INPUTS_EACH) {
        *place = None;
    }
    // On a busy machine what makes it may take longer than an input may.
    let began = Instant::now();
    while place.is_none() && began.elapsed() < PATIENCE {
        *place = Live::new();
    }
    let Some(live) = place.as_mut() else {
        panic!("no node could be started");
    };
    live.inputs += 1;
    if !run(live) {
        *place = None;
    }
}

/// What a stranger sends to the node's address. The first byte says where it begins: at the very start, behind a good
/// version word, or behind OPEN.
pub(crate) fn port(data: &[u8]) {
    const VERSION: &[u8] = &[1, 0, 0, 0, 0, 0, 0, 0];
    const OPEN: &[u8] = b"\x04\0\0\0\x03\0\0\0test.db\0\0\0\0\0\0\0\0\0volatile\0\0\0\0\0\0\0\0";
    let Some((start, rest)) = data.split_first() else {
        return;
    };
    with_node(&PORT, |live| {
        let bytes = match start % 3 {
            0 => rest.to_vec(),
            1 => [VERSION, rest].concat(),
            _ => [VERSION, OPEN, rest].concat(),
        };
        talk(&live.address, &bytes);
        let goes_on = !live.was_changed();
        if goes_on {
            live.check_alive();
        }
        goes_on
    });
}

/// Sends everything, says that it was all, and reads what comes until the node closes or is silent for long.
fn talk(address: &str, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(address) else {
        panic!("the node's port is closed");
    };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(LIMIT_MS.into())));
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = [0; 4096];
    let mut left = 1 << 20;
    while left > 0
        && let Ok(count @ 1..) = stream.read(&mut answer)
    {
        left -= count.min(left);
    }
}

/// SQL, by query and by exec.
pub(crate) fn statement(data: &[u8]) {
    // `ffi` takes no text with a NUL.
    let Ok(sql) = std::str::from_utf8(data) else { return };
    if sql.contains('\0') {
        return;
    }
    with_node(&STATEMENT, |live| {
        if let Ok(json) = live.node.query(sql) {
            assert!(std::str::from_utf8(&json).is_ok());
        }
        let _ = live.node.exec(sql);
        // Without a transaction it is refused, by a node that serves.
        if live.node.exec("ROLLBACK").is_err_and(|error| error.kind() != Kind::Sql) {
            live.check_alive();
        }
        live.check_lock();
        true
    });
}
