//! A stand-in for the engine on an abstract socket, a door in front of it, and clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::door::{Door, Limits, LinkEnded, Options};
use crate::net::{Address, listen};
use crate::wire::{self, Header, Request};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What the stand-in saw.
#[derive(Default)]
pub(super) struct Log {
    pub(super) connections: AtomicUsize,
    pub(super) ended: AtomicUsize,
    pub(super) written: AtomicUsize,
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

pub(super) type Behaviour = fn(&mut UnixStream, &Log);

/// Sends everything back.
pub(super) fn echo(stream: &mut UnixStream, log: &Log) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        log.received.lock().extend_from_slice(&buffer[..count]);
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Reads and says nothing.
pub(super) fn listen_only(stream: &mut UnixStream, log: &Log) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        log.received.lock().extend_from_slice(&buffer[..count]);
    }
}

pub(super) struct Engine {
    pub(super) name: String,
    pub(super) log: Arc<Log>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        let (listener, name) = unused_name();
        let log = Arc::new(Log::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopping) = (Arc::clone(&log), Arc::clone(&stop));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let seen = Arc::clone(&seen);
                thread::spawn(move || {
                    behaviour(&mut stream, &seen);
                    drop(stream);
                    seen.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { name, log, stop }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let address = UnixAddr::from_abstract_name(&self.name[1..]).unwrap();
        let _ = UnixStream::connect_addr(&address);
    }
}

/// An abstract socket that nobody else has, and its name with the `@`.
pub(super) fn unused_name() -> (UnixListener, String) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!(
        "door-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::SeqCst)
    );
    let address = UnixAddr::from_abstract_name(&name).unwrap();
    (UnixListener::bind_addr(&address).unwrap(), format!("@{name}"))
}

pub(super) struct Setup {
    pub(super) door: Door,
    pub(super) at: SocketAddr,
    pub(super) engine: Engine,
}

impl Setup {
    pub(super) fn new(limits: Limits, behaviour: Behaviour) -> Self {
        let engine = Engine::start(behaviour);
        let (door, at) = open(&engine.name, limits);
        Self { door, at, engine }
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
pub(super) fn open(upstream: &str, limits: Limits) -> (Door, SocketAddr) {
    open_with(upstream, limits, Box::new(|_| {}))
}

pub(super) fn open_with(upstream: &str, limits: Limits, link_ended: LinkEnded) -> (Door, SocketAddr) {
    let address = Address::parse_listen("127.0.0.1:0", "address").unwrap();
    let (listener, at) = listen(&address).unwrap();
    let options = Options {
        upstream: upstream.to_owned(),
        limits,
        admit: Box::new(|id, address| {
            assert_ne!(id, 13, "this panic is part of a test");
            id == 7 && address == "10.0.0.7:9001"
        }),
        link_ended,
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
