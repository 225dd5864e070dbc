//! What single steps of a call cost: a module of the library's own tests, because all of them are private.
//! `make bench-micro` runs it.

use divan::{Bencher, black_box, counter::BytesCount};

use crate::client::Client;
use crate::db::statements;
use crate::handle;
use crate::net::parse_csv;
use crate::render::JsonArray;
use crate::wire::{HEADER_LEN, Header, Params, Request, Response, Rows};

/// Not a test: asked for by name, it runs the benchmarks of this file.
#[test]
#[ignore = "measures instead of testing"]
fn run() {
    divan::Divan::default().run_benches();
}

const ROWS: usize = 500;

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.resize((out.len() + 8) & !7, 0);
}

/// A part of a result as the engine sends it: id, integer, text, real, text. [protocol 7]
fn part(text: &str) -> Vec<u8> {
    let mut out = 5_u64.to_le_bytes().to_vec();
    for name in ["id", "a", "b", "c", "d"] {
        put_text(&mut out, name);
    }
    for row in 0..ROWS {
        out.extend_from_slice(&0x0003_2311_u64.to_le_bytes());
        out.extend_from_slice(&(row as u64).to_le_bytes());
        out.extend_from_slice(&(row as u64 * 7).to_le_bytes());
        put_text(&mut out, &format!("row number {row}"));
        out.extend_from_slice(&(row as f64 * 0.5).to_le_bytes());
        put_text(&mut out, text);
    }
    out.extend_from_slice(&[0xff; 8]);
    out
}

fn text(kind: &str) -> &'static str {
    match kind {
        "escaped" => "a \"quoted\" text with\nseveral lines \\ and \t tabs",
        "foreign" => "größere Zeichen und 漢字 in jedem Text der Zeile",
        _ => "some more text, the same in each row",
    }
}

#[divan::bench]
fn decode_500_rows(bencher: Bencher<'_, '_>) {
    let body = part(text("plain"));
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        let mut rows = Rows::parse(black_box(&body)).unwrap();
        let mut count = 0;
        while rows.next_row().unwrap() {
            for _ in 0..rows.columns() {
                black_box(rows.next_value().unwrap());
            }
            count += 1;
        }
        count
    });
}

#[divan::bench(args = ["plain", "escaped", "foreign"])]
fn json_500_rows(bencher: Bencher<'_, '_>, kind: &str) {
    let body = part(text(kind));
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        let mut json = JsonArray::new();
        json.part(&mut Rows::parse(black_box(&body)).unwrap()).unwrap();
        json.finish()
    });
}

#[divan::bench]
fn encode_request(bencher: Bencher<'_, '_>) {
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        let request = Request::QuerySql {
            db: 0,
            sql: black_box(b"SELECT 1"),
            params: Params::NONE,
        };
        request.encode(&mut out);
        out.len()
    });
}

#[divan::bench]
fn decode_result(bencher: Bencher<'_, '_>) {
    let header = Header::parse(&[2, 0, 0, 0, 6, 0, 0, 0]);
    let body = [1; 2 * HEADER_LEN];
    bencher.bench(|| matches!(Response::decode(header, black_box(&body)), Ok(Response::Result { .. })));
}

#[divan::bench(args = ["SELECT 1", "INSERT INTO bench(a, b, c) VALUES (1, 'text value 1-22', 3.25)"])]
fn classify(sql: &str) -> usize {
    statements(black_box(sql)).count()
}

#[divan::bench(threads = [1, 8])]
fn handle_lookup(bencher: Bencher<'_, '_>) {
    let handle = handle::insert(Client::new(parse_csv("127.0.0.1:9001").unwrap())).unwrap();
    bencher.bench(|| handle::get::<Client>(black_box(handle)).is_ok());
    handle::remove::<Client>(handle).unwrap();
}

#[divan::bench]
fn arguments_refused() -> i32 {
    // SAFETY: NULL is what the function checks for.
    unsafe {
        crate::ffi::dqlitepy_node_exec(
            black_box(1),
            std::ptr::null(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    }
}

#[divan::bench]
fn unknown_handle_refused() -> i32 {
    // SAFETY: the text is NUL-terminated, the other pointers may be NULL.
    unsafe {
        crate::ffi::dqlitepy_node_exec(
            black_box(1),
            c"SELECT 1".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    }
}
