//! Any rows as JSON: what comes out is JSON in valid UTF-8, with as many objects as there were rows.

use super::json::JsonArray;
use crate::wire::Rows;

pub(crate) fn json(data: &[u8]) {
    let Ok(mut rows) = Rows::parse(data) else { return };
    let mut array = JsonArray::new();
    if array.part(&mut rows).is_err() {
        return;
    }
    let Some(out) = array.finish() else { return };
    assert!(std::str::from_utf8(&out).is_ok(), "not UTF-8");
    let rest = value(&out);
    assert!(rest == Some(&[]), "not JSON: {:?}", String::from_utf8_lossy(&out));
}

/// What stands behind the JSON value at the start of `at`; None if there is none. Blanks are not expected.
fn value(at: &[u8]) -> Option<&[u8]> {
    match at.first()? {
        b'[' => list(&at[1..], b']', value),
        b'{' => list(&at[1..], b'}', |at| value(string(at)?.strip_prefix(b":")?)),
        b'"' => string(at),
        b'-' | b'0'..=b'9' => number(at),
        _ => [&b"null"[..], b"true", b"false"]
            .iter()
            .find_map(|word| at.strip_prefix(*word)),
    }
}

fn list(at: &[u8], end: u8, item: impl Fn(&[u8]) -> Option<&[u8]>) -> Option<&[u8]> {
    if at.first() == Some(&end) {
        return Some(&at[1..]);
    }
    let mut at = item(at)?;
    while let Some(rest) = at.strip_prefix(b",") {
        at = item(rest)?;
    }
    (at.first() == Some(&end)).then(|| &at[1..])
}

fn string(at: &[u8]) -> Option<&[u8]> {
    let mut at = at.strip_prefix(b"\"")?;
    loop {
        match at.first()? {
            b'"' => return Some(&at[1..]),
            b'\\' => at = escape(&at[1..])?,
            0..0x20 => return None,
            _ => at = &at[1..],
        }
    }
}

fn escape(at: &[u8]) -> Option<&[u8]> {
    match at.first()? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(&at[1..]),
        b'u' => at.get(1..5)?.iter().all(u8::is_ascii_hexdigit).then(|| &at[5..]),
        _ => None,
    }
}

/// As JSON defines it, and never empty.
fn number(at: &[u8]) -> Option<&[u8]> {
    let digits = |at: &'_ [u8]| at.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let at = at.strip_prefix(b"-").unwrap_or(at);
    let whole = digits(at);
    if whole == 0 || (whole > 1 && at[0] == b'0') {
        return None;
    }
    let mut at = &at[whole..];
    if let Some(rest) = at.strip_prefix(b".") {
        let count = digits(rest);
        at = (count > 0).then(|| &rest[count..])?;
    }
    if let Some(rest) = at.strip_prefix(b"e") {
        let rest = rest.strip_prefix(b"-").or(rest.strip_prefix(b"+")).unwrap_or(rest);
        let count = digits(rest);
        at = (count > 0).then(|| &rest[count..])?;
    }
    Some(at)
}
