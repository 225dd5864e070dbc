//! Any bytes from a client, in any pieces: only whole, checked requests pass, unchanged, wherever the pieces were cut.

use super::Limits;
use super::inbound::{Inbound, Step};
use crate::wire::{HEADER_LEN, Header, Request};

/// The first byte says how long the pieces are.
pub(crate) fn door(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else {
        return;
    };
    let whole = feed(bytes, bytes.len());
    assert_eq!(
        feed(bytes, usize::from(*size).max(1)),
        whole,
        "cut into pieces of {size}"
    );
    if !whole.is_link {
        check(&whole.passed);
    }
    assert!(bytes.starts_with(&whole.passed), "what passed is not what came");
}

#[derive(Debug, Default, PartialEq)]
struct Outcome {
    passed: Vec<u8>,
    requests: usize,
    is_link: bool,
    end: Option<Step>,
}

fn feed(bytes: &[u8], size: usize) -> Outcome {
    let limits = Limits {
        request: 1 << 16,
        first_request: 1 << 10,
        ..Limits::default()
    };
    let mut inbound = Inbound::new();
    let mut outcome = Outcome::default();
    for piece in bytes.chunks(size.max(1)) {
        inbound.buffer().extend_from_slice(piece);
        loop {
            match inbound.step(&limits) {
                Step::More => break,
                Step::Request => outcome.requests += 1,
                Step::Link { id, .. } if id % 2 == 1 => {
                    outcome.is_link = true;
                    inbound.admit();
                }
                end => {
                    outcome.end = Some(end);
                    break;
                }
            }
        }
        let passing = inbound.passing().to_vec();
        outcome.passed.extend_from_slice(&passing);
        inbound.advance(passing.len());
        if outcome.end.is_some() {
            break;
        }
    }
    outcome
}

/// A version word and requests that decode, with nothing between or behind them.
fn check(passed: &[u8]) {
    let Some((_, mut rest)) = passed.split_first_chunk::<HEADER_LEN>() else {
        return assert!(passed.is_empty());
    };
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let header = Header::parse(head);
        let length = usize::try_from(header.body_len()).unwrap_or(usize::MAX);
        let Some(body) = after.get(..length) else {
            panic!("part of a request passed");
        };
        assert!(
            Request::decode(header, body).is_ok(),
            "a request passed that does not decode"
        );
        rest = &after[length..];
    }
    assert!(rest.is_empty(), "part of a header passed");
}
