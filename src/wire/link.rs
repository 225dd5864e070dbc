//! What nodes send each other on a link, behind CONNECT: whether it is whole. [C src/raft/uv_encoding.c]
//!
//! A message is a preamble (type and length of what follows, a word each), a header, and for two types a payload. The
//! engine decodes it, and believes what it says of its own lengths; a link is only as good as whoever opened it. So this
//! comes first. What a message may mean at this moment is another question, which vendor/glue/link.c answers.

use super::cursor::{Cursor, Malformed};
use super::fields::ENDINGS;

type Result<T = ()> = std::result::Result<T, Malformed>;

/// Numbers of the messages, and of the kinds of entries in the log. [C src/raft.h]
const APPEND_ENTRIES: u16 = 1;
const APPEND_ENTRIES_RESULT: u16 = 2;
const REQUEST_VOTE: u16 = 3;
const REQUEST_VOTE_RESULT: u16 = 4;
const INSTALL_SNAPSHOT: u16 = 5;
const TIMEOUT_NOW: u16 = 6;
const COMMAND: u16 = 1;
const BARRIER: u16 = 2;
const CHANGE: u16 = 3;

/// No log gets so long in the life of a host; the names of its files have sixteen digits.
const LAST_INDEX: u64 = 1_000_000_000_000_000;

/// The engine looks at each pair of them.
const MOST_MEMBERS: u64 = 1000;

/// The only size of pages that databases of the engine have. [protocol 5.1]
const PAGE: u64 = 4096;

/// The header of a message, all of it. Of a type that is not known nothing is said: the engine ends the link.
pub(crate) fn check_message(kind: u16, header: &[u8]) -> Result {
    let from = &mut Cursor::new(header);
    match kind {
        APPEND_ENTRIES => append_entries(from),
        // What later versions added stands at the end.
        APPEND_ENTRIES_RESULT => of_words(from, &[3, 4]),
        REQUEST_VOTE => of_words(from, &[4, 5]),
        REQUEST_VOTE_RESULT => of_words(from, &[2, 3]),
        INSTALL_SNAPSHOT => install_snapshot(from),
        TIMEOUT_NOW => of_words(from, &[3]),
        _ => Ok(()),
    }
}

fn of_words(from: &mut Cursor<'_>, lengths: &[usize]) -> Result {
    match lengths.iter().any(|words| words * 8 == from.rest().len()) {
        true => Ok(()),
        false => from.malformed("the length"),
    }
}

/// Term, the entry before (index, term), how far is committed; then of each entry its term, its kind and its length, which
/// decides where the next one begins in the payload. A word more follows, which means nothing.
fn append_entries(from: &mut Cursor<'_>) -> Result {
    let leads_in = term(from, u64::MAX)?;
    if from.u64("the index before")? > LAST_INDEX {
        return from.malformed("the index before");
    }
    let mut before = from.u64("the term before")?;
    from.u64("the committed index")?;
    let count = from.u64("the number of entries")?;
    if count > (from.rest().len() / 16) as u64 {
        return from.malformed("the number of entries");
    }
    for _ in 0..count {
        let term = term(from, leads_in)?;
        if term < before {
            return from.malformed("the term of an entry");
        }
        before = term;
        let [kind, ..] = from.u32("the kind of an entry")?.to_le_bytes();
        if !(COMMAND..=CHANGE).contains(&kind.into()) {
            return from.malformed("the kind of an entry");
        }
        let length = from.u32("the length of an entry")?;
        if length == 0 || !length.is_multiple_of(8) {
            return from.malformed("the length of an entry");
        }
    }
    Ok(())
}

/// Term, index and term of the last entry that is in it, index and length of the configuration, the configuration, and
/// the length of the payload.
fn install_snapshot(from: &mut Cursor<'_>) -> Result {
    let leads_in = term(from, u64::MAX)?;
    let last = from.u64("the last index")?;
    if last == 0 || last > LAST_INDEX {
        return from.malformed("the last index");
    }
    term(from, leads_in)?;
    let configured_at = from.u64("the configuration's index")?;
    if configured_at == 0 || configured_at > last {
        return from.malformed("the configuration's index");
    }
    let length = from.u64("the configuration's length")?;
    let configuration = from.bytes(length, "the configuration")?;
    check_configuration(configuration)?;
    if from.u64("the snapshot's length")? == 0 {
        return from.malformed("the snapshot's length");
    }
    Ok(())
}

fn term(from: &mut Cursor<'_>, most: u64) -> Result<u64> {
    match from.u64("a term")? {
        term if term > 0 && term <= most => Ok(term),
        _ => from.malformed("a term"),
    }
}

/// One entry of the log.
pub(crate) fn check_entry(kind: u16, bytes: &[u8]) -> Result {
    match kind {
        COMMAND => check_command(bytes),
        CHANGE => check_configuration(bytes),
        BARRIER => Ok(()),
        _ => Cursor::new(bytes).malformed("the kind of an entry"),
    }
}

/// A format of one byte, the number of members, and of each its id, its address and its role, without padding between them.
/// [C src/raft/configuration.c]
fn check_configuration(bytes: &[u8]) -> Result {
    const FORMAT: u8 = 1;
    let from = &mut Cursor::new(bytes);
    if byte(from)? != FORMAT {
        return from.malformed("the configuration's format");
    }
    let members = from.u64("the number of members")?;
    if members == 0 || members > MOST_MEMBERS {
        return from.malformed("the number of members");
    }
    let mut voters = 0;
    for _ in 0..members {
        if from.u64("a member's id")? == 0 {
            return from.malformed("a member's id");
        }
        let length = memchr::memchr(0, from.rest()).filter(|length| *length > 0);
        let Some(length) = length else {
            return from.malformed("a member's address");
        };
        from.bytes(length as u64 + 1, "a member's address")?;
        match byte(from)? {
            1 => voters += 1,
            0 | 2 => {}
            _ => return from.malformed("a member's role"),
        }
    }
    if voters == 0 {
        return from.malformed("the voters");
    }
    Ok(())
}

fn byte(from: &mut Cursor<'_>) -> Result<u8> {
    from.bytes(1, "a byte").map(|byte| byte[0])
}

/// A change of a database: its pages, as one transaction wrote them. [C src/command.c]
fn check_command(bytes: &[u8]) -> Result {
    const FORMAT: u8 = 1;
    const OPEN: u8 = 1;
    const FRAMES: u8 = 2;
    const CHECKPOINT: u8 = 4;
    let from = &mut Cursor::new(bytes);
    let [format, kind, ..] = from.u64("the command's type")?.to_le_bytes();
    if format != FORMAT || !(OPEN..=CHECKPOINT).contains(&kind) {
        return from.malformed("the command's type");
    }
    match kind {
        FRAMES => check_frames(from),
        // They do nothing.
        OPEN | CHECKPOINT => from.text("a database's name").map(drop),
        _ => from.u64("the transaction's number").map(drop),
    }
}

fn check_frames(from: &mut Cursor<'_>) -> Result {
    database(from)?;
    from.u64("the transaction's number")?;
    from.u32("the truncation")?;
    if from.u32("the end of the transaction")?.to_le_bytes()[0] == 0 {
        return from.malformed("the end of the transaction");
    }
    let count = u64::from(from.u32("the number of pages")?);
    let size = u64::from(from.u32("the size of pages")? & 0xffff);
    if count == 0 || size != PAGE {
        return from.malformed("the number or the size of pages");
    }
    let numbers = from.bytes(count * 8, "the pages' numbers")?;
    let pages = from.bytes(count * PAGE, "the pages")?;
    let (numbers, _) = numbers.as_chunks();
    let (pages, _) = pages.as_chunks::<{ PAGE as usize }>();
    for (number, page) in numbers.iter().zip(pages) {
        let number = u64::from_le_bytes(*number);
        // The first page says how many there are; none means that the database is deleted, and that page is all.
        let deletes = number == 1 && page[28..32] == [0; 4];
        if number == 0 || number > i32::MAX as u64 || (deletes && count > 1) {
            return from.malformed("the pages' numbers");
        }
    }
    Ok(())
}

fn database(from: &mut Cursor<'_>) -> Result {
    /// Behind it stands an ending of the engine's, and both together have 511 bytes. [C src/vfs.c]
    const LONGEST: usize = 500;
    let name = from.text("a database's name")?;
    if name.is_empty() || name.len() > LONGEST || ENDINGS.iter().any(|ending| name.ends_with(ending.as_bytes())) {
        return from.malformed("a database's name");
    }
    Ok(())
}

/// A snapshot as it travels, without compression: a format and a number of databases; of each the name, two lengths, and
/// its pages and its WAL. [C src/fsm.c]
pub(crate) fn check_snapshot(bytes: &[u8]) -> Result {
    const FORMAT: u64 = 1;
    let from = &mut Cursor::new(bytes);
    if from.u64("the snapshot's format")? != FORMAT {
        return from.malformed("the snapshot's format");
    }
    let databases = from.u64("the number of databases")?;
    for _ in 0..databases {
        database(from)?;
        let length = from.u64("a database's length")?;
        let wal = from.u64("a WAL's length")?;
        let pages = from.bytes(length, "a database")?;
        // What begins each file of SQLite's, and the size of its pages.
        if !length.is_multiple_of(PAGE) || !pages.starts_with(b"SQLite format 3\0\x10\0") {
            return from.malformed("a database");
        }
        let wal = from.bytes(wal, "a WAL")?;
        check_wal(wal)?;
    }
    Ok(())
}

/// Only engines before 1.17 send one: a header, and frames with a page each, of which the last one says how many pages the
/// database has.
fn check_wal(wal: &[u8]) -> Result {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + PAGE as usize;
    let mut from = Cursor::new(wal);
    let Some(frames) = wal.get(HEADER..).filter(|frames| !frames.is_empty()) else {
        return Ok(());
    };
    let (frames, rest) = frames.as_chunks::<FRAME>();
    let word = |frame: &[u8; FRAME], at: usize| frame[at..at + 4].iter().any(|byte| *byte != 0);
    let numbered = frames.iter().all(|frame| word(frame, 0));
    let ends = frames.last().is_some_and(|frame| word(frame, 4));
    match rest.is_empty() && numbered && ends {
        true => Ok(()),
        false => from.malformed("a WAL"),
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
pub(crate) mod tests;
