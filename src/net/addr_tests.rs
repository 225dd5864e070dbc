use std::time::Duration;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn good_addresses_print_as_written() {
    for text in [
        "127.0.0.1:9001",
        "10.1.2.3:1",
        "[::1]:9001",
        "[fe80::1:2]:65535",
        "localhost:9001",
        "db-1.example.com:9001",
        "DB_1.example.com.:9001",
        "1st.example:80",
    ] {
        let address = Address::parse_peer(text, "address").unwrap();
        assert_eq!(address.to_string(), text);
        assert_eq!(
            Address::parse_peer(&format!(" \t{text}\n"), "address").unwrap(),
            address
        );
    }
}

#[test]
fn the_parts_are_known() {
    let address = Address::parse_peer("[::1]:9001", "address").unwrap();
    assert_eq!((address.host().as_str(), address.port()), ("::1", 9001));
    assert_eq!(address.numeric(), Some("[::1]:9001".parse().unwrap()));
    assert_eq!(address.with_port(7).to_string(), "[::1]:7");
    let address = Address::parse_peer("db:9001", "address").unwrap();
    assert_eq!((address.host().as_str(), address.numeric()), ("db", None));
    assert_eq!(address.with_port(80), Address::parse_peer("db:80", "address").unwrap());
}

#[test]
fn bad_addresses_say_what_where_why_and_the_right_form() {
    for (text, reason) in [
        ("", "empty"),
        ("  ", "empty"),
        ("127.0.0.1", "no port"),
        ("127.0.0.1:", "no port after the colon"),
        ("127.0.0.1:99999", "larger than 65535"),
        ("127.0.0.1:65536", "larger than 65535"),
        ("127.0.0.1:-1", "not a number"),
        ("127.0.0.1:+1", "not a number"),
        ("127.0.0.1:http", "not a number"),
        (":9001", "no host"),
        ("[]:9001", "not an IPv6"),
        ("::1:9001", "brackets"),
        ("fe80::1", "brackets"),
        ("[::1]", "no port after the bracket"),
        ("[::1]9001", "no port after the bracket"),
        ("[::1:9001", "not closed"),
        ("[fe80::1%eth0]:9001", "zone"),
        ("[1.2.3.4]:9001", "not an IPv6"),
        ("@3efb9", "abstract"),
        ("256.1.1.1:9001", "not an IPv4"),
        ("1.2.3:9001", "not an IPv4"),
        ("010.0.0.1:9001", "not an IPv4"),
        ("a b:9001", "blank"),
        ("127.0.0.1 :9001", "blank"),
        ("a\0b:9001", "control"),
        ("http://db:9001", "brackets"),
        ("db/x:9001", "characters"),
        ("d\u{fc}:9001", "characters"),
        ("-db:9001", "'-'"),
        ("db..x:9001", "empty"),
        ("127.0.0.1:0", "port 0"),
    ] {
        let error = Address::parse_peer(text, "the node's address").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{text:?}");
        let message = error.message();
        assert!(
            message.starts_with(&format!("the node's address {text:?}: ")),
            "{message}"
        );
        assert!(message.contains(reason), "{text:?}: {message}");
        assert!(message.contains("[::1]:9001"), "{message}");
    }
    assert!(Address::parse_peer(&format!("{}:1", "x".repeat(64)), "a").is_err());
    assert!(Address::parse_peer(&format!("{}:1", "x.".repeat(127)), "a").is_err());
}

#[test]
fn port_0_and_every_interface_are_for_listening() {
    for text in ["127.0.0.1:0", "db:0"] {
        assert!(Address::parse_node(text, "address").is_ok());
    }
    for text in ["0.0.0.0:9001", "[::]:0"] {
        assert!(Address::parse_listen(text, "address").unwrap().is_unspecified());
        for refused in [
            Address::parse_node(text, "address"),
            Address::parse_peer(text, "address"),
        ] {
            let error = refused.unwrap_err();
            assert!(error.message().contains("set_bind_address"), "{error}");
        }
    }
}

#[test]
fn a_list_is_trimmed_and_without_duplicates() {
    let list = parse_csv(" a:1, ,b:2 ,a:1,,[::1]:3\n,").unwrap();
    let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["a:1", "b:2", "[::1]:3"]);
}

#[test]
fn a_list_says_which_entry_is_bad() {
    let error = parse_csv("a:1,b").unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error
            .message()
            .starts_with("entry 2 of the address list, \"b\": there is no port"),
        "{error}"
    );
    for empty in ["", " , ,"] {
        assert_eq!(parse_csv(empty).unwrap_err().kind(), Kind::Invalid);
    }
}

#[test]
fn names_are_resolved() {
    let address = Address::parse_peer("localhost:9001", "address").unwrap();
    let found = address.resolve(soon()).unwrap();
    assert!(
        found.iter().all(|at| at.ip().is_loopback() && at.port() == 9001),
        "{found:?}"
    );
    let error = Address::parse_peer("no-such-host.invalid:9001", "address")
        .unwrap()
        .resolve(soon())
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.message().contains("no-such-host.invalid"), "{error}");
}

#[test]
fn resolving_ends_at_the_deadline() {
    let (release, held) = mpsc::channel::<()>();
    let start = Instant::now();
    let wait = Duration::from_millis(50);
    let error = look_up("slow.example", start + wait, move || {
        let _ = held.recv();
        Ok(Vec::new())
    })
    .unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert!(start.elapsed() >= wait && start.elapsed() < wait * 20);
    drop(release);
}

#[test]
fn a_name_without_addresses_is_not_found() {
    let error = look_up("empty.example", soon(), || Ok(Vec::new())).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.message().contains("empty.example"), "{error}");
}
