//! Strangers in numbers, deadlines, and the end.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::harness::*;
use crate::door::Limits;
use crate::wire::{self, Request};

const SHORT: Duration = Duration::from_millis(150);

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
    assert_eq!(setup.log.connections(), 1, "garbage never reaches the engine");
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
fn who_will_say_no_more_makes_room() {
    let limits = Limits {
        connections: 1,
        links: 1,
        ..Limits::default()
    };
    let setup = Setup::new(limits, deaf);
    let mut gone = setup.client();
    gone.write_all(&hello(&[Request::Leader])).unwrap();
    wait_until("the engine has it", || setup.log.connections() == 1);
    // The engine does not notice, as if it waited for a commit.
    gone.shutdown(Shutdown::Write).unwrap();
    // Nothing tells when the door has heard of it; whoever comes earlier is turned away.
    let second = || {
        let mut second = setup.client();
        second.write_all(&hello(&[Request::Leader])).unwrap();
        second.set_read_timeout(Some(SHORT)).unwrap();
        matches!(second.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    wait_until("another one finds room", second);
    assert_eq!(read_to_end(&mut gone), b"");
    setup.log.blocked.store(true, Ordering::SeqCst);
    wait_until("all is over", || setup.log.ended() == setup.log.connections());
}

/// Hears and says nothing until the test ends it.
fn deaf(_: &mut Taken, log: &Log) {
    wait_until("the test ends it", || log.blocked.load(Ordering::SeqCst));
}

#[test]
fn a_panic_costs_one_connection() {
    let setup = Setup::new(Limits::default(), echo);
    let mut peer = setup.client();
    peer.write_all(&hello(&[connect(13, "10.0.0.13:9001")])).unwrap();
    assert_eq!(read_to_end(&mut peer), b"");
    expect_answer(&setup.client());
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn close_is_quick_and_leaves_nothing_behind() {
    alone("tests::limits::close_is_quick_and_leaves_nothing_behind", || {
        let before = descriptors();
        let Setup { door, at, log } = Setup::new(Limits::default(), echo);
        let clients: Vec<_> = (0..50).map(|_| client(at)).collect();
        clients.iter().take(25).for_each(expect_answer);
        let start = Instant::now();
        door.close();
        assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
        for mut client in clients {
            assert_eq!(read_to_end(&mut client), b"");
        }
        wait_until("the engine's side is closed too", || log.ended() == 25);
        drop(door);
        wait_until("no descriptor is left", || descriptors() == before);
        assert!(TcpStream::connect(at).is_err());
    });
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
                setup.door.stats().open == 0 && setup.log.ended() == 1
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
