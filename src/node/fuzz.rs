//! Any bytes as a node's file, to its port, and as SQL for it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::{Client, Role};
use crate::engine::Status;
use crate::error::Kind;
use crate::wire::Request;

use super::files;
use super::{Config, Node};

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
        Self::with(|_| ())
    }

    /// With a member besides, which never was there.
    fn of_two() -> Option<Self> {
        // Whoever passes for a leader is soon forgotten.
        let live = Self::with(|config| config.options.network_latency_ms = Some(4))?;
        let own = crate::net::parse_csv(&live.address).ok()?;
        let nowhere = crate::net::Address::parse_peer(NOWHERE, "address").ok()?;
        Client::new(own).add(ABSENT, &nowhere).ok()?;
        Some(live)
    }

    fn with(prepare: fn(&mut Config)) -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("dqlitepy-fuzz-{}-{number}", std::process::id()));
        let address = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.to_string();
        let node = Node::new(1, &address, dir.to_str()?, Vec::new()).ok()?;
        node.configure(|config| {
            config.options.call_timeout.set(LIMIT_MS);
            prepare(config);
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
    fn was_changed(&self, members: &[(u64, Role)]) -> bool {
        let now = self.node.running().map(|running| running.instance.members());
        matches!(now, Ok(Ok(now)) if !now.iter().map(|it| (it.id, it.role)).eq(members.iter().copied()))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.node.destroy();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// One node for each of these targets, so that they can be replayed in one process.
static PORT: Mutex<Option<Live>> = Mutex::new(None);
static STATEMENT: Mutex<Option<Live>> = Mutex::new(None);
static LINK: Mutex<Option<Live>> = Mutex::new(None);

/// Who is listed and absent in the last one.
const ABSENT: u64 = 2;
const NOWHERE: &str = "127.0.0.1:1";

/// Ends the nodes and removes what they wrote.
#[cfg(test)]
pub(crate) fn close() {
    *PORT.lock() = None;
    *STATEMENT.lock() = None;
    *LINK.lock() = None;
}

/// `run` says whether the node can go on.
fn with_node(place: &Mutex<Option<Live>>, new: fn() -> Option<Live>, run: impl FnOnce(&Live) -> bool) {
    let mut place = place.lock();
    if place.as_ref().is_some_and(|live| live.inputs >= INPUTS_EACH) {
        *place = None;
    }
    // On a busy machine what makes it may take longer than an input may.
    let began = Instant::now();
    while place.is_none() && began.elapsed() < PATIENCE {
        *place = new();
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
    with_node(&PORT, Live::new, |live| {
        let bytes = match start % 3 {
            0 => rest.to_vec(),
            1 => [VERSION, rest].concat(),
            _ => [VERSION, OPEN, rest].concat(),
        };
        talk(&live.address, &bytes);
        let goes_on = !live.was_changed(&[(1, Role::Voter)]);
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
    let _ = stream.write_all(bytes);
    read_to_end(&mut stream);
}

fn read_to_end(stream: &mut TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(LIMIT_MS.into())));
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
    with_node(&STATEMENT, Live::new, |live| {
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

/// What comes on a link of a member behind CONNECT: its messages, as the input makes them up.
pub(crate) fn link(data: &[u8]) {
    const MOST: usize = 20;
    with_node(&LINK, Live::of_two, |live| {
        let Ok(instance) = live.node.running().map(|running| Arc::clone(&running.instance)) else {
            return false;
        };
        let Ok(mut stream) = TcpStream::connect(&live.address) else {
            panic!("the node's port is closed");
        };
        let mut bytes = 1_u64.to_le_bytes().to_vec();
        Request::Connect {
            id: ABSENT,
            address: NOWHERE.as_bytes(),
        }
        .encode(&mut bytes);
        let mut rest = Input(data);
        for _ in 0..MOST {
            if stream.write_all(&bytes).is_err() || rest.0.is_empty() {
                break;
            }
            let Ok(status) = instance.status() else { break };
            bytes = rest.message(&status);
        }
        read_to_end(&mut stream);
        if let Err(lost) = instance.watch().check() {
            panic!("{lost}");
        }
        let goes_on = !live.was_changed(&[(1, Role::Voter), (ABSENT, Role::Spare)]);
        if goes_on {
            live.check_alive();
        }
        goes_on
    });
}

/// What the input says, and nothing behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    /// Mostly one that means something to the node at this moment.
    fn number(&mut self, near: u64) -> u64 {
        match self.byte() % 4 {
            0 => near,
            1 => near.wrapping_add_signed(i64::from(self.byte().cast_signed())),
            2 => u64::from(self.byte()),
            _ => {
                let mut word = self.bytes(8);
                word.resize(8, 0);
                word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
            }
        }
    }

    /// An entry, a configuration or a snapshot; perhaps with another byte somewhere.
    fn content(&mut self) -> Vec<u8> {
        /// The node as the voter, and the other one.
        const MEMBERS: &[u8] =
            b"\x01\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\0\x01\x02\0\0\0\0\0\0\x00127.0.0.1:1\0\x02\0\0\0\0\0";
        const PAGES: &[u8] = b"\x01\x02\0\0\0\0\0\0other.db\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0\x10\0\0\x02\0\0\0\0\0\0\0";
        let (choice, mut content) = (self.byte(), vec![0; 8]);
        match choice % 5 {
            0 => {
                let count = self.byte();
                content = self.bytes(count.into());
            }
            1 => content = MEMBERS.to_vec(),
            2 => {
                content = PAGES.to_vec();
                content.resize(content.len() + 4096, 0);
            }
            3 => content = words(&[1, 0]),
            _ => {}
        }
        if choice >= 128 {
            let at = usize::from(self.byte());
            let byte = self.byte();
            if let Some(place) = content.get_mut(at) {
                *place = byte;
            }
        }
        content
    }

    fn message(&mut self, now: &Status) -> Vec<u8> {
        let kind = self.byte() % 8;
        let words = match kind {
            0 => return self.bytes(usize::MAX),
            1 => return self.entries(now),
            2 => vec![
                self.number(now.term),
                self.number(0),
                self.number(now.last_index),
                self.number(1),
            ],
            3 => vec![
                self.number(now.term + 1),
                self.number(ABSENT),
                self.number(now.last_index),
                self.number(now.term),
                self.number(1),
            ],
            4 => vec![self.number(now.term), self.number(1), self.number(1)],
            5 => return self.snapshot(now),
            6 => vec![
                self.number(now.term),
                self.number(now.last_index),
                self.number(now.term),
            ],
            _ => {
                let (kind, length) = (self.number(1), self.number(40));
                let count = self.byte();
                return [words(&[kind, length]), self.bytes(count.into())].concat();
            }
        };
        framed(kind.into(), &self::words(&words), &[])
    }

    fn entries(&mut self, now: &Status) -> Vec<u8> {
        let count = self.byte() % 4;
        let term = self.number(now.term + 1);
        let (index, before) = (self.number(now.last_index), self.number(now.term));
        let mut header = words(&[
            term,
            index,
            before,
            self.number(now.last_index),
            self.number(count.into()),
        ]);
        let mut contents = Vec::new();
        for _ in 0..count {
            let content = self.content();
            let (term, kind) = (self.number(term), self.byte());
            let length = self.number(content.len() as u64);
            header.extend(words(&[term, u64::from(kind) | length << 32]));
            contents.extend(content);
        }
        framed(1, &header, &contents)
    }

    fn snapshot(&mut self, now: &Status) -> Vec<u8> {
        let term = self.number(now.term + 1);
        let (last, last_term) = (self.number(now.last_index + 1), self.number(now.term));
        let mut header = words(&[term, last, last_term, self.number(1)]);
        let (configuration, data) = (self.content(), self.content());
        header.extend(words(&[self.number(configuration.len() as u64)]));
        header.extend(configuration);
        header.extend(words(&[self.number(data.len() as u64)]));
        framed(5, &header, &data)
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn framed(kind: u64, header: &[u8], payload: &[u8]) -> Vec<u8> {
    [&words(&[kind, header.len() as u64]), header, payload].concat()
}
