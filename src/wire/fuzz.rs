//! Any bytes as an answer: nothing panics, and reading in another order gives the same.

use super::{HEADER_LEN, Header, Response, Rows};

/// A message: header and body, which need not fit each other.
pub(crate) fn reply(data: &[u8]) {
    let Some((head, body)) = data.split_first_chunk::<HEADER_LEN>() else {
        return;
    };
    let header = Header::parse(head);
    let fitting = Header {
        words: u32::try_from(body.len() / 8).unwrap_or(u32::MAX),
        ..header
    };
    let whole = &body[..body.len() / 8 * 8];
    for (header, body) in [(header, body), (fitting, whole)] {
        for decode in [Response::decode, Response::decode_query] {
            if let Ok(response) = decode(header, body) {
                read(response);
            }
        }
    }
}

fn read(response: Response<'_>) {
    match response {
        Response::Rows(rows) => {
            read_rows(rows);
        }
        // A count claims no more than the body holds.
        Response::Nodes(members) => assert!(members.iter().all(|member| member.address.len() < isize::MAX as usize)),
        Response::Files(files) => assert!(files.iter().all(|file| file.data.len().is_multiple_of(8))),
        other => assert!(!other.name().is_empty()),
    }
}

/// The body of a part of a result.
pub(crate) fn rows(data: &[u8]) {
    if let Ok(rows) = Rows::parse(data) {
        read_rows(rows);
    }
}

fn read_rows(mut rows: Rows<'_>) {
    let (body, columns) = (rows.body(), rows.columns());
    assert_eq!(rows.names().len(), columns);
    let mut number = 0_u64;
    loop {
        let position = rows.position();
        let again = position_of_next(body, columns, position);
        let found = rows.next_row();
        match found {
            Ok(true) => {}
            Ok(false) => {
                assert!(rows.end().is_some());
                assert_eq!(Rows::is_last(body), rows.end() == Some(super::End::Complete));
                assert_eq!(again, None);
                break;
            }
            Err(_) => break,
        }
        let read = (0..columns).try_for_each(|_| rows.next_value().map(|value| assert!(value.code() != 0)));
        // Skipping a row ends where reading it ends.
        assert_eq!(again, read.is_ok().then(|| rows.position()));
        if read.is_err() {
            break;
        }
        number += 1;
        assert!(number <= body.len() as u64, "more rows than bytes");
    }
}

/// Where the row at `position` ends, told by a reader that starts there and skips it.
fn position_of_next(body: &[u8], columns: usize, position: usize) -> Option<usize> {
    let mut rows = Rows::resume(body, columns, position);
    if !rows.next_row().ok()? {
        return None;
    }
    rows.skip_row().ok()?;
    Some(rows.position())
}
