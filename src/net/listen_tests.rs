use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

fn at(text: &str) -> Address {
    Address::parse_listen(text, "address").unwrap()
}

#[test]
fn a_listener_takes_connections_at_the_port_it_says() {
    for text in ["127.0.0.1:0", "localhost:0", "0.0.0.0:0"] {
        let (listener, local) = listen(&at(text)).unwrap();
        assert_ne!(local.port(), 0);
        let mut client = TcpStream::connect((local.ip(), local.port())).unwrap();
        let (mut server, _) = listener.sockets()[0].accept().unwrap();
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn ipv6_is_itself_or_every_interface() {
    let (one, local) = listen(&at("[::1]:0")).unwrap();
    // What the system's default is must not matter.
    assert!(one.sockets()[0].only_v6().unwrap());
    assert!(local.is_ipv6());
    assert!(TcpStream::connect(("127.0.0.1", local.port())).is_err());
    let (_all, local) = listen(&at("[::]:0")).unwrap();
    TcpStream::connect(("127.0.0.1", local.port())).unwrap();
    TcpStream::connect(("::1", local.port())).unwrap();
}

#[test]
fn failures_are_explained() {
    let (_listener, local) = listen(&at("127.0.0.1:0")).unwrap();
    let error = listen(&at(&local.to_string())).unwrap_err();
    let expected = format!("port {} on 127.0.0.1 is in use by another socket", local.port());
    assert!(error.message().contains(&expected), "{error}");
    // TEST-NET-1, which no host has.
    let error = listen(&at("192.0.2.1:9001")).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error.message().contains("192.0.2.1 is not an address of this host"),
        "{error}"
    );
}

#[test]
fn a_restarted_listener_gets_its_port_back() {
    let (listener, local) = listen(&at("127.0.0.1:0")).unwrap();
    let mut client = TcpStream::connect(local).unwrap();
    let (server, _) = listener.sockets()[0].accept().unwrap();
    // Closing first leaves our side of the connection waiting for a minute.
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    drop(listener);
    listen(&at(&local.to_string())).unwrap();
}
