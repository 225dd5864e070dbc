//! Everything that must be refused: bodies cut short, counts that lie, requests that kill.

use super::*;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn header(kind: u8, schema: u8, body: &[u8]) -> Header {
    Header {
        words: (body.len() / 8) as u32,
        kind,
        schema,
    }
}

/// The code that `body` is refused with as a request of type `kind`.
fn refusal(kind: u8, schema: u8, body: &[u8]) -> u64 {
    let refused = Request::decode(header(kind, schema, body), body).unwrap_err();
    let name = request_name(kind);
    assert!(refused.message.starts_with(name), "{}", refused.message);
    refused.code
}

fn accepted(request: &Request<'_>) -> bool {
    let mut out = Vec::new();
    request.encode(&mut out);
    let (head, body) = out.split_first_chunk().unwrap();
    Request::decode(Header::parse(head), body).as_ref() == Ok(request)
}

#[test]
fn types_and_schemas() {
    for kind in 0..=u8::MAX {
        let body = words(&[1, 1, 1, 0]);
        let Some(spec) = spec(kind) else {
            assert!(kind == 2 || kind > 19);
            assert_eq!(refusal(kind, 0, &body), 1005);
            continue;
        };
        assert_eq!((spec.kind, spec.name), (kind, request_name(kind)));
        let code = if (4..=9).contains(&kind) && kind != 7 { 1 } else { 1005 };
        assert_eq!(refusal(kind, spec.schema + 1, &body), code);
        assert_eq!(refusal(kind, 255, &body), code);
        assert_eq!(refusal(kind, 0, &[]), 1005);
        let long = Header {
            words: 1 << 28,
            kind,
            schema: 0,
        };
        assert!(long.check_request().is_err());
        let at_limit = Header {
            words: (1 << 28) - 1,
            kind,
            schema: 0,
        };
        assert!(at_limit.check_request().is_ok());
        assert_eq!(at_limit.body_len(), MAX_REQUEST_BODY);
    }
    assert_eq!(request_name(2), "HEARTBEAT");
}

#[test]
fn columns_of_the_table() {
    let kinds = |wanted: fn(&Spec) -> bool| -> Vec<u8> {
        (0..=u8::MAX).filter(|kind| spec(*kind).is_some_and(wanted)).collect()
    };
    assert_eq!(kinds(|spec| spec.leader_only), [3, 4, 5, 6, 8, 9, 12, 13, 14, 17]);
    assert_eq!(kinds(|spec| !spec.client), [11]);
    assert_eq!(kinds(|spec| spec.schema == 1), [4, 5, 6, 8, 9]);
}

#[test]
fn body_and_header_disagree() {
    let body = words(&[0, 0]);
    for words in [1, 3, u32::MAX] {
        let header = Header {
            words,
            kind: 1,
            schema: 0,
        };
        assert_eq!(Request::decode(header, &body).unwrap_err().code, 1005);
        let header = Header {
            words,
            kind: 2,
            schema: 0,
        };
        assert!(Response::decode(header, &body).is_err());
    }
}

#[test]
fn words_behind_the_fields_are_let_through() {
    let body = words(&[7, 8, 9]);
    let weight = Request::decode(header(19, 0, &body), &body);
    assert_eq!(weight, Ok(Request::Weight { weight: 7 }));
    assert!(Request::decode(header(0, 0, &body), &body).is_ok());
}

#[test]
fn numbers_that_kill() {
    let address = b"a:1";
    for kind in [11, 12, 13, 14] {
        assert_eq!(refusal(kind, 0, &words(&[0, 0x61, 0])), 1);
    }
    for kind in [11, 12] {
        // No address, then one without its NUL.
        assert_eq!(refusal(kind, 0, &words(&[1, 0])), 1);
        assert_eq!(refusal(kind, 0, &words(&[1, u64::MAX])), 1005);
    }
    assert!(accepted(&Request::Add { id: 1, address }));
    for role in 0..3 {
        assert!(accepted(&Request::Assign { id: 1, role }));
    }
    for role in [3, u64::MAX, 1 << 32] {
        assert_eq!(refusal(13, 0, &words(&[1, role])), 1);
    }
    let promote = words(&[5]);
    let assign = Request::decode(header(13, 0, &promote), &promote);
    assert_eq!(assign, Ok(Request::Assign { id: 5, role: 0 }));
    for format in [2, 1 << 32, u64::MAX] {
        assert_eq!(refusal(16, 0, &words(&[format])), 1005);
    }
    for format in [1, 1 << 32] {
        assert_eq!(refusal(18, 0, &words(&[format])), 15);
    }
    assert!(accepted(&Request::Transfer { id: 0 }));
    assert!(accepted(&Request::Interrupt { db: 9 }));
}

#[test]
fn names_of_databases() {
    let open = |name| Request::Open {
        name,
        flags: 0,
        vfs: b"",
    };
    for name in [
        &[b'n'; 200][..],
        b"a.db",
        b"-wal.db",
        "d\u{e9}j\u{e0} vu".as_bytes(),
        b"\xff",
    ] {
        assert!(accepted(&open(name)));
    }
    for name in [
        &b""[..],
        &[b'n'; 201],
        b"a/b",
        b":memory:",
        b"a?b",
        b"a-wal",
        b"a.db-journal",
    ] {
        let mut out = Vec::new();
        open(name).encode(&mut out);
        assert_eq!(refusal(3, 0, &out[8..]), 1);
    }
    // The second text or the flags missing; a first text without an end.
    assert_eq!(refusal(3, 0, &words(&[0x61])), 1005);
    assert_eq!(refusal(3, 0, &words(&[0x61, 0])), 1005);
    assert_eq!(refusal(3, 0, &words(&[u64::MAX, u64::MAX, u64::MAX])), 1005);
}

#[test]
fn parameters() {
    // Of EXEC, behind database and statement. Count 0, then types in a word that is there.
    let decoded = |schema, tuple: &[u64]| {
        let body = words(&[&[0], tuple].concat());
        Request::decode(header(5, schema, &body), &body)
            .map(|_| ())
            .map_err(|e| e.code)
    };
    for schema in 0..2 {
        assert_eq!(decoded(schema, &[]), Ok(()));
        assert_eq!(decoded(schema, &[0]), Ok(()));
    }
    assert_eq!(decoded(0, &[0x0501, 1]), Ok(()));
    assert_eq!(decoded(0, &[0x0501]), Err(1005));
    assert_eq!(decoded(1, &[0x0005_0000_0001, 1]), Ok(()));
    // More types than the body holds.
    assert_eq!(decoded(0, &[0x01ff, 1]), Err(1005));
    assert_eq!(decoded(1, &[0x0001_ffff_ffff, 1]), Err(1005));
    // UNIXTIME, and codes that do not exist.
    assert_eq!(decoded(0, &[0x0901, 1]), Err(1));
    for code in [0, 6, 7, 8, 12, 0x11, 0xff] {
        assert_eq!(decoded(0, &[code << 8 | 1, 1]), Err(1005), "{code}");
    }
    // A text without NUL, blobs of lengths that leave the body.
    assert_eq!(decoded(0, &[0x0301, u64::MAX]), Err(1005));
    assert_eq!(decoded(0, &[0x0401, 8, 0]), Ok(()));
    for length in [9, u64::MAX, u64::MAX - 8, 1 << 63] {
        assert_eq!(decoded(0, &[0x0401, length, 0]), Err(1005), "{length}");
    }
}

#[test]
fn the_schema_follows_the_count() {
    for (count, schema, head) in [(255, 0, 256), (256, 1, 264), (70_000, 1, 70_008)] {
        let values = vec![Value::Integer(-1); count];
        let params = Params::new(&values);
        let request = Request::Query { db: 0, stmt: 1, params };
        let mut out = Vec::new();
        request.encode(&mut out);
        assert_eq!(out[5], schema);
        assert_eq!(out.len(), 16 + head + count * 8);
        assert!(accepted(&request));
    }
}

#[test]
fn a_refusal_says_where() {
    let body = words(&[0, u64::MAX]);
    let refused = Request::decode(header(8, 0, &body), &body).unwrap_err();
    let expected = "EXEC_SQL: sql: text is cut off or not valid at byte 8 of the body";
    assert_eq!(refused.message, expected);
}

/// The field that decoding a response stumbles over, and where.
fn stumbles(kind: u8, schema: u8, body: &[u8]) -> (&'static str, usize) {
    let error = match Response::decode(header(kind, schema, body), body) {
        Ok(Response::Rows(mut rows)) => loop {
            match rows.next_row() {
                Ok(true) => {}
                Ok(false) => panic!("ended well"),
                Err(error) => {
                    assert!(rows.next_row().is_err(), "nothing is read after an error");
                    break error;
                }
            }
        },
        other => other.unwrap_err(),
    };
    (error.what, error.at)
}

#[test]
fn responses_that_lie() {
    const NAME: u64 = 0x6e;
    const END: u64 = u64::MAX;
    let cases: &[(u8, u8, &[u64], &str, usize)] = &[
        (11, 0, &[0], "response type", 0),
        (4, 1, &[0], "response schema", 0),
        (5, 2, &[0, 0, 0], "response schema", 0),
        (5, 1, &[0, 0], "tail offset", 16),
        (4, 0, &[], "database id", 0),
        (6, 0, &[1], "rows affected", 8),
        (0, 0, &[1, 0, 0], "bytes behind the failure message", 16),
        (0, 0, &[1, u64::MAX], "failure message", 8),
        (3, 0, &[1 << 60], "number of entries", 8),
        (3, 0, &[2, 1, NAME, 0], "number of entries", 8),
        (3, 0, &[1, 1, NAME, 3], "member role", 32),
        (3, 0, &[0, 0], "bytes behind the last entry", 8),
        (9, 0, &[1, NAME, 7, 0], "file size", 24),
        (9, 0, &[1, NAME, 16, 0], "file content", 24),
        (7, 0, &[], "column count", 0),
        (7, 0, &[2, NAME], "column count", 8),
        (7, 0, &[u64::MAX, NAME], "column count", 8),
        (7, 0, &[1, END], "column name", 8),
        (7, 0, &[1, NAME], "row or end word", 16),
        (7, 0, &[0, 1, END], "row without columns", 8),
        (7, 0, &[0, END, 0], "bytes behind the end word", 16),
        (7, 0, &[1, NAME, 1], "integer value", 24),
        (7, 0, &[1, NAME, 0, 0], "value of an unknown type", 24),
        (7, 0, &[1, NAME, 0xc, 0], "value of an unknown type", 24),
        (7, 0, &[1, NAME, 3, END], "text value", 24),
        (7, 0, &[1, NAME, 4, 9, 0], "blob value", 32),
        (7, 0, &[1, NAME, 4, u64::MAX - 3, 0], "blob value", 32),
    ];
    for (kind, schema, body, what, at) in cases {
        assert_eq!(stumbles(*kind, *schema, &words(body)), (*what, *at), "{body:x?}");
    }
}

#[test]
fn half_a_row_header() {
    let mut body = vec![17];
    body.extend([0x6e; 17]);
    body.push(0x11);
    assert_eq!(stumbles(7, 0, &words(&body)), ("row header", 18 * 8));
}

/// Rows that end behind the failure, not in front of it: then it is none.
#[test]
fn failure_inside_a_row() {
    let abc = u64::from_le_bytes(*b"abc\0\0\0\0\0");
    let body = words(&[1, 0x6e, 4, 8, 5, abc]);
    let decoded = Response::decode_query(header(0, 0, &body), &body);
    assert!(decoded.is_err(), "{decoded:?}");
}

/// Garbage behind a blob is not looked at, and not an error.
#[test]
fn padding_of_a_blob_is_not_read() {
    let body = words(&[1, 0x6e, 4, 3, u64::MAX, u64::MAX]);
    let mut rows = Rows::parse(&body).unwrap();
    assert!(rows.next_row().unwrap());
    assert_eq!(rows.next_value(), Ok(Value::Blob(&[0xff; 3])));
    assert!(!rows.next_row().unwrap());
}
