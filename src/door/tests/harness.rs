//! A stand-in for the engine, a door in front of it, and clients.

use std::io::{self, Cursor, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::door::{self, Door, Limits, Options};
use crate::engine::visit::Check;
use crate::net::{Address, listen};
use crate::wire::{self, Header, Request};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What the stand-in saw.
#[derive(Default)]
pub(super) struct Log {
    pub(super) connections: AtomicUsize,
    pub(super) ended: AtomicUsize,
    pub(super) blocked: AtomicBool,
    pub(super) received: Mutex<Vec<u8>>,
}

impl Log {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

/// A connection that the stand-in was given: what the door had read of it comes first.
pub(super) struct Taken {
    first: Cursor<Vec<u8>>,
    socket: TcpStream,
    _check: Check,
}

impl Read for Taken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.first.read(buffer)? {
            0 => self.socket.read(buffer),
            count => Ok(count),
        }
    }
}

impl Write for Taken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) type Behaviour = fn(&mut Taken, &Log);

/// Sends everything back.
pub(super) fn echo(stream: &mut Taken, log: &Log) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        log.received.lock().extend_from_slice(&buffer[..count]);
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Reads and says nothing.
pub(super) fn listen_only(stream: &mut Taken, log: &Log) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        log.received.lock().extend_from_slice(&buffer[..count]);
    }
}

/// Serves each connection on a thread of its own.
fn stand_in(behaviour: Behaviour, log: &Arc<Log>) -> door::Engine {
    let log = Arc::clone(log);
    Box::new(move |socket: OwnedFd, first: &[u8], check| {
        log.connections.fetch_add(1, Ordering::SeqCst);
        let socket = TcpStream::from(socket);
        socket.set_nonblocking(false).unwrap();
        let mut taken = Taken {
            first: Cursor::new(first.to_vec()),
            socket,
            _check: check,
        };
        let log = Arc::clone(&log);
        thread::spawn(move || {
            behaviour(&mut taken, &log);
            drop(taken);
            log.ended.fetch_add(1, Ordering::SeqCst);
        });
        Ok(())
    })
}

pub(super) struct Setup {
    pub(super) door: Door,
    pub(super) at: SocketAddr,
    pub(super) log: Arc<Log>,
}

impl Setup {
    pub(super) fn new(limits: Limits, behaviour: Behaviour) -> Self {
        let log = Arc::new(Log::default());
        let (door, at) = open(stand_in(behaviour, &log), limits);
        Self { door, at, log }
    }

    pub(super) fn client(&self) -> TcpStream {
        client(self.at)
    }

    /// By its return the door has looked at all that was sent to it before, because it takes events
    /// in turn.
    pub(super) fn round_trip(&self) {
        let mut client = self.client();
        client.write_all(&hello(&[Request::Leader])).unwrap();
        client.read_exact(&mut [0; 24]).unwrap();
    }
}

/// A door that lets in node 7 at 10.0.0.7:9001, and whose check of node 13 panics.
pub(super) fn open(engine: door::Engine, limits: Limits) -> (Door, SocketAddr) {
    let address = Address::parse_listen("127.0.0.1:0", "address").unwrap();
    let (listener, at) = listen(&address).unwrap();
    let options = Options {
        limits,
        admit: Box::new(|id, address| {
            assert_ne!(id, 13, "this panic is part of a test");
            id == 7 && address == "10.0.0.7:9001"
        }),
        engine,
    };
    (Door::open(listener, options).unwrap(), at)
}

pub(super) fn client(at: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(at).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

/// The version word and requests.
pub(super) fn hello(requests: &[Request<'_>]) -> Vec<u8> {
    let mut out = wire::VERSION.to_le_bytes().to_vec();
    out.extend(frames(requests));
    out
}

pub(super) fn frames(requests: &[Request<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for request in requests {
        request.encode(&mut out);
    }
    out
}

pub(super) fn connect(id: u64, address: &str) -> Request<'_> {
    Request::Connect {
        id,
        address: address.as_bytes(),
    }
}

/// A message with any header and body.
pub(super) fn raw(words: u32, kind: u8, schema: u8, body: &[u8]) -> Vec<u8> {
    let mut out = words.to_le_bytes().to_vec();
    out.extend([kind, schema, 0, 0]);
    out.extend(body);
    out
}

/// All bytes until the other side closes; how it closes does not matter.
pub(super) fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match client.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    all
}

/// The code and message of the only thing in `bytes`, a FAILURE.
pub(super) fn failure(bytes: &[u8]) -> (u64, String) {
    let (head, body) = bytes.split_first_chunk::<8>().expect("an answer");
    let header = Header::parse(head);
    assert_eq!((header.kind, header.body_len()), (0, body.len() as u64), "one FAILURE");
    let code = u64::from_le_bytes(*body.first_chunk().unwrap());
    let text = body[8..].split(|byte| *byte == 0).next().unwrap();
    (code, String::from_utf8(text.to_vec()).unwrap())
}

pub(super) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `body`, that of the test named by its path in this room, in a process of its own: for what
/// belongs to the whole process.
pub(in crate::door) fn alone(test: &str, body: impl FnOnce()) {
    const MARK: &str = "DOOR_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("door::{test}"), "--test-threads=1", "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
