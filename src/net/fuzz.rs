//! Any text as an address or a list of them: what is taken prints as something that is taken as the same.

use super::addr::{Address, parse_csv};

pub(crate) fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for parse in [Address::parse_peer, Address::parse_node, Address::parse_listen] {
        match parse(text, "address") {
            Ok(address) => {
                let printed = address.to_string();
                assert_eq!(parse(&printed, "address").ok().as_ref(), Some(&address), "{printed:?}");
                assert_eq!(address.with_port(address.port()).port(), address.port());
                assert!(!address.host().is_empty());
            }
            Err(error) => assert!(error.message().contains("address"), "{error}"),
        }
    }
    if let Ok(list) = parse_csv(text) {
        let again: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(parse_csv(&again.join(",")).ok(), Some(list));
    }
}
