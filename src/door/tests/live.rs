//! The door with the engine behind it: what strangers may do once the engine serves them.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::harness::*;
use crate::door::{Door, Limits};
use crate::engine::{self, Engine, Progress, Reach, Start, visit};
use crate::error::Result;
use crate::wire::{Header, Params, Request};

const SHORT: Duration = Duration::from_millis(150);

/// FAILURE, ROWS and their like, as the protocol numbers answers.
const FAILURE: u8 = 0;
const DB: u8 = 4;
pub(super) const RESULT: u8 = 6;
pub(super) const ROWS: u8 = 7;

struct Owner;

impl engine::Owner for Owner {
    fn prepare(&self) -> Result<Start> {
        Ok(Start::Bootstrap)
    }

    fn connect(&self, _: &str) -> Reach {
        Reach::Failed
    }

    fn lost(&self, reason: &str) {
        eprintln!("{reason}");
    }

    fn progress(&self, _: &Progress) {}

    fn is_whole(&self, _: u64, _: engine::Piece<'_>) -> bool {
        true
    }

    fn left_out(&self, _: u64, _: &str) {}

    fn damaged(&self, _: &str) {}
}

/// An engine that leads itself, and its door.
pub(super) struct Live {
    pub(super) door: Door,
    at: SocketAddr,
    engine: Arc<Engine>,
    dir: PathBuf,
}

impl Live {
    pub(super) fn new(limits: Limits) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("dqlitepy-door-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let options = engine::Options {
            id: 1,
            address: "127.0.0.1:9001",
            dir: &dir,
            busy_timeout_ms: 1000,
            network_latency_ms: None,
            auto_recovery: true,
            snapshot_compression: true,
            snapshots: None,
            block_size: None,
            failure_domain: 0,
            weight: 0,
            strangers: visit::Limits {
                arriving: limits.arriving,
                pause: limits.pause,
                unread: limits.unread,
                unacknowledged: Duration::from_secs(30),
            },
        };
        let engine = Arc::new(Engine::start(&options, Arc::new(Owner)).unwrap());
        let server = Arc::clone(&engine);
        let (door, at) = open(
            Box::new(move |socket, first, check| server.take(socket, first, check)),
            limits,
        );
        let live = Self { door, at, engine, dir };
        wait_until("it leads", || {
            live.engine.inspect(PATIENCE).is_ok_and(|status| status.leads)
        });
        live
    }

    fn client(&self) -> TcpStream {
        client(self.at)
    }

    /// A client with a database open.
    pub(super) fn opened(&self) -> TcpStream {
        Self::open(self.client())
    }

    /// The same by the socket beside the port.
    pub(super) fn neighbour(&self) -> TcpStream {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let name = format!("\0dqlitepy/{}", self.at);
        socket.connect(&SockAddr::unix(name).unwrap()).unwrap();
        // Of either kind it is a descriptor to read from and write to.
        let client = TcpStream::from(OwnedFd::from(socket));
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::open(client)
    }

    fn open(mut client: TcpStream) -> TcpStream {
        let open = Request::Open {
            name: b"test.db",
            flags: 0,
            vfs: b"volatile",
        };
        client.write_all(&hello(&[open])).unwrap();
        assert_eq!(answer(&mut client).0, DB);
        client
    }

    pub(super) fn refused(&self) -> u64 {
        self.door.stats().refused
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.door.close();
        let began = Instant::now();
        self.engine.stop().unwrap();
        assert!(began.elapsed() < PATIENCE, "the engine's stop took long");
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub(super) fn answer(client: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 8];
    client.read_exact(&mut head).unwrap();
    let header = Header::parse(&head);
    let mut body = vec![0; usize::try_from(header.body_len()).unwrap()];
    client.read_exact(&mut body).unwrap();
    (header.kind, body)
}

pub(super) fn ask(client: &mut TcpStream, request: Request<'_>) -> u8 {
    client.write_all(&frames(&[request])).unwrap();
    answer(client).0
}

pub(super) fn query(sql: &str) -> Request<'_> {
    Request::QuerySql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::NONE,
    }
}

/// So many rows of a kilobyte and a little.
pub(super) fn kilobytes(count: usize) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT hex(zeroblob(512)) FROM n"
    )
}

/// Reads all parts of a result; how many bytes they were.
pub(super) fn read_rows(client: &mut TcpStream) -> usize {
    let mut total = 0;
    loop {
        let (kind, body) = answer(client);
        assert_eq!(kind, ROWS);
        total += body.len();
        // The last word says whether more parts follow.
        if body.ends_with(&[0xff; 8]) {
            return total;
        }
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_client_that_vanishes_in_an_answer_leaves_nothing_behind() {
    alone(
        "tests::live::a_client_that_vanishes_in_an_answer_leaves_nothing_behind",
        || {
            let live = Live::new(Limits::default());
            drop(live.opened());
            wait_until("the door forgets it", || live.door.stats().open == 0);
            let before = descriptors();
            for reset in [false, true] {
                let mut client = live.opened();
                client.write_all(&frames(&[query(&kilobytes(96 << 10))])).unwrap();
                client.read_exact(&mut [0; 1000]).unwrap();
                SockRef::from(&client)
                    .set_linger(reset.then_some(Duration::ZERO))
                    .unwrap();
                drop(client);
                wait_until("the engine and the door close it", || {
                    live.door.stats().open == 0 && descriptors() == before
                });
            }
        },
    );
}

#[test]
fn a_refusal_never_overtakes_an_answer() {
    let live = Live::new(Limits::default());
    let mut client = live.opened();
    let bad = raw(1, 77, 0, &[0; 100_000]);
    client
        .write_all(&[frames(&[query(&kilobytes(8 << 10)), query("SELECT 1")]), bad].concat())
        .unwrap();
    // Bytes that nobody reads: closing over them would throw away what is on its way.
    client.write_all(&[0; 200_000]).unwrap();
    assert_eq!(live.refused(), 0);
    assert!(read_rows(&mut client) > 8 << 20);
    read_rows(&mut client);
    let (code, message) = failure(&read_to_end(&mut client));
    assert_eq!(
        (code, message.contains("unrecognized request type")),
        (1005, true),
        "{message}"
    );
    assert_eq!(live.refused(), 1);
}

#[test]
fn what_must_not_reach_the_engine_later_is_refused_at_once() {
    let limits = Limits {
        request: 1 << 20,
        ..Limits::default()
    };
    let live = Live::new(limits);
    let cases = [
        (raw((1 << 17) + 1, 4, 0, &[1; 100]), 18, "1048584 bytes"),
        (raw(1 << 28, 4, 0, &[]), 1005, "PREPARE"),
        (raw(u32::MAX, 8, 0, &[7; 3_000_000]), 1005, "EXEC_SQL"),
        (raw(0, 0, 0, &[]), 1005, "LEADER"),
        (raw(1, 18, 0, &9_u64.to_le_bytes()), 15, "DESCRIBE"),
        (raw(1, 4, 0, &[1; 8]), 1005, "PREPARE"),
        (frames(&[connect(7, "10.0.0.7:9001")]), 1005, "CONNECT"),
    ];
    for (number, (bytes, code, says)) in cases.into_iter().enumerate() {
        let mut client = live.opened();
        let _ = client.write_all(&bytes);
        let start = Instant::now();
        let (got, message) = failure(&read_to_end(&mut client));
        assert!(start.elapsed() < Limits::default().linger / 2, "the end comes at once");
        assert_eq!((got, message.contains(says)), (code, true), "{number}: {message}");
        assert_eq!(live.refused(), number as u64 + 1);
    }
    wait_until("the door forgets them", || live.door.stats().open == 0);
    assert_eq!(ask(&mut live.opened(), query("SELECT 1")), ROWS);
}

#[test]
fn requests_arrive_in_any_pieces() {
    let live = Live::new(Limits::default());
    let mut client = live.opened();
    let texts: Vec<String> = (0..50).map(|n| format!("SELECT {n}, '{}'", "x".repeat(n))).collect();
    let requests: Vec<_> = texts.iter().map(|text| query(text)).collect();
    let bytes = frames(&requests);
    for piece in bytes.chunks(13) {
        client.write_all(piece).unwrap();
    }
    for number in 0..50_u64 {
        let (kind, body) = answer(&mut client);
        let value = number.to_le_bytes();
        assert!(
            kind == ROWS && body.chunks(8).any(|word| word == value),
            "{number}: {body:?}"
        );
    }
}

#[test]
fn a_link_is_raft_s_until_one_side_ends_it() {
    alone("tests::live::a_link_is_raft_s_until_one_side_ends_it", || {
        let live = Live::new(Limits::default());
        drop(live.opened());
        wait_until("the door forgets it", || live.door.stats().open == 0);
        let before = descriptors();
        // raft ends a link that does not speak its language; the other one is the peer's to end.
        for garbage in [&[][..], &[0xff; 64]] {
            let mut peer = live.client();
            peer.write_all(&[hello(&[connect(7, "10.0.0.7:9001")]), garbage.to_vec()].concat())
                .unwrap();
            if garbage.is_empty() {
                peer.set_read_timeout(Some(SHORT)).unwrap();
                let silence = peer.read(&mut [0]).unwrap_err();
                assert_eq!(silence.kind(), ErrorKind::WouldBlock, "an admitted link stays open");
            } else {
                assert_eq!(read_to_end(&mut peer), b"");
            }
            drop(peer);
            wait_until("the engine and the door close it", || {
                live.door.stats().open == 0 && descriptors() == before
            });
        }
        assert_eq!(ask(&mut live.opened(), query("SELECT 1")), ROWS);
    });
}

#[test]
fn clients_may_come_while_all_ends() {
    for _ in 0..5 {
        let live = Live::new(Limits::default());
        let at = live.at;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    // Some are answered, some closed, and in the end nobody is there.
                    while let Ok(mut client) = TcpStream::connect(at) {
                        let _ = client.write_all(&hello(&[Request::Leader, Request::Leader]));
                        let _ = client.read(&mut [0; 8]);
                    }
                });
            }
            wait_until("they come", || live.door.stats().accepted > 50);
            // The engine first, which no caller does: whoever is handed over then is closed.
            live.engine.stop().unwrap();
            drop(live);
        });
    }
}

#[test]
fn a_failed_request_leaves_the_connection_as_it_was() {
    let live = Live::new(Limits::default());
    let mut client = live.opened();
    assert_eq!(ask(&mut client, query("SELECT nonsense")), FAILURE);
    assert_eq!(ask(&mut client, query("SELECT 1")), ROWS);
}
