//! Strangers in numbers, deadlines, and the end.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::harness::*;
use crate::door::Limits;
use crate::error::Kind;
use crate::wire::{self, Request};

const SHORT: Duration = Duration::from_millis(150);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn expect_answer(mut client: &TcpStream) {
    let sent = hello(&[Request::Leader]);
    client.write_all(&sent).unwrap();
    let mut got = vec![0; sent.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, sent);
}

fn expect_echo(mut client: &TcpStream) {
    let sent = frames(&[Request::Leader]);
    client.write_all(&sent).unwrap();
    client.read_exact(&mut vec![0; sent.len()]).unwrap();
}

/// How long the door leaves `client` open.
fn closed_after(client: &mut TcpStream) -> Duration {
    let start = Instant::now();
    assert_eq!(read_to_end(client), b"");
    start.elapsed()
}

#[test]
fn after_three_hundred_garbage_connections_a_good_one_works() {
    let setup = Setup::new(Limits::default(), echo);
    let garbage: Vec<_> = (0..300_u32)
        .map(|n| {
            let mut client = setup.client();
            let bytes: Vec<u8> = (0..n * 7 % 500 + 8).map(|m| (m * n % 256) as u8 ^ 0x5a).collect();
            let _ = client.write_all(&bytes);
            client
        })
        .collect();
    expect_answer(&setup.client());
    assert_eq!(setup.engine.log.connections(), 1, "garbage never reaches the engine");
    wait_until("all were refused", || setup.door.stats().refused == 300);
    drop(garbage);
    wait_until("all are gone", || setup.door.stats().open == 0);
}

#[test]
fn a_handshake_has_a_deadline() {
    let setup = Setup::new(
        Limits {
            handshake: SHORT,
            ..Limits::default()
        },
        echo,
    );
    let version = wire::VERSION.to_le_bytes();
    let almost = hello(&[Request::Leader]);
    for half in [&[][..], &version[..3], &version, &almost[..almost.len() - 1]] {
        let began = Instant::now();
        let mut client = setup.client();
        client.write_all(half).unwrap();
        closed_after(&mut client);
        let taken = began.elapsed();
        assert!(taken > SHORT / 2 && taken < SHORT * 10, "{taken:?}");
    }
    assert_eq!(setup.door.stats().refused, 4);
}

#[test]
fn a_started_request_has_a_deadline_and_an_idle_client_has_none() {
    let limits = Limits {
        handshake: SHORT,
        pause: SHORT * 3,
        ..Limits::default()
    };
    let setup = Setup::new(limits, echo);
    let (idle, mut halting) = (setup.client(), setup.client());
    expect_answer(&idle);
    expect_answer(&halting);
    halting.write_all(&frames(&[Request::Leader])[..5]).unwrap();
    // One whose time is up earlier must not make the door forget the other.
    assert!(closed_after(&mut setup.client()) > SHORT / 2);
    let taken = closed_after(&mut halting);
    assert!(taken > SHORT && taken < SHORT * 10, "{taken:?}");
    assert_eq!(setup.door.stats().refused, 2);
    expect_echo(&idle);
}

#[test]
fn beyond_the_limit_connections_are_closed() {
    let setup = Setup::new(
        Limits {
            connections: 3,
            links: 0,
            ..Limits::default()
        },
        echo,
    );
    let mut good: Vec<_> = (0..3).map(|_| setup.client()).collect();
    good.iter().for_each(expect_answer);
    for _ in 0..5 {
        assert_eq!(read_to_end(&mut setup.client()), b"");
    }
    assert_eq!(setup.door.stats().refused, 5);
    good.pop();
    wait_until("there is room", || setup.door.stats().open == 2);
    expect_answer(&setup.client());
}

#[test]
fn clients_never_keep_a_link_out() {
    let limits = Limits {
        connections: 2,
        links: 2,
        ..Limits::default()
    };
    let setup = Setup::new(limits, echo);
    let good: Vec<_> = (0..2).map(|_| setup.client()).collect();
    good.iter().for_each(expect_answer);
    let mut third = setup.client();
    third.write_all(&hello(&[Request::Leader])).unwrap();
    assert_eq!(read_to_end(&mut third), b"", "a third client finds no room");
    wait_until("it is gone", || setup.door.stats().open == 2);
    let (mut older, mut newer) = (setup.client(), setup.client());
    wait_until("they came in", || setup.door.stats().open == 4);
    let mut links = Vec::new();
    for silent in [&mut older, &mut newer] {
        let mut link = setup.client();
        assert_eq!(read_to_end(silent), b"", "the oldest silent one made room");
        let sent = hello(&[connect(7, "10.0.0.7:9001")]);
        link.write_all(&sent).unwrap();
        link.read_exact(&mut vec![0; sent.len()]).unwrap();
        good.iter().for_each(expect_echo);
        links.push(link);
    }
}

#[test]
fn memory_for_arriving_requests_has_a_limit() {
    let setup = Setup::new(
        Limits {
            collected: 3 << 20,
            ..Limits::default()
        },
        echo,
    );
    let mut clients: Vec<_> = (0..4).map(|_| setup.client()).collect();
    clients.iter().for_each(expect_answer);
    let part = [raw(1 << 18, 4, 0, &[]), vec![1; 1 << 20]].concat();
    for client in &mut clients {
        let _ = client.write_all(&part);
    }
    wait_until("some are refused", || setup.door.stats().refused > 0);
    let refused = clients.iter_mut().filter_map(|client| {
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut answer = [0; 16];
        client.read_exact(&mut answer).ok().map(|()| answer)
    });
    let codes: Vec<u64> = refused
        .map(|answer| u64::from_le_bytes(*answer.last_chunk().unwrap()))
        .collect();
    assert!(!codes.is_empty() && codes.len() < 4, "{codes:?}");
    assert!(codes.iter().all(|code| *code == 7), "{codes:?}");
    drop(clients);
    wait_until("all are gone", || setup.door.stats().open == 0);
    let client = setup.client();
    expect_answer(&client);
    (&client).write_all(&part).unwrap();
    setup.round_trip();
    wait_until("its memory was given back, so this one may use it", || {
        setup.door.stats().open == 1
    });
}

#[test]
fn memory_of_a_request_that_never_ends_is_given_back() {
    let limits = Limits {
        collected: 3 << 20,
        pause: SHORT * 3,
        ..Limits::default()
    };
    let setup = Setup::new(limits, echo);
    for _ in 0..4 {
        let mut client = setup.client();
        expect_answer(&client);
        client.write_all(&raw(1 << 18, 4, 0, &[])).unwrap();
        for _ in 0..16 {
            client.write_all(&[1; 1 << 16]).unwrap();
            setup.round_trip();
        }
        let _ = closed_after(&mut client);
    }
}

#[test]
fn a_panic_costs_one_connection() {
    let setup = Setup::new(Limits::default(), echo);
    let mut peer = setup.client();
    peer.write_all(&hello(&[connect(13, "10.0.0.13:9001")])).unwrap();
    assert_eq!(read_to_end(&mut peer), b"");
    expect_answer(&setup.client());
}

#[test]
fn dialling_reaches_the_engine_and_ends_with_the_door() {
    let setup = Setup::new(Limits::default(), echo);
    let mut stream = setup.door.dial(soon()).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    setup.door.close();
    assert_eq!(setup.door.dial(soon()).unwrap_err().kind(), Kind::Shutdown);
    setup.door.close();
}

#[test]
fn dialling_without_an_engine_says_so() {
    let (listener, name) = unused_name();
    drop(listener);
    let (door, _) = open(&name, Limits::default());
    let error = door.dial(soon()).unwrap_err();
    assert_eq!(error.kind(), Kind::Stopped, "{error}");
}

#[test]
fn dialling_a_stuck_engine_ends_at_the_deadline() {
    let (listener, name) = unused_name();
    drop(listener);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&crate::net::local_address(&name).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let (door, _) = open(&name, Limits::default());
    let _filler = door.dial(soon()).unwrap();
    let start = Instant::now();
    let error = door.dial(start + SHORT).unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 10);
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn close_is_quick_and_leaves_nothing_behind() {
    alone("tests::limits::close_is_quick_and_leaves_nothing_behind", || {
        let engine = Engine::start(echo);
        let before = descriptors();
        let (door, at) = open(&engine.name, Limits::default());
        let clients: Vec<_> = (0..50).map(|_| client(at)).collect();
        clients.iter().take(25).for_each(expect_answer);
        let start = Instant::now();
        door.close();
        assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
        for mut client in clients {
            assert_eq!(read_to_end(&mut client), b"");
        }
        wait_until("the engine's side is closed too", || engine.log.ended() == 25);
        drop(door);
        wait_until("no descriptor is left", || descriptors() == before);
        assert!(TcpStream::connect(at).is_err());
    });
}

#[test]
fn an_announced_gigabyte_costs_nothing() {
    alone("tests::limits::an_announced_gigabyte_costs_nothing", || {
        let setup = Setup::new(Limits::default(), echo);
        let clients: Vec<_> = (0..20).map(|_| setup.client()).collect();
        clients.iter().for_each(expect_answer);
        let before = virtual_size();
        for part in [raw((1 << 27) - 1, 4, 0, &[1; 100_000]), vec![1; 10]] {
            for mut client in &clients {
                client.write_all(&part).unwrap();
            }
            setup.round_trip();
        }
        assert_eq!(setup.door.stats().refused, 0);
        // A thread's stack of the stand-in for the round trip is most of it.
        let grown = virtual_size().saturating_sub(before);
        assert!(grown < 300 << 20, "{grown}");
    });
}

/// Pages that are mapped, touched or not, in bytes.
fn virtual_size() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn without_descriptors_connections_are_turned_away_and_the_door_does_not_spin() {
    alone(
        "tests::limits::without_descriptors_connections_are_turned_away_and_the_door_does_not_spin",
        || {
            let setup = Setup::new(Limits::default(), echo);
            let sockets: Vec<_> = (0..5)
                .map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap())
                .collect();
            setup.round_trip();
            wait_until("its descriptors are free again", || {
                setup.door.stats().open == 0 && setup.engine.log.ended() == 1
            });
            let mut stat = File::open(door_thread()).unwrap();
            let mut hoard = Vec::new();
            while let Ok(file) = File::open("/dev/null") {
                hoard.push(file);
            }
            for socket in &sockets {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect(&setup.at.into()).unwrap();
                assert!(matches!((&mut &*socket).read(&mut [0]), Ok(0) | Err(_)));
            }
            wait_until("all were turned away", || setup.door.stats().refused == 5);
            let mut text = String::new();
            stat.read_to_string(&mut text).unwrap();
            let ticks: u64 = text
                .rsplit(')')
                .next()
                .unwrap()
                .split_whitespace()
                .skip(11)
                .take(2)
                .map(|field| field.parse::<u64>().unwrap())
                .sum();
            assert!(ticks < 20, "{ticks} ticks of 10 ms used");
            drop(hoard);
            expect_answer(&setup.client());
        },
    );
}

fn door_thread() -> String {
    let tasks = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path());
    let door = |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).unwrap().trim() == "dqlite-door";
    let task = tasks.into_iter().find(door).unwrap();
    task.join("stat").to_str().unwrap().to_owned()
}
