use super::{JsonArray, members};
use crate::wire::{Rows, Value};
use proptest::prelude::*;
use serde_json::json;

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.resize((out.len() + 8) & !7, 0);
}

/// The body of a ROWS message. Texts must not hold a NUL.
fn body(names: &[&str], rows: &[&[Value<'_>]], last: bool) -> Vec<u8> {
    let mut out = (names.len() as u64).to_le_bytes().to_vec();
    names.iter().for_each(|name| put_text(&mut out, name.as_bytes()));
    for row in rows {
        let header = out.len();
        out.resize(header + row.len().div_ceil(16) * 8, 0);
        for (i, value) in row.iter().enumerate() {
            let code = match *value {
                Value::Integer(n) => (1, n as u64),
                Value::Real(x) => (2, x.to_bits()),
                Value::Text(_) => (3, 0),
                Value::Blob(bytes) => (4, bytes.len() as u64),
                Value::Null => (5, 0),
                Value::UnixTime(n) => (9, n as u64),
                Value::Iso8601(_) => (10, 0),
                Value::Boolean(n) => (11, n),
            };
            out[header + i / 2] |= code.0 << (i % 2 * 4);
            match *value {
                Value::Text(text) | Value::Iso8601(text) => put_text(&mut out, text),
                _ => out.extend_from_slice(&code.1.to_le_bytes()),
            }
            if let Value::Blob(bytes) = value {
                out.extend_from_slice(bytes);
                out.resize(out.len().next_multiple_of(8), 0);
            }
        }
    }
    out.extend_from_slice(&[if last { 0xff } else { 0xee }; 8]);
    out
}

fn render(parts: &[Vec<u8>]) -> String {
    let mut array = JsonArray::new();
    for part in parts {
        array.part(&mut Rows::parse(part).unwrap()).unwrap();
    }
    String::from_utf8(array.finish().expect("memory")).expect("the output is UTF-8")
}

/// One value as it stands in the array.
fn one(value: Value<'_>) -> String {
    let text = render(&[body(&["v"], &[&[value]], true)]);
    text.strip_prefix("[{\"v\":")
        .unwrap()
        .strip_suffix("}]")
        .unwrap()
        .to_owned()
}

/// What Python's `json.loads(text).encode("utf-8", "surrogateescape")` gives.
fn python_bytes(text: &str) -> Vec<u8> {
    let inner = text.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
    let mut out = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        assert!(c >= ' ' && c != '"', "{c:?} needs an escape in {text}");
        if c != '\\' {
            out.extend_from_slice(c.to_string().as_bytes());
            continue;
        }
        out.push(match chars.next().unwrap() {
            'u' => {
                let hex: String = chars.by_ref().take(4).collect();
                match u16::from_str_radix(&hex, 16).unwrap() {
                    code @ ..0x80 => code as u8,
                    code @ 0xdc80..=0xdcff => (code - 0xdc00) as u8,
                    code => panic!("nothing writes {code:x}"),
                }
            }
            'n' => b'\n',
            't' => b'\t',
            'r' => b'\r',
            'b' => 8,
            'f' => 12,
            c @ ('"' | '\\') => c as u8,
            c => panic!("no such escape: {c}"),
        });
    }
    out
}

#[test]
fn nothing_is_an_empty_array() {
    assert_eq!(JsonArray::new().finish().expect("memory"), b"[]");
    assert_eq!(render(&[body(&["a"], &[], true)]), "[]");
    assert_eq!(render(&[body(&[], &[], true)]), "[]");
}

#[test]
fn parts_make_one_array_with_keys_in_order() {
    use Value::{Integer, Null, Text};
    let names = ["z", "a", "z"];
    let parts = [
        body(
            &names,
            &[&[Integer(1), Null, Text(b"x")], &[Integer(2), Null, Text(b"")]],
            false,
        ),
        body(&names, &[], false),
        body(&names, &[&[Integer(3), Null, Null]], true),
    ];
    let expected = concat!(
        r#"[{"z":1,"a":null,"z":"x"},{"z":2,"a":null,"z":""},"#,
        r#"{"z":3,"a":null,"z":null}]"#
    );
    assert_eq!(render(&parts), expected);

    let mut array = JsonArray::new();
    assert_eq!((array.row_count(), array.len()), (0, 0));
    array.part(&mut Rows::parse(&parts[0]).unwrap()).unwrap();
    assert_eq!(array.row_count(), 2);
    assert!(array.len() > 40);
}

#[test]
fn a_broken_part_is_an_error() {
    let whole = body(&["a"], &[&[Value::Text(b"some longer text")]], true);
    let mut array = JsonArray::new();
    assert!(
        array
            .part(&mut Rows::parse(&whole[..whole.len() - 16]).unwrap())
            .is_err()
    );
}

#[test]
fn many_columns() {
    let names: Vec<String> = (0..40).map(|i| format!("c{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let row: Vec<Value<'_>> = (0..40).map(Value::Integer).collect();
    let text = render(&[body(&names, &[&row], true)]);
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!((0..40).all(|i| read[0][format!("c{i}")] == json!(i)));
}

#[test]
fn names_are_escaped() {
    let text = render(&[body(&["a\"b", "\n"], &[&[Value::Null, Value::Null]], true)]);
    assert_eq!(text, r#"[{"a\"b":null,"\n":null}]"#);
}

#[test]
fn numbers() {
    assert_eq!(one(Value::Integer(i64::MIN)), "-9223372036854775808");
    assert_eq!(one(Value::Integer(i64::MAX)), "9223372036854775807");
    assert_eq!(one(Value::Real(1.0)), "1.0");
    assert_eq!(one(Value::Real(-0.0)), "-0.0");
    assert_eq!(one(Value::Real(0.1 + 0.2)), "0.30000000000000004");
    assert_eq!(one(Value::Real(f64::INFINITY)), "9e999");
    assert_eq!(one(Value::Real(f64::NEG_INFINITY)), "-9e999");
    assert_eq!(one(Value::Real(f64::NAN)), "null");
    assert_eq!(one(Value::Boolean(0)), "false");
    assert_eq!(one(Value::Boolean(1)), "true");
    assert_eq!(one(Value::Boolean(5)), "true");
    assert_eq!(one(Value::Null), "null");
}

#[test]
fn strings() {
    let cases: [(&[u8], &str); 11] = [
        (b"", r#""""#),
        (b"plain", r#""plain""#),
        (b"\"\\/", r#""\"\\/""#),
        (b"\n\t\r\x08\x0c", r#""\n\t\r\b\f""#),
        (b"\x01\x1f\x7f", "\"\\u0001\\u001f\x7f\""),
        ("grüße €𝄞".as_bytes(), "\"grüße €𝄞\""),
        ("\u{2028}".as_bytes(), "\"\u{2028}\""),
        (b"\x00\xffA", r#""\u0000\udcffA""#),
        // Cut in the middle of a character, and a surrogate that was encoded by itself.
        (b"\xe2\x82A", r#""\udce2\udc82A""#),
        (b"\xe2\x82", r#""\udce2\udc82""#),
        (b"\xed\xb2\x80", r#""\udced\udcb2\udc80""#),
    ];
    for (bytes, expected) in cases {
        assert_eq!(one(Value::Blob(bytes)), expected);
        if !bytes.contains(&0) {
            assert_eq!(one(Value::Text(bytes)), expected);
        }
    }
}

/// Every length and place, because texts are looked at and copied in blocks that overlap.
#[test]
fn what_is_special_is_found_anywhere() {
    for len in 1..70 {
        let plain = vec![b'p'; len];
        let quoted = format!("\"{}\"", "p".repeat(len));
        assert_eq!(one(Value::Text(&plain)), quoted);
        for at in 0..len {
            for special in [b'"', b'\\', 0x1f, 0x01, 0xff] {
                let mut text = plain.clone();
                text[at] = special;
                assert_eq!(
                    python_bytes(&one(Value::Text(&text))),
                    text,
                    "{special} at {at} of {len}"
                );
            }
        }
    }
}

#[test]
fn times() {
    assert_eq!(one(Value::UnixTime(0)), r#""1970-01-01T00:00:00Z""#);
    assert_eq!(one(Value::UnixTime(i64::MAX)), "9223372036854775807");
    assert_eq!(one(Value::Iso8601(b"2024-01-02 03:04")), r#""2024-01-02T03:04:00Z""#);
    assert_eq!(one(Value::Iso8601(b"")), r#""""#);
    assert_eq!(one(Value::Iso8601(b"soon\n\xff")), r#""soon\n\udcff""#);
}

#[test]
fn members_of_a_cluster() {
    assert_eq!(members([]), b"[]");
    let two = members([(1, "127.0.0.1:9001", 0), (u64::MAX, "a\"b", 2)]);
    assert_eq!(
        String::from_utf8(two).unwrap(),
        concat!(
            r#"[{"id": 1, "address": "127.0.0.1:9001", "role": 0}, "#,
            r#"{"id": 18446744073709551615, "address": "a\"b", "role": 2}]"#
        )
    );
}

/// Bytes with enough of everything that is special, in runs that cross the blocks of 16.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(b' '..0x7f, 0..40),
        "\\PC{0,9}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..6),
        Just(b"\"".to_vec()),
        Just(b"\\".to_vec()),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_finite_real_comes_back(bits: u64) {
        let x = f64::from_bits(bits);
        prop_assume!(x.is_finite());
        let text = one(Value::Real(x));
        prop_assert!(text.contains(['.', 'e']), "{} would be an integer", text);
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert!(read.is_f64());
    }

    #[test]
    fn every_byte_comes_back(bytes in any_bytes()) {
        prop_assert_eq!(python_bytes(&one(Value::Blob(&bytes))), bytes);
    }

    #[test]
    fn every_text_is_what_others_read(text: String, more in any_bytes()) {
        let both = format!("{text}{}", String::from_utf8_lossy(&more));
        let text = one(Value::Blob(both.as_bytes()));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read, json!(both));
    }

    #[test]
    fn every_time_text_is_a_string(text in "[0-9]{0,4}[-0-9:.,TZ+ ]{0,30}") {
        let text = one(Value::Iso8601(text.as_bytes()));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_string());
    }
}
