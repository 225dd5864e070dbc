//! The checks alone: nothing that is not in order is let through, and not a byte too much is asked for.

use proptest::prelude::*;

use super::*;

const LIMIT: u64 = 1 << 10;

/// Gives a greeting what it asks for, in pieces of at most `size`; how much it took, and what came of it.
fn greet(bytes: &[u8], size: usize) -> (usize, Step) {
    let mut greeting = Greeting::default();
    loop {
        let taken = greeting.buffer().len();
        match greeting.step(LIMIT) {
            Step::More(lacking) if taken < bytes.len() => {
                let end = bytes.len().min(taken + lacking.min(size));
                greeting.buffer().extend_from_slice(&bytes[taken..end]);
            }
            step => return (taken, step),
        }
    }
}

fn encoded(request: Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    request.encode(&mut out);
    out
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(encoded(Request::Leader)),
        (0..1_u64 << 40).prop_map(|id| encoded(Request::Client { id })),
        "[a-z ]{0,200}".prop_map(|sql| encoded(Request::Prepare {
            db: 0,
            sql: sql.as_bytes()
        })),
    ]
}

fn hello(rest: &[u8]) -> Vec<u8> {
    [&wire::VERSION.to_le_bytes()[..], rest].concat()
}

fn later(bytes: &[u8]) -> Result<(), Refused> {
    let mut later = Later::default();
    later.header(bytes.first_chunk().unwrap(), LIMIT)?;
    later.body(&bytes[HEADER_LEN..])
}

proptest! {
    #[test]
    fn a_good_request_is_taken_to_its_last_byte(
        request in request(),
        size in 1..300_usize,
        tail in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let bytes = hello(&request);
        prop_assert_eq!(greet(&[&bytes[..], &tail].concat(), size), (bytes.len(), Step::Request));
        prop_assert_eq!(later(&request), Ok(()));
    }

    #[test]
    fn a_bad_one_is_refused_by_its_header(kind in 20..=255_u8, size in 1..50_usize, tail in prop::collection::vec(any::<u8>(), 0..100)) {
        let bytes = [&[1, 0, 0, 0, kind, 0, 0, 0], &tail[..]].concat();
        let (taken, step) = greet(&hello(&bytes), size);
        prop_assert_eq!(taken, 16);
        prop_assert!(matches!(step, Step::Refused(_)));
        prop_assert!(later(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_survived_in_any_pieces(
        bytes in prop::collection::vec(prop_oneof![3 => 0..20_u8, 1 => any::<u8>()], 0..400),
        versioned in any::<bool>(),
        size in 1..50_usize,
    ) {
        let bytes = if versioned { hello(&bytes) } else { bytes };
        prop_assert_eq!(greet(&bytes, size), greet(&bytes, usize::MAX));
    }
}

#[test]
fn a_link_says_whose_it_is_and_comes_first_or_never() {
    let address = b"10.0.0.7:9001";
    let bytes = encoded(Request::Connect { id: 8, address });
    let address = "10.0.0.7:9001".to_owned();
    let link = Step::Link { id: 8, address };
    assert_eq!(
        greet(&hello(&[&bytes[..], &[9; 100]].concat()), 13),
        (8 + bytes.len(), link)
    );
    assert!(later(&bytes).unwrap_err().message.starts_with("CONNECT"));
}

#[test]
fn what_is_too_long_is_refused_by_its_header() {
    let bytes = [129, 0, 0, 0, 4, 0, 0, 0];
    assert!(matches!(
        greet(&hello(&bytes), 8),
        (16, Step::Refused(Refused { code: TOO_BIG, .. }))
    ));
    assert_eq!(later(&bytes).unwrap_err().code, TOO_BIG);
}
