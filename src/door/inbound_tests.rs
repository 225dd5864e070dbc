//! The parser alone: any split of the bytes gives the same, and nothing that is not checked passes.

use proptest::prelude::*;

use super::*;

fn limits() -> Limits {
    Limits {
        request: 1 << 16,
        first_request: 1 << 10,
        ..Limits::default()
    }
}

/// What came of a whole stream.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    passed: Vec<u8>,
    requests: usize,
    end: Option<Step>,
}

/// Feeds `bytes` in pieces of the given sizes (over and over), sending on at most `sink` bytes at a
/// time.
fn feed(bytes: &[u8], sizes: &[usize], sink: usize) -> Outcome {
    let mut inbound = Inbound::new();
    let mut outcome = Outcome::default();
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = bytes;
    while !rest.is_empty() && outcome.end.is_none() {
        let (piece, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        inbound.buffer().extend_from_slice(piece);
        rest = after;
        loop {
            match inbound.step(&limits()) {
                Step::More => break,
                Step::Request => outcome.requests += 1,
                Step::Link { id: 7, .. } => inbound.admit(),
                end => {
                    outcome.end = Some(end);
                    break;
                }
            }
        }
        while !inbound.passing().is_empty() {
            let count = inbound.passing().len().min(sink);
            outcome.passed.extend_from_slice(&inbound.passing()[..count]);
            inbound.advance(count);
        }
    }
    outcome
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let encoded = |request: Request<'_>| {
        let mut out = Vec::new();
        request.encode(&mut out);
        out
    };
    prop_oneof![
        Just(encoded(Request::Leader)),
        (0..1_u64 << 40).prop_map(move |id| encoded(Request::Client { id })),
        "[a-z ]{0,200}".prop_map(move |sql| encoded(Request::Prepare {
            db: 0,
            sql: sql.as_bytes()
        })),
    ]
}

fn stream(requests: &[Vec<u8>]) -> Vec<u8> {
    [&wire::VERSION.to_le_bytes()[..], &requests.concat()].concat()
}

proptest! {
    #[test]
    fn valid_requests_pass_however_they_arrive(
        requests in prop::collection::vec(request(), 1..20),
        sizes in prop::collection::vec(1..300_usize, 1..10),
        sink in 1..300_usize,
    ) {
        let bytes = stream(&requests);
        let outcome = feed(&bytes, &sizes, sink);
        prop_assert_eq!(outcome, Outcome { passed: bytes, requests: requests.len(), end: None });
    }

    #[test]
    fn a_bad_one_stops_the_stream_exactly_before_it(
        requests in prop::collection::vec(request(), 1..10),
        kind in 20..=255_u8,
        tail in prop::collection::vec(any::<u8>(), 0..100),
        sizes in prop::collection::vec(1..300_usize, 1..10),
    ) {
        let good = stream(&requests);
        let bytes = [&good[..], &[1, 0, 0, 0, kind, 0, 0, 0], &tail].concat();
        let outcome = feed(&bytes, &sizes, 1000);
        prop_assert_eq!(outcome.passed, good);
        prop_assert!(matches!(outcome.end, Some(Step::Refused(_))));
    }

    #[test]
    fn any_bytes_are_survived_and_what_passes_is_a_prefix(
        bytes in prop::collection::vec(prop_oneof![3 => 0..20_u8, 1 => any::<u8>()], 0..400),
        versioned in any::<bool>(),
        sizes in prop::collection::vec(1..50_usize, 1..10),
    ) {
        let bytes = if versioned { stream(&[bytes]) } else { bytes };
        let pieces = feed(&bytes, &sizes, 7);
        prop_assert!(bytes.starts_with(&pieces.passed));
        prop_assert_eq!(pieces, feed(&bytes, &[usize::MAX], usize::MAX));
    }
}

fn link(id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let address = b"10.0.0.7:9001";
    Request::Connect { id, address }.encode(&mut out);
    out
}

#[test]
fn a_link_that_is_not_admitted_passes_nothing() {
    let outcome = feed(&[stream(&[link(8)]), vec![9; 100]].concat(), &[13], 5);
    let address = "10.0.0.7:9001".to_owned();
    assert_eq!(outcome.end, Some(Step::Link { id: 8, address }));
    assert!(outcome.passed.is_empty());
}

#[test]
fn an_admitted_link_passes_everything() {
    let bytes = [stream(&[link(7)]), vec![255; 1000]].concat();
    for size in [1, 7, 1000, usize::MAX] {
        let outcome = feed(&bytes, &[size], 11);
        assert_eq!((outcome.passed, outcome.end), (bytes.clone(), None));
    }
}

#[test]
fn what_a_request_lacks_is_known_from_its_header() {
    let mut inbound = Inbound::new();
    let bytes = stream(&[vec![4, 0, 0, 0, 4, 0, 0]]);
    for (count, byte) in bytes.iter().enumerate() {
        assert_eq!((inbound.lacking(), inbound.in_handshake()), (0, true), "after {count}");
        inbound.buffer().push(*byte);
        assert_eq!(inbound.step(&limits()), Step::More);
    }
    inbound.buffer().push(0);
    assert_eq!(inbound.step(&limits()), Step::More);
    assert_eq!((inbound.lacking(), inbound.in_request()), (32, true));
    assert!(inbound.buffer().capacity() < 1000, "the header alone reserves nothing");
}
