//! Every vector of the reference in both directions, and every refusal.

use super::cursor::Cursor;
use super::vectors as v;
use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Splits a message into its header and body.
fn message(bytes: &[u8]) -> (Header, &[u8]) {
    let (head, body) = bytes.split_first_chunk().unwrap();
    (Header::parse(head), body)
}

/// A message of type `kind` whose header tells the truth about `body`.
fn framed(kind: u8, schema: u8, body: &[u8]) -> (Header, &[u8]) {
    let words = (body.len() / 8) as u32;
    (Header { words, kind, schema }, body)
}

/// `request` and the vector are the same, in both directions.
fn same_as(schema: u8, request: Request<'_>, hex: &str) {
    // Something in front: a message must not depend on where in the buffer it starts.
    let mut out = b"abc".to_vec();
    request.encode_as(schema, &mut out);
    assert_eq!(out[3..], bytes(hex), "{request:?}");
    let (header, body) = message(&out[3..]);
    assert_eq!(header.schema, schema);
    assert_eq!(Request::decode(header, body), Ok(request));
}

/// The same, in the schema that we send.
fn sent_as(request: Request<'_>, hex: &str) {
    same_as(request.schema(), request, hex);
}

const SEVEN: &[Value<'_>] = &[
    Value::Integer(-2),
    Value::Real(1.5),
    Value::Text(b"hi"),
    Value::Blob(&[1, 2, 3]),
    Value::Null,
    Value::Iso8601(b"2024-01-02 03:04:05"),
    Value::Boolean(1),
];

fn exec_sql<'a>(sql: &'a str, params: &'a [Value<'a>]) -> Request<'a> {
    Request::ExecSql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::new(params),
    }
}

fn query_sql<'a>(sql: &'a str, params: &'a [Value<'a>]) -> Request<'a> {
    Request::QuerySql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::new(params),
    }
}

#[test]
fn version_words() {
    assert_eq!(VERSION.to_le_bytes().to_vec(), bytes(v::R01));
    assert_eq!(VERSION_LEGACY.to_le_bytes().to_vec(), bytes(v::R30));
}

#[test]
fn requests_that_run_sql() {
    let insert = "INSERT INTO t VALUES(?,?,?,?,?,?,?)";
    let create = "CREATE TABLE t(i INTEGER, f REAL, s TEXT, b BLOB, n INT, ts DATETIME, bo BOOLEAN)";
    sent_as(exec_sql(create, &[]), v::R05);
    sent_as(exec_sql(insert, SEVEN), v::R06);
    same_as(1, exec_sql(insert, SEVEN), v::R07);
    sent_as(query_sql("SELECT * FROM t LIMIT 1", &[]), v::R08);
    let eight: Vec<_> = (1..=8).map(Value::Integer).collect();
    sent_as(query_sql("SELECT ?+?+?+?+?+?+?+?", &eight), v::R09);
    let five = [
        Value::Integer(1),
        Value::Text(b"a"),
        Value::Null,
        Value::Real(2.0),
        Value::Blob(b""),
    ];
    same_as(1, query_sql("SELECT ?,?,?,?,?", &five), v::R10);
    sent_as(query_sql("INSERT INTO t(i) VALUES(3)", &[]), v::R11);
    let fails = "SELECT abs(-9223372036854775808) AS thecolumn";
    sent_as(query_sql(fails, &[]), v::R22);
    let wide = "SELECT 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17";
    sent_as(query_sql(wide, &[]), v::R31);
    let page = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n<255) \
                SELECT n FROM s";
    sent_as(query_sql(page, &[]), v::R32);
}

#[test]
fn requests_about_statements() {
    let one = Request::Prepare {
        db: 0,
        sql: b"SELECT i FROM t WHERE i = ?",
    };
    same_as(0, one, v::R12);
    let two = Request::Prepare {
        db: 0,
        sql: b"SELECT 1; SELECT 2",
    };
    sent_as(two, v::R13);
    let three = [Value::Integer(3)];
    let query = Request::Query {
        db: 0,
        stmt: 0,
        params: Params::new(&three),
    };
    sent_as(query, v::R14);
    sent_as(Request::Finalize { db: 0, stmt: 1 }, v::R15);
    let exec = Request::Exec {
        db: 0,
        stmt: 0,
        params: Params::NONE,
    };
    sent_as(exec, v::R28);
}

#[test]
fn other_requests() {
    let address = b"10.0.0.2:9000";
    let open = Request::Open {
        name: b"test.db",
        flags: 0,
        vfs: b"volatile",
    };
    sent_as(Request::Leader, v::R02);
    sent_as(Request::Client { id: 0 }, v::R03);
    sent_as(open, v::R04);
    sent_as(Request::Interrupt { db: 0 }, v::R16);
    sent_as(Request::Cluster { format: 0 }, v::R17);
    sent_as(Request::Cluster { format: 1 }, v::R18);
    sent_as(Request::Describe { format: 0 }, v::R19);
    sent_as(Request::Weight { weight: 3 }, v::R20);
    sent_as(Request::Add { id: 2, address }, v::R23);
    sent_as(Request::Assign { id: 2, role: 1 }, v::R24);
    sent_as(Request::Remove { id: 2 }, v::R25);
    sent_as(Request::Transfer { id: 2 }, v::R26);
    sent_as(Request::Dump { name: b"test.db" }, v::R27);
    sent_as(Request::Connect { id: 2, address }, v::R29);
}

/// What a response says, in the words of `Debug`.
fn reads(hex: &str) -> String {
    let bytes = bytes(hex);
    let (header, body) = message(&bytes);
    let response = Response::decode(header, body).unwrap();
    // A reply to a query that is whole must read the same either way.
    let again = Response::decode_query(header, body).unwrap();
    assert_eq!(format!("{response:?}"), format!("{again:?}"));
    format!("{response:?}")
}

fn says(response: &Response<'_>) -> String {
    format!("{response:?}")
}

#[test]
fn responses_of_fixed_layout() {
    let address = b"127.0.0.1:9310";
    assert_eq!(reads(v::S01), says(&Response::Node { id: 1, address }));
    let heartbeat_ms = 15000;
    assert_eq!(reads(v::S02), says(&Response::Welcome { heartbeat_ms }));
    assert_eq!(reads(v::S03), says(&Response::Db { id: 0 }));
    let result = Response::Result {
        last_insert_id: 1,
        rows_affected: 1,
    };
    assert_eq!(reads(v::S04), says(&result));
    let stmt = |id, params, tail| Response::Stmt {
        db: 0,
        id,
        params,
        tail,
    };
    assert_eq!(reads(v::S09), says(&stmt(0, 1, None)));
    assert_eq!(reads(v::S10), says(&stmt(1, 0, Some(9))));
    assert_eq!(reads(v::S12), says(&Response::Empty));
    let metadata = Response::Metadata {
        failure_domain: 7,
        weight: 0,
    };
    assert_eq!(reads(v::S15), says(&metadata));
}

#[test]
fn responses_that_are_lists() {
    let member = Member {
        id: 1,
        address: b"127.0.0.1:9310",
        role: Role::Voter,
    };
    assert_eq!(reads(v::S14), says(&Response::Nodes(vec![member])));
    let file = |name, data| File { name, data };
    let files = vec![file(b"a.db", b"ABCDEFGH"), file(b"a.db-wal", b"")];
    assert_eq!(reads(v::S23), says(&Response::Files(files)));
    // Format 0 has no roles: it ends where one is expected.
    let without = bytes(v::S13);
    let (header, body) = message(&without);
    let error = Response::decode(header, body).unwrap_err();
    assert_eq!((error.what, error.at), ("member role", 32));
}

#[test]
fn legacy_node_is_a_text_alone() {
    let bytes = bytes(v::S20);
    let (header, body) = message(&bytes);
    assert_eq!((header.kind, header.words), (1, 2));
    assert_eq!(Cursor::new(body).text("").unwrap(), b"127.0.0.1:9310");
}

#[test]
fn failures() {
    let failure = |code, message| says(&Response::Failure { code, message });
    assert_eq!(reads(v::S16), failure(1005, b"unrecognized request type"));
    assert_eq!(reads(v::S18), failure(1, b"Resource not found"));
    assert_eq!(reads(v::S19), failure(1, b"server ID is not valid"));
    assert_eq!(reads(v::S24), failure(10250, b"not leader"));
    for (code, text, vector) in [
        (1005, "unrecognized request type", v::S16),
        (10250, "not leader\0and more", v::S24),
    ] {
        let mut out = b"x".to_vec();
        encode_failure(code, text, &mut out);
        assert_eq!(out[1..], bytes(vector));
    }
}

#[test]
fn failure_behind_rows() {
    let (code, message) = (1, &b"integer overflow"[..]);
    let expected = says(&Response::Failure { code, message });
    let s17 = bytes(v::S17);
    let (header, body) = self::message(&s17);
    assert_eq!(says(&Response::decode_query(header, body).unwrap()), expected);
    // Taken for a plain failure it would be code 1, "thecolumn": never that.
    assert!(Response::decode(header, body).is_err());

    // The same behind no column at all, and behind two rows of one and of 17 columns.
    let tail = &body[24..];
    let one_row = [&1u64.to_le_bytes()[..], &[0x21; 8]].concat();
    let wide = bytes(v::S21);
    let wide = &wide[8..wide.len() - 8];
    let row = &wide[wide.len() - 19 * 8..];
    for prefix in [
        [0; 8].to_vec(),
        [&body[..24], &one_row, &one_row].concat(),
        [wide, row].concat(),
    ] {
        let body = [&prefix, tail].concat();
        let (header, body) = framed(0, 0, &body);
        let response = Response::decode_query(header, body).unwrap();
        assert_eq!(says(&response), expected);
        // One word less in front, and it fits nothing: rather no code than a wrong one.
        let (header, body) = framed(0, 0, &body[8..]);
        let decoded = Response::decode_query(header, body);
        assert!(prefix.len() == 8 || decoded.is_err(), "{decoded:?}");
    }
}

/// Column names, rows and end of a ROWS message.
fn rows(bytes: &[u8]) -> (Vec<String>, Vec<Vec<Value<'_>>>, End) {
    let (header, body) = message(bytes);
    let Ok(Response::Rows(mut rows)) = Response::decode_query(header, body) else {
        panic!("not rows");
    };
    let names = rows.names().map(|name| String::from_utf8_lossy(name).into());
    let names: Vec<String> = names.collect();
    assert_eq!(names.len(), rows.columns());
    let mut all = Vec::new();
    while rows.next_row().unwrap() {
        assert_eq!(rows.end(), None);
        let row = (0..rows.columns()).map(|_| rows.next_value().unwrap());
        all.push(row.collect());
        assert!(rows.next_value().is_err());
    }
    assert!(!rows.next_row().unwrap());
    (names, all, rows.end().unwrap())
}

fn complete(hex: &str, names: &[&str], values: &[Vec<Value<'_>>]) {
    let bytes = bytes(hex);
    let (found, rows, end) = rows(&bytes);
    assert_eq!(
        (found, end),
        (names.iter().map(ToString::to_string).collect(), End::Complete)
    );
    assert_eq!(rows, values);
}

#[test]
fn rows_of_the_vectors() {
    let int = Value::Integer;
    complete(v::S05, &["i", "f", "s", "b", "n", "ts", "bo"], &[SEVEN.to_vec()]);
    complete(v::S06, &["?+?+?+?+?+?+?+?"], &[vec![int(36)]]);
    let five = vec![
        int(1),
        Value::Text(b"a"),
        Value::Null,
        Value::Real(2.0),
        Value::Blob(b""),
    ];
    complete(v::S07, &["?"; 5], &[five]);
    complete(v::S08, &[], &[]);
    complete(v::S11, &["i"], &[vec![int(3)]]);
    complete(v::S22, &["n"], &[]);
    let names: Vec<String> = (1..=17).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    complete(v::S21, &names, &[(1..=17).map(int).collect()]);
}

/// A full page as R32 gets it: 255 rows, then the sign that more follows.
#[test]
fn a_part_that_is_not_the_last() {
    let mut bytes = bytes("0102000007000000 0100000000000000 6e00000000000000");
    for n in 1..=255u64 {
        bytes.extend([1u64, n].iter().flat_map(|word| word.to_le_bytes()));
    }
    bytes.extend([0xee; 8]);
    let (_, rows, end) = rows(&bytes);
    assert_eq!((rows.len(), end), (255, End::More));
    assert_eq!(rows[254], [Value::Integer(255)]);
}

#[test]
fn a_row_may_be_left_early() {
    let int = |n: u64| n.to_le_bytes();
    for columns in [1, 2, 15, 16, 17, 32, 33] {
        let mut body = int(columns).to_vec();
        (0..columns).for_each(|_| body.extend(*b"name\0\0\0\0"));
        for row in 0..2 {
            let codes = [[0x11u8; 8]; 3].concat();
            body.extend(&codes[..(columns.div_ceil(16) * 8) as usize]);
            (0..columns).for_each(|n| body.extend(int(row * 100 + n)));
        }
        body.extend([0xff; 8]);
        for read in 0..=columns {
            let mut rows = Rows::parse(&body).unwrap();
            assert!(rows.next_row().unwrap());
            for n in 0..read {
                assert_eq!(rows.next_value(), Ok(Value::Integer(n as i64)));
            }
            assert!(rows.next_row().unwrap());
            assert_eq!(rows.next_value(), Ok(Value::Integer(100)));
            assert!(!rows.next_row().unwrap());
            assert_eq!(rows.end(), Some(End::Complete));
        }
    }
}

/// Short texts and long ones are searched for their NUL in different ways, and 0x80 and 0x01 are what the quick one could
/// take for it.
#[test]
fn texts_of_every_length() {
    for len in 0..150 {
        for byte in [b'a', 0x01, 0x80, 0xff] {
            let text = vec![byte; len];
            let mut body = text.clone();
            body.push(0);
            body.resize(body.len().next_multiple_of(8), 0x7f); // what stands in the padding does not matter
            body.extend_from_slice(&[0; 8]);
            let mut cursor = Cursor::new(&body);
            assert_eq!(cursor.text("text"), Ok(text.as_slice()));
            assert_eq!(cursor.rest(), [0; 8]);
        }
    }
}
