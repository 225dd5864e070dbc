use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use socket2::{Domain, Socket, Type};

use super::*;

const SHORT: Duration = Duration::from_millis(80);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Both kinds of stream, with their other ends.
fn pairs() -> Vec<(Stream, Box<dyn ReadWrite>)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::parse_peer(&listener.local_addr().unwrap().to_string(), "address").unwrap();
    let tcp = Stream::connect(&address, soon()).unwrap();
    let (unix, other) = UnixStream::pair().unwrap();
    vec![
        (tcp, Box::new(listener.accept().unwrap().0) as Box<dyn ReadWrite>),
        (Stream::from_unix(unix), Box::new(other)),
    ]
}

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

#[test]
fn bytes_go_both_ways() {
    for (stream, mut other) in pairs() {
        for round in 0..20_u8 {
            stream.write_all(&[round; 100], soon()).unwrap();
            let mut got = [0; 100];
            other.read_exact(&mut got).unwrap();
            assert_eq!(got, [round; 100]);
            other.write_all(&[round; 3]).unwrap();
            assert_eq!(stream.read_some(&mut got, soon()).unwrap(), 3);
        }
    }
}

#[test]
fn a_read_ends_at_its_deadline() {
    for (stream, mut other) in pairs() {
        for wait in [Duration::ZERO, SHORT, SHORT / 7, SHORT * 3] {
            let start = Instant::now();
            let error = stream.read_some(&mut [0; 10], start + wait).unwrap_err();
            assert_eq!(Cause::of(&error), Cause::TimedOut, "{error:?}");
            let taken = start.elapsed();
            assert!(taken >= wait && taken < wait + SHORT * 5, "{wait:?}: {taken:?}");
        }
        // It is still of use, and what a longer deadline left behind does not matter.
        other.write_all(b"x").unwrap();
        assert_eq!(stream.read_some(&mut [0; 10], soon()).unwrap(), 1);
        let start = Instant::now();
        stream.read_some(&mut [0; 10], start + SHORT).unwrap_err();
        assert!(start.elapsed() < SHORT * 5);
        other.write_all(b"x").unwrap();
        assert_eq!(stream.read_some(&mut [0; 10], Instant::now()).unwrap(), 1);
    }
}

#[test]
fn a_long_wait_is_not_cut_short() {
    for (stream, mut other) in pairs() {
        // Sets a short timeout on the socket, which must not be that of the next read.
        stream.read_some(&mut [0; 10], Instant::now() + SHORT / 20).unwrap_err();
        let late = thread::spawn(move || {
            thread::sleep(SHORT * 2);
            other.write_all(b"x").unwrap();
        });
        let before = status("voluntary_ctxt_switches:", 10);
        assert_eq!(stream.read_some(&mut [0; 10], soon()).unwrap(), 1);
        assert!(
            status("voluntary_ctxt_switches:", 10) < before + 15,
            "it kept waking up"
        );
        late.join().unwrap();
    }
}

/// A number that the kernel tells about the calling thread.
fn status(name: &str, radix: u32) -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(value.trim(), radix).unwrap()
}

#[test]
fn a_write_that_nobody_takes_ends_at_its_deadline() {
    for (stream, mut other) in pairs() {
        let start = Instant::now();
        let bytes = vec![1; 64 << 20];
        let error = stream.write_all(&bytes, start + SHORT).unwrap_err();
        assert_eq!(Cause::of(&error), Cause::TimedOut, "{error:?}");
        assert!(start.elapsed() >= SHORT);
        thread::spawn(move || std::io::copy(&mut other, &mut std::io::sink()));
        stream.write_all(&bytes, soon()).unwrap();
    }
}

#[test]
fn the_end_of_the_other_side_is_told_from_ours() {
    for (stream, other) in pairs() {
        drop(other);
        let error = stream.read_some(&mut [0; 10], soon()).unwrap_err();
        assert_eq!(Cause::of(&error), Cause::Closed, "{error:?}");
        let error = (0..3).find_map(|_| stream.write_all(&[0; 10], soon()).err()).unwrap();
        assert_eq!(Cause::of(&error), Cause::Closed, "{error:?}");
    }
    for (stream, _other) in pairs() {
        stream.shutdown();
        let error = stream.read_some(&mut [0; 10], soon()).unwrap_err();
        assert_eq!(Cause::of(&error), Cause::Woken, "{error:?}");
        let error = stream.write_all(&[0; 10], soon()).unwrap_err();
        assert_eq!(Cause::of(&error), Cause::Woken, "{error:?}");
    }
}

#[test]
fn only_a_further_read_of_an_answer_hurries_its_sender() {
    let (stream, mut other) = pairs().remove(0);
    let hurries = || SockRef::from(&stream.shared.socket).tcp_quickack().unwrap();
    let mut states = (true, false);
    // The kernel needs some rounds to take the connection for an interactive one.
    for _ in 0..30 {
        stream.write_all(b"request", soon()).unwrap();
        other.read_exact(&mut [0; 7]).unwrap();
        other.write_all(b"answer").unwrap();
        stream.read_some(&mut [0; 3], soon()).unwrap();
        let first = hurries();
        stream.read_some(&mut [0; 3], soon()).unwrap();
        states = (first, hurries());
    }
    assert_eq!(states, (false, true));
}

#[test]
fn what_the_other_side_does_unasked_is_seen() {
    for (stream, mut other) in pairs() {
        assert_eq!(stream.speaks(), None);
        other.write_all(b"x").unwrap();
        drop(other);
        let until = soon();
        while stream.speaks().is_none() {
            assert!(Instant::now() < until);
            thread::yield_now();
        }
        assert_eq!(stream.speaks(), Some(true), "there is a byte to be read");
        assert_eq!(stream.read_some(&mut [0; 10], soon()).unwrap(), 1);
        stream.read_some(&mut [0; 10], soon()).unwrap_err();
        assert_eq!(stream.speaks(), Some(false));
    }
}

#[test]
fn a_waker_ends_a_blocked_read_and_a_blocked_write() {
    for write in [false, true] {
        for (stream, _other) in pairs() {
            let waker = stream.waker();
            let start = Instant::now();
            let blocked = thread::spawn(move || {
                let error = if write {
                    stream.write_all(&vec![1; 64 << 20], soon()).unwrap_err()
                } else {
                    stream.read_some(&mut [0; 10], soon()).unwrap_err()
                };
                Cause::of(&error)
            });
            thread::sleep(SHORT);
            waker.wake();
            assert_eq!(blocked.join().unwrap(), Cause::Woken);
            assert!(start.elapsed() < Duration::from_secs(5));
            waker.wake();
        }
    }
}

#[test]
fn a_waker_does_not_keep_the_connection_open() {
    for (stream, mut other) in pairs() {
        let waker = stream.waker();
        drop(stream);
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
        waker.wake();
    }
}

#[test]
fn a_dropped_stream_is_closed_although_a_copy_is_open() {
    for (stream, mut other) in pairs() {
        let copy = stream.shared.socket.try_clone().unwrap();
        let ended = thread::spawn(move || other.read(&mut [0]).unwrap());
        drop(stream);
        wait_until_finished(&ended);
        assert_eq!(ended.join().unwrap(), 0);
        drop(copy);
    }
}

fn wait_until_finished<T>(thread: &thread::JoinHandle<T>) {
    let deadline = soon();
    while !thread.is_finished() {
        assert!(Instant::now() < deadline, "it still waits");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_connection_to_itself_is_none() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.connect(&socket.local_addr().unwrap()).unwrap();
    let error = settle(socket.into()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn tcp_gets_its_settings() {
    let (stream, _other) = pairs().remove(0);
    let socket = SockRef::from(&stream.shared.socket);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(3));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
}

#[test]
fn connecting_to_nobody_says_so() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = Address::parse_peer(&free.to_string(), "address").unwrap();
    let error = Stream::connect(&address, soon()).err().unwrap();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(error.message().contains(&free.to_string()), "{error}");
    assert!(dial(&address, soon()).err().unwrap().refused);
}

/// Who takes a peer for dead by that must not do so for a fault of its own.
#[test]
fn what_fails_otherwise_is_no_refusal() {
    let broadcast = Address::parse_peer("255.255.255.255:9001", "address").unwrap();
    assert!(!dial(&broadcast, soon()).err().unwrap().refused);
}

#[test]
fn connecting_ends_at_the_deadline() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into())
        .unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let address = Address::parse_peer(&listener.local_addr().unwrap().to_string(), "address").unwrap();
    // With its queue full, the kernel drops what asks to come in.
    let _queued = TcpStream::connect(address.to_string()).unwrap();
    let start = Instant::now();
    let error = Stream::connect(&address, start + SHORT).err().unwrap();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 20);
}

#[test]
fn our_threads_block_the_hosts_signals() {
    let blocked = || status("SigBlk:", 16);
    let bit = |signal: i32| 1_u64 << (signal - 1);
    let before = blocked();
    let inside = sys::spawn("signals", blocked).unwrap().join().unwrap();
    assert_eq!(blocked(), before, "ours are as they were");
    for signal in [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGUSR1,
        libc::SIGCHLD,
        libc::SIGPIPE,
        libc::SIGALRM,
    ] {
        assert_ne!(inside & bit(signal), 0, "{signal}");
    }
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGSYS,
    ] {
        assert_eq!(inside & bit(signal), 0, "{signal}");
    }
    let permanent = thread::spawn(move || {
        sys::block_signals();
        blocked()
    });
    assert_eq!(permanent.join().unwrap(), inside);
}

/// A port whose host swallows the attempt, because its queue is full, and is then closed: that is known long before the
/// kernel's next attempt, which comes after a second.
#[test]
fn an_attempt_that_is_swallowed_is_made_again_soon() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(one) = TcpStream::connect_timeout(&address, SHORT) {
        queued.push(one);
    }
    let wanted = Address::parse_peer(&address.to_string(), "address").unwrap();
    let began = Instant::now();
    let closing = thread::spawn(move || {
        thread::sleep(AGAIN / 2);
        drop(listener);
    });
    assert!(dial(&wanted, soon()).is_err_and(|failed| failed.refused));
    assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
    closing.join().unwrap();
}
