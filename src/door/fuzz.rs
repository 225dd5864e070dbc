//! Any bytes from a client: only whole, checked requests are let through, wherever the pieces were cut.

use super::inbound::{Greeting, Later, Step};
use crate::wire::{HEADER_LEN, Header, Request};

const FIRST: u64 = 1 << 10;
const LIMIT: u64 = 1 << 16;

/// The first byte says how long the pieces are.
pub(crate) fn door(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else {
        return;
    };
    let (taken, step) = greet(bytes, bytes.len());
    let pieces = greet(bytes, usize::from(*size).max(1));
    assert_eq!(pieces, (taken, step), "cut into pieces of {size}");
    if pieces.1 == Step::Request {
        check(&bytes[HEADER_LEN..taken]);
        follow(&bytes[taken..]);
    }
}

fn greet(bytes: &[u8], size: usize) -> (usize, Step) {
    let mut greeting = Greeting::default();
    loop {
        let taken = greeting.buffer().len();
        match greeting.step(FIRST) {
            Step::More(lacking) if taken < bytes.len() => {
                let end = bytes.len().min(taken + lacking.min(size));
                greeting.buffer().extend_from_slice(&bytes[taken..end]);
            }
            step => return (taken, step),
        }
    }
}

/// As the engine asks of what follows.
fn follow(mut rest: &[u8]) {
    let mut later = Later::default();
    while let Some((head, after)) = rest.split_first_chunk() {
        let length = usize::try_from(Header::parse(head).body_len()).unwrap_or(usize::MAX);
        if later.header(head, LIMIT).is_err() {
            return;
        }
        assert!(length as u64 <= LIMIT && length > 0);
        let Some(body) = after.get(..length) else { return };
        if later.body(body).is_err() {
            return;
        }
        check(&rest[..HEADER_LEN + length]);
        rest = &after[length..];
    }
}

/// One request that decodes, and nothing behind it.
fn check(request: &[u8]) {
    let Some((head, body)) = request.split_first_chunk::<HEADER_LEN>() else {
        panic!("part of a header passed");
    };
    assert!(
        Request::decode(Header::parse(head), body).is_ok(),
        "a request passed that does not decode"
    );
}
