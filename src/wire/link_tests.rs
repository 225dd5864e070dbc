//! Messages between nodes, whole and torn; vendor/glue is shown the same ones by node::link_tests.

use super::*;

/// Numbers of raft's messages, as their preamble has them, and kinds of entries.
pub(crate) const APPEND_ENTRIES: u64 = 1;
pub(crate) const APPEND_ENTRIES_RESULT: u64 = 2;
pub(crate) const REQUEST_VOTE: u64 = 3;
pub(crate) const REQUEST_VOTE_RESULT: u64 = 4;
pub(crate) const INSTALL_SNAPSHOT: u64 = 5;
pub(crate) const TIMEOUT_NOW: u64 = 6;
pub(crate) const COMMAND: u64 = 1;
const BARRIER: u64 = 2;
pub(crate) const CHANGE: u64 = 3;

pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn message(kind: u64, header: &[u8]) -> Vec<u8> {
    [&words(&[kind, header.len() as u64]), header].concat()
}

/// Entries with their terms, kinds and contents, behind the one of this index and term.
pub(crate) fn entries(term: u64, before: (u64, u64), entries: &[(u64, u64, Vec<u8>)]) -> Vec<u8> {
    let mut header = words(&[
        term,
        before.0,
        before.1,
        before.0.wrapping_add(10),
        entries.len() as u64,
    ]);
    for (term, kind, content) in entries {
        header.extend(words(&[*term, kind | (content.len() as u64) << 32]));
    }
    // As the engine has it; the word means nothing.
    header.extend([0; 8]);
    let contents: Vec<_> = entries.iter().flat_map(|(.., content)| content.clone()).collect();
    [message(APPEND_ENTRIES, &header), contents].concat()
}

pub(crate) fn configuration(members: &[(u64, &str, u8)]) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend((members.len() as u64).to_le_bytes());
    for (id, address, role) in members {
        bytes.extend(id.to_le_bytes());
        bytes.extend(address.as_bytes());
        bytes.extend([0, *role]);
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A transaction's pages, of which each is a number and how it begins.
pub(crate) fn frames(name: &str, count: u32, size: u16, numbers: &[u64], commits: u8) -> Vec<u8> {
    let mut bytes = vec![1, 2, 0, 0, 0, 0, 0, 0];
    bytes.extend(name.as_bytes());
    bytes.resize(bytes.len() / 8 * 8 + 8, 0);
    bytes.extend([0; 12]);
    bytes.extend([commits, 0, 0, 0]);
    bytes.extend(count.to_le_bytes());
    bytes.extend(u32::from(size).to_le_bytes());
    bytes.extend(words(numbers));
    bytes.resize(bytes.len() + 4096 * numbers.len(), 0);
    bytes
}

pub(crate) fn snapshot(term: u64, last: (u64, u64), configured: (u64, &[u8]), data: &[u8]) -> Vec<u8> {
    let mut header = words(&[term, last.0, last.1, configured.0, configured.1.len() as u64]);
    header.extend(configured.1);
    header.extend(words(&[data.len() as u64]));
    [message(INSTALL_SNAPSHOT, &header), data.to_vec()].concat()
}

/// A snapshot with one database: how many bytes it and its WAL are said to have, and how many there are.
pub(crate) fn database(length: u64, wal: u64, rest: usize) -> Vec<u8> {
    let mut bytes = words(&[1, 1]);
    bytes.extend(b"test.db\0");
    bytes.extend(words(&[length, wal]));
    let pages = bytes.len();
    bytes.extend(b"SQLite format 3\0\x10\0");
    bytes.resize(pages + rest, 0);
    bytes
}

pub(crate) fn members() -> Vec<u8> {
    configuration(&[(1, "127.0.0.1:1", 1), (2, "127.0.0.1:2", 1)])
}

/// Each is torn in one place. `term` and `last` are those of the node that receives it.
pub(crate) fn torn(term: u64, last: u64) -> Vec<(&'static str, Vec<u8>)> {
    let next = term + 1;
    let with = |kind, content: Vec<u8>| entries(next, (last, term), &[(next, kind, content)]);
    let counted = |count: u64| message(APPEND_ENTRIES, &words(&[next, last, term, last, count, next, COMMAND]));
    let header = |kind: u64, sizes: &[u64]| {
        let mut all = words(&[next, last, term, last, sizes.len() as u64]);
        for size in sizes {
            all.extend(words(&[next, kind | size << 32]));
        }
        [message(APPEND_ENTRIES, &all), vec![7; 64]].concat()
    };
    let sent = |data: &[u8]| snapshot(next, (last + 50, term), (1, &members()), data);
    let of = |configuration: &[u8]| snapshot(next, (last + 50, term), (1, configuration), &database(4096, 0, 4096));
    vec![
        ("more entries than 32 bits count", counted((1 << 32) + 1)),
        ("entries for all memory", counted(u64::from(u32::MAX))),
        ("entries that are not there", counted(1000)),
        ("an entry of 5 bytes before another", header(COMMAND, &[5, 8])),
        ("an entry of no bytes", header(COMMAND, &[0, 8])),
        ("an unknown kind", header(9, &[8])),
        ("no term", entries(next, (last, term), &[(0, COMMAND, vec![0; 8])])),
        (
            "a term to come",
            entries(next, (last, term), &[(next + 5, COMMAND, vec![0; 8])]),
        ),
        (
            "falling terms",
            entries(next, (last, next), &[(term, COMMAND, vec![0; 8])]),
        ),
        (
            "entries near the last index",
            entries(next, (u64::MAX, 1), &[(next, COMMAND, vec![0; 8])]),
        ),
        ("a command of zeros", with(COMMAND, vec![0; 8])),
        (
            "a command that is cut off",
            with(COMMAND, frames("test.db", 1, 4096, &[1], 1)[..40].to_vec()),
        ),
        (
            "more pages than there are",
            with(COMMAND, frames("test.db", 1 << 31, 4096, &[1], 1)),
        ),
        (
            "pages times their size overflow",
            with(COMMAND, frames("test.db", 1 << 20, 4096, &[1], 1)),
        ),
        ("no pages", with(COMMAND, frames("test.db", 0, 4096, &[], 1))),
        ("small pages", with(COMMAND, frames("test.db", 1, 512, &[1], 1))),
        ("page 0", with(COMMAND, frames("test.db", 1, 4096, &[0], 1))),
        (
            "a page beyond 32 bits",
            with(COMMAND, frames("test.db", 1, 4096, &[1 << 40], 1)),
        ),
        (
            "a deletion with other pages",
            with(COMMAND, frames("test.db", 2, 4096, &[1, 2], 1)),
        ),
        ("half a transaction", with(COMMAND, frames("test.db", 1, 4096, &[1], 0))),
        ("a WAL's name", with(COMMAND, frames("test.db-wal", 1, 4096, &[1], 1))),
        ("no name", with(COMMAND, frames("", 1, 4096, &[1], 1))),
        ("a long name", with(COMMAND, frames(&"x".repeat(600), 1, 4096, &[1], 1))),
        ("no members", with(CHANGE, configuration(&[]))),
        ("member 0", with(CHANGE, configuration(&[(0, "a", 1)]))),
        ("no voter", with(CHANGE, configuration(&[(1, "a", 2)]))),
        ("another role", with(CHANGE, configuration(&[(1, "a", 9)]))),
        (
            "members that are not there",
            with(CHANGE, [&[1][..], &words(&[1 << 60]), &[0; 7]].concat()),
        ),
        (
            "an address without an end",
            with(CHANGE, [&[1][..], &words(&[1, 1]), &[7; 7]].concat()),
        ),
        ("a snapshot of no members", of(&configuration(&[]))),
        ("a snapshot of member 0", of(&configuration(&[(0, "a", 1)]))),
        ("a snapshot of another format", of(&[9; 24])),
        ("a snapshot of no configuration", of(&[])),
        (
            "a snapshot of nothing",
            snapshot(next, (0, term), (1, &members()), &database(4096, 0, 4096)),
        ),
        (
            "a snapshot of no term",
            snapshot(next, (last + 50, 0), (1, &members()), &database(4096, 0, 4096)),
        ),
        (
            "a snapshot to come",
            snapshot(next, (last + 50, next + 5), (1, &members()), &database(4096, 0, 4096)),
        ),
        (
            "a snapshot without end",
            snapshot(next, (u64::MAX, term), (1, &members()), &database(4096, 0, 4096)),
        ),
        (
            "a snapshot configured later",
            snapshot(
                next,
                (last + 50, term),
                (last + 51, &members()),
                &database(4096, 0, 4096),
            ),
        ),
        ("a snapshot without data", sent(&[])),
        ("a snapshot of zeros", sent(&[0; 64])),
        ("a snapshot of many databases", sent(&words(&[1, 1 << 40]))),
        ("a database of no pages", sent(&database(4095, 0, 8192))),
        ("a database that is not there", sent(&database(1 << 40, 0, 4096))),
        ("lengths that overflow", sent(&database(u64::MAX - 4095, 8192, 4096))),
        ("half a WAL", sent(&database(4096, 4000, 8096))),
        (
            "a WAL without an end",
            sent(&database(4096, 32 + 24 + 4096, 32 + 24 + 8192)),
        ),
        ("a short vote", message(REQUEST_VOTE, &words(&[next, 2]))),
        ("a long promise", message(REQUEST_VOTE_RESULT, &[0; 64])),
        ("a short answer", message(APPEND_ENTRIES_RESULT, &words(&[term]))),
        ("the lead, cut off", message(TIMEOUT_NOW, &[1; 23])),
        ("nothing", message(APPEND_ENTRIES, &[])),
    ]
}

/// As vendor/glue asks: the header, then each entry, or the snapshot.
fn is_whole(message: &[u8]) -> bool {
    let word = |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().unwrap());
    let (kind, length) = (word(0), word(8) as usize);
    if check_message(kind as u16, &message[16..16 + length]).is_err() {
        return false;
    }
    let payload = &message[16 + length..];
    match kind {
        APPEND_ENTRIES => {
            let mut from = 0;
            (0..word(48) as usize).all(|entry| {
                let (kind, length) = (message[64 + 16 * entry], word(64 + 16 * entry) >> 32);
                from += length as usize;
                check_entry(kind.into(), &payload[from - length as usize..from]).is_ok()
            })
        }
        INSTALL_SNAPSHOT => check_snapshot(payload).is_ok(),
        _ => true,
    }
}

#[test]
fn what_is_torn_is_refused() {
    for (what, message) in torn(3, 40) {
        assert!(!is_whole(&message), "{what}");
    }
}

#[test]
fn what_engines_send_is_whole() {
    let change = |count: u32, numbers: &[u64]| frames("test.db", count, 4096, numbers, 1);
    let checkpoint = b"\x01\x04\0\0\0\0\0\0test.db\0".to_vec();
    let all = [
        (3, CHANGE, members()),
        (3, BARRIER, vec![0; 8]),
        (4, COMMAND, change(2, &[2, 3])),
        (4, COMMAND, change(1, &[1])),
        (5, COMMAND, checkpoint),
    ];
    let old_wal = {
        let mut bytes = database(4096, 32 + 24 + 4096, 4096 + 32 + 24 + 4096);
        let frame = bytes.len() - 24 - 4096;
        bytes[frame + 3] = 1;
        bytes[frame + 7] = 1;
        bytes
    };
    let with = |data: &[u8]| snapshot(5, (40, 3), (1, &members()), data);
    for (at, message) in [
        entries(5, (40, 3), &[]),
        entries(5, (0, 0), &all[..1]),
        entries(5, (40, 3), &all),
        // Without the word that means nothing.
        message(APPEND_ENTRIES, &words(&[5, 40, 3, 40, 0])),
        message(APPEND_ENTRIES_RESULT, &words(&[5, 0, 40])),
        message(APPEND_ENTRIES_RESULT, &words(&[5, 0, 40, 1])),
        message(REQUEST_VOTE, &words(&[5, 2, 40, 3])),
        message(REQUEST_VOTE, &words(&[5, 2, 40, 3, 1])),
        message(REQUEST_VOTE_RESULT, &words(&[5, 1])),
        message(REQUEST_VOTE_RESULT, &words(&[5, 1, 1])),
        message(TIMEOUT_NOW, &words(&[5, 40, 3])),
        with(&database(8192, 0, 8192)),
        with(&old_wal),
        with(&words(&[1, 0])),
    ]
    .iter()
    .enumerate()
    {
        assert!(is_whole(message), "message {at}");
    }
}
