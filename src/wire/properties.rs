//! What holds for all messages: they come back as they were sent, and no bytes make a panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A value that owns its bytes.
#[derive(Clone, Debug)]
enum Owned {
    Plain(Value<'static>),
    Text(Vec<u8>),
    Blob(Vec<u8>),
    Iso8601(Vec<u8>),
}

impl Owned {
    fn borrow(&self) -> Value<'_> {
        match self {
            Self::Plain(value) => *value,
            Self::Text(bytes) => Value::Text(bytes),
            Self::Blob(bytes) => Value::Blob(bytes),
            Self::Iso8601(bytes) => Value::Iso8601(bytes),
        }
    }
}

/// Lengths on both sides of the words, and of where text is searched another way.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(1u8.., 0..20), vec(1u8.., 20..100)]
}

fn value() -> impl Strategy<Value = Owned> {
    prop_oneof![
        Just(Owned::Plain(Value::Null)),
        any::<i64>().prop_map(|n| Owned::Plain(Value::Integer(n))),
        any::<u64>().prop_map(|n| Owned::Plain(Value::Boolean(n))),
        any::<f64>().prop_map(|n| Owned::Plain(Value::Real(n))),
        text().prop_map(Owned::Text),
        text().prop_map(Owned::Iso8601),
        vec(any::<u8>(), 0..30).prop_map(Owned::Blob),
    ]
}

/// As they come in rows. The engine binds no UNIXTIME, but it sends some.
fn column() -> impl Strategy<Value = Owned> {
    prop_oneof![7 => value(), 1 => any::<i64>().prop_map(|n| Owned::Plain(Value::UnixTime(n)))]
}

/// Every answer but ROWS that a server gives, as (type, schema, body), with what it says in one line. The layouts are written
/// down here a second time. [protocol 6]
fn answers(n: u64, text: &[u8], entries: usize) -> Vec<(u8, u8, Vec<u8>, String)> {
    let string = [text, &vec![0; 8 - text.len() % 8]].concat();
    let word = |n: u64| n.to_le_bytes().to_vec();
    let halves = |a: u64, b: u64| word(a & 0xffff_ffff | b << 32);
    let list = |entry: &dyn Fn(u64) -> Vec<u8>| {
        let all: Vec<_> = (0..entries as u64).flat_map(entry).collect();
        [word(entries as u64), all].concat()
    };
    let (low, high) = (n as u32, (n >> 32) as u32);
    let role = |at: u64| [Role::Voter, Role::StandBy, Role::Spare][at as usize % 3];
    let members: Vec<_> = (0..entries as u64)
        .map(|at| Member {
            id: n ^ at,
            address: text,
            role: role(at),
        })
        .collect();
    let (code, message) = (n, text);
    let said = |answer: Response<'_>| format!("{answer:?}");
    vec![
        (
            0,
            0,
            [word(n), string.clone()].concat(),
            said(Response::Failure { code, message }),
        ),
        (
            1,
            0,
            [word(n), string.clone()].concat(),
            said(Response::Node { id: n, address: text }),
        ),
        (2, 0, word(n), said(Response::Welcome { heartbeat_ms: n })),
        (
            3,
            0,
            list(&|at| [word(n ^ at), string.clone(), word(role(at).into())].concat()),
            said(Response::Nodes(members)),
        ),
        (4, 0, halves(n, 0), said(Response::Db { id: low })),
        (
            5,
            0,
            [word(n), word(!n)].concat(),
            said(Response::Stmt {
                db: low,
                id: high,
                params: !n,
                tail: None,
            }),
        ),
        (
            5,
            1,
            [word(n), word(!n), word(n ^ 7)].concat(),
            said(Response::Stmt {
                db: low,
                id: high,
                params: !n,
                tail: Some(n ^ 7),
            }),
        ),
        (
            6,
            0,
            [word(n), word(!n)].concat(),
            said(Response::Result {
                last_insert_id: n.cast_signed(),
                rows_affected: !n,
            }),
        ),
        (8, 0, word(n), said(Response::Empty)),
        (
            10,
            0,
            [word(n), word(!n)].concat(),
            said(Response::Metadata {
                failure_domain: n,
                weight: !n,
            }),
        ),
    ]
}

fn requests<'a>(n: u64, text: &'a [u8], params: Params<'a>) -> Vec<Request<'a>> {
    let (db, stmt) = (n as u32, (n >> 32) as u32);
    let (sql, vfs, address) = (text, text, text);
    let id = n;
    vec![
        Request::Leader,
        Request::Client { id },
        Request::Open {
            name: b"a.db",
            flags: n,
            vfs,
        },
        Request::Prepare { db: n, sql },
        Request::Exec { db, stmt, params },
        Request::Query { db, stmt, params },
        Request::Finalize { db, stmt },
        Request::ExecSql { db: n, sql, params },
        Request::QuerySql { db: n, sql, params },
        Request::Interrupt { db: n },
        Request::Connect { id, address },
        Request::Add { id, address },
        Request::Assign { id, role: 1 + n % 2 },
        Request::Remove { id },
        Request::Dump { name: text },
        Request::Cluster { format: n % 2 },
        Request::Transfer { id },
        Request::Describe { format: 0 },
        Request::Weight { weight: n },
    ]
}

/// Reads everything there is to read, and says how many values that was.
fn drain(response: Response<'_>) -> usize {
    let Response::Rows(mut rows) = response else {
        return response.name().len();
    };
    let mut values = rows.names().len();
    while let Ok(true) = rows.next_row() {
        while rows.next_value().is_ok() {
            values += 1;
        }
    }
    values
}

/// Feeds the bytes to every decoder there is.
fn decode_all(header: Header, body: &[u8]) -> usize {
    let mut read = usize::from(Request::decode(header, body).is_ok());
    for kind in 0..12 {
        let header = Header { kind, ..header };
        read += Response::decode(header, body).map_or(0, drain);
        read += Response::decode_query(header, body).map_or(0, drain);
    }
    read + Rows::parse(body).map_or(0, |rows| drain(Response::Rows(rows)))
}

/// The message of a row of these values, twice, in the layout of [protocol 4.2].
fn rows_message(values: &[Value<'_>], end: u8) -> Vec<u8> {
    let mut body = (values.len() as u64).to_le_bytes().to_vec();
    values.iter().for_each(|_| body.extend(*b"column\0\0"));
    for _ in 0..2 {
        let start = body.len();
        for pair in values.chunks(2) {
            body.push(pair[0].code() | pair.get(1).map_or(0, Value::code) << 4);
        }
        while !(body.len() - start).is_multiple_of(8) {
            body.push(0);
        }
        values.iter().for_each(|value| value.write(&mut body));
    }
    body.extend([end; 8]);
    body
}

proptest! {
    // Failures are for the report, not for files next to the sources.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_come_back(n in 1u64.., sql in vec(1u8.., 1..70), owned in vec(value(), 0..40)) {
        let values: Vec<_> = owned.iter().map(Owned::borrow).collect();
        for request in requests(n, &sql, Params::new(&values)) {
            for schema in request.schema()..=spec(request.kind()).unwrap().schema {
                let mut out = Vec::new();
                request.encode_as(schema, &mut out);
                let (head, body) = out.split_first_chunk().unwrap();
                let header = Header::parse(head);
                prop_assert_eq!(header.body_len(), body.len() as u64);
                let decoded = Request::decode(header, body);
                prop_assert_eq!(&decoded, &Ok(request));
                // What was decoded encodes to the same bytes again.
                let mut again = Vec::new();
                decoded.unwrap().encode_as(schema, &mut again);
                prop_assert_eq!(&out, &again);
                // And no part of it is taken for the whole.
                for cut in 1..=body.len() / 8 {
                    let body = &body[..body.len() - cut * 8];
                    let header = Header { words: (body.len() / 8) as u32, ..header };
                    if let Ok(short) = Request::decode(header, body) {
                        // A failure here shows a cut that nobody could notice.
                        prop_assert!(short != request);
                    }
                }
            }
        }
    }

    #[test]
    fn rows_come_back(owned in vec(column(), 1..40), more in any::<bool>(), skip in 0usize..40) {
        let values: Vec<_> = owned.iter().map(Owned::borrow).collect();
        let body = rows_message(&values, if more { 0xee } else { 0xff });
        let mut rows = Rows::parse(&body).unwrap();
        prop_assert!(rows.next_row().unwrap());
        for value in values.iter().take(skip) {
            prop_assert_eq!(rows.next_value().unwrap(), *value);
        }
        prop_assert!(rows.next_row().unwrap());
        for value in &values {
            prop_assert_eq!(rows.next_value().unwrap(), *value);
        }
        prop_assert!(!rows.next_row().unwrap());
        prop_assert_eq!(rows.end() == Some(End::More), more);
    }

    #[test]
    fn answers_come_back(n in any::<u64>(), text in text(), entries in 0usize..20) {
        for (kind, schema, body, said) in answers(n, &text, entries) {
            let header = Header { words: (body.len() / 8) as u32, kind, schema };
            let decoded = Response::decode(header, &body);
            prop_assert_eq!(decoded.map(|answer| format!("{answer:?}")), Ok(said.clone()));
            // Not one word less is taken for the whole.
            let short = &body[..body.len() - 8];
            let header = Header { words: header.words - 1, ..header };
            let decoded = Response::decode(header, short);
            prop_assert!(decoded.as_ref().map_or(true, |answer| format!("{answer:?}") != said), "{:?}", decoded);
        }
    }

    /// A failure behind any rows is found, and rows are never taken for one.
    #[test]
    fn failures_behind_rows(
        owned in vec(value(), 1..20),
        code in 0u64..1 << 16,
        text in "[a-zA-Z0-9 .:]{0,40}",
    ) {
        let values: Vec<_> = owned.iter().map(Owned::borrow).collect();
        let mut body = rows_message(&values, 0xff);
        body.truncate(body.len() - 8);
        let mut failure = Vec::new();
        encode_failure(code, &text, &mut failure);
        body.extend(&failure[8..]);
        let header = Header { words: (body.len() / 8) as u32, kind: 0, schema: 0 };
        prop_assert!(Response::decode(header, &body).is_err());
        let decoded = Response::decode_query(header, &body);
        match decoded {
            Ok(Response::Failure { code: found, message }) => {
                prop_assert_eq!((found, message), (code, text.as_bytes()));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn random_bytes_do_no_harm(
        kind in 0u8..22,
        schema in 0u8..3,
        body in vec(prop_oneof![Just(0u8), 1u8..12, any::<u8>()], 0..200),
    ) {
        let words = (body.len() / 8) as u32;
        decode_all(Header { words, kind, schema }, &body[..words as usize * 8]);
        decode_all(Header { words, kind, schema }, &body);
        let _ = Rows::parse(&body).map(|rows| drain(Response::Rows(rows)));
    }

    #[test]
    fn broken_messages_do_no_harm(
        owned in vec(value(), 0..20),
        n in any::<u64>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let values: Vec<_> = owned.iter().map(Owned::borrow).collect();
        let mut messages = vec![[&[0, 0, 0, 0, 7, 0, 0, 0][..], &rows_message(&values, 0xff)].concat()];
        for request in requests(n, b"SELECT 1", Params::new(&values)) {
            messages.push(Vec::new());
            request.encode(messages.last_mut().unwrap());
        }
        for mut bytes in messages {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let (head, body) = bytes.split_first_chunk().unwrap();
            for body in [body, &body[..cut.index(body.len() + 1)]] {
                let header = Header { words: (body.len() / 8) as u32, ..Header::parse(head) };
                decode_all(header, body);
            }
        }
    }
}
