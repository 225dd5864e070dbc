//! SQLite's tokens, as far as it takes to tell where a statement ends and which words it has.
//!
//! Blanks and comments are skipped. Numbers, variables and operators are told apart only so that
//! none of them hides or shows a quote, a parenthesis or a semicolon that SQLite sees differently.

use memchr::{memchr, memmem};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A keyword or a bare name.
    Word,
    /// `'..'`, `".."`, `` `..` `` or `[..]`, possibly without its end.
    Quoted,
    Open,
    Close,
    Dot,
    Semicolon,
    Other,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) class: Class,
    pub(super) text: &'a str,
    pub(super) start: usize,
}

impl Token<'_> {
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    pub(super) fn is(&self, keyword: &str) -> bool {
        self.class == Class::Word && self.text.eq_ignore_ascii_case(keyword)
    }
}

/// Every byte of a character outside ASCII is part of a name, so a token always ends between two
/// characters.
#[derive(Clone)]
pub(super) struct Tokens<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(sql: &'a str) -> Self {
        Self { sql, at: 0 }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let bytes = self.sql.as_bytes();
        self.at += blanks(&bytes[self.at..]);
        let start = self.at;
        let (class, length) = token(&bytes[start..])?;
        self.at = start + length;
        Some(Token {
            class,
            text: &self.sql[start..self.at],
            start,
        })
    }
}

/// The length of the blanks and comments at the start.
fn blanks(z: &[u8]) -> usize {
    let mut i = 0;
    loop {
        let rest = &z[i..];
        i += match rest {
            [b' ' | b'\t' | b'\n' | b'\x0c' | b'\r', ..] => run(rest, is_space),
            [b'-', b'-', ..] => memchr(b'\n', rest).unwrap_or(rest.len()),
            // Without a third byte SQLite takes these for two operators.
            [b'/', b'*', _, ..] => memmem::find(&rest[2..], b"*/").map_or(rest.len(), |n| n + 4),
            // The byte order mark.
            [0xef, 0xbb, 0xbf, ..] => 3,
            _ => return i,
        };
    }
}

/// The token at the start, if anything is there. `z` does not start with a blank.
fn token(z: &[u8]) -> Option<(Class, usize)> {
    let other = |length| (Class::Other, length);
    Some(match *z.first()? {
        b';' => (Class::Semicolon, 1),
        b'(' => (Class::Open, 1),
        b')' => (Class::Close, 1),
        quote @ (b'\'' | b'"' | b'`') => (Class::Quoted, quoted(z, quote)),
        b'[' => (Class::Quoted, memchr(b']', z).map_or(z.len(), |n| n + 1)),
        b'x' | b'X' if z.get(1) == Some(&b'\'') => other(memchr(b'\'', &z[2..]).map_or(z.len(), |n| n + 3)),
        b'.' if !z.get(1).is_some_and(u8::is_ascii_digit) => (Class::Dot, 1),
        b'.' | b'0'..=b'9' => other(number(z)),
        // A name right behind it is a token of its own: `?1RETURNING` are two.
        b'?' => other(1 + run(&z[1..], |b| b.is_ascii_digit())),
        b'$' | b'@' | b':' | b'#' => other(variable(z)),
        b if is_name(b) => (Class::Word, run(z, is_name)),
        _ => other(1),
    })
}

fn quoted(z: &[u8], quote: u8) -> usize {
    let mut i = 1;
    while let Some(n) = memchr(quote, &z[i..]) {
        i += n + 1;
        if z.get(i) != Some(&quote) {
            return i;
        }
        i += 1;
    }
    z.len()
}

/// A number with whatever name sticks to it, which is an error, but SQLite's to report.
fn number(z: &[u8]) -> usize {
    let digits = |i: usize| i + run(&z[i..], |b| b.is_ascii_digit() || b == b'_');
    let mut i = digits(0);
    // Of a hexadecimal number the rest, from the x on, looks like such a name.
    if z.get(i) == Some(&b'.') {
        i = digits(i + 1);
    }
    match z[i..] {
        [b'e' | b'E', b'+' | b'-', b'0'..=b'9', ..] => i = digits(i + 2),
        [b'e' | b'E', b'0'..=b'9', ..] => i = digits(i + 1),
        _ => {}
    }
    i + run(&z[i..], is_name)
}

/// `$a`, `:a`, `@a`, `#a`, and Tcl's `$a::b(anything but blanks)`.
fn variable(z: &[u8]) -> usize {
    let mut i = 1;
    let mut named = false;
    loop {
        match z[i..] {
            [b, ..] if is_name(b) => {
                i += run(&z[i..], is_name);
                named = true;
            }
            [b'(', ..] if named => {
                i += run(&z[i..], |b| !is_space(b) && b != b')');
                return i + usize::from(z.get(i) == Some(&b')'));
            }
            [b':', b':', ..] => i += 2,
            _ => return i,
        }
    }
}

fn run(z: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    z.iter().position(|&b| !belongs(b)).unwrap_or(z.len())
}

/// What SQLite skips once it is among blanks; alone, a vertical tab is none.
fn is_space(b: u8) -> bool {
    b.is_ascii_whitespace() || b == b'\x0b'
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80
}
