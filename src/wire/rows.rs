//! The rows of a result, one part after the other. [protocol 7]

use super::cursor::{Cursor, Malformed};
use super::value::Value;

/// The word behind the last row of the last part.
const COMPLETE: u64 = u64::MAX;
/// The word behind the last row of any other part.
const MORE: u64 = 0xeeee_eeee_eeee_eeee;

/// Type codes in one word of a row header. [protocol 4.2]
const CODES_PER_WORD: usize = 16;

/// What follows the part that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing: this was the last part. Only now is a write by the same request certain.
    Complete,
    /// Another ROWS message, or a FAILURE.
    More,
}

/// One part of a result: a cursor over its rows and, within the row, over its values. Nothing is
/// decoded before it is asked for, and only the list of names is allocated.
///
/// After an error there is nothing more to read, and every call fails.
#[derive(Clone, Debug)]
pub(crate) struct Rows<'a> {
    body: &'a [u8],
    columns: usize,
    names: Vec<&'a [u8]>,
    cursor: Cursor<'a>,
    /// The header words of this row that are not used up.
    header: Cursor<'a>,
    /// The type codes of the next values, the next one lowest.
    codes: u64,
    /// The column that comes next; the number of columns between two rows.
    column: usize,
    end: Option<End>,
}

impl<'a> Rows<'a> {
    /// Reads the column count and the names, and stops in front of the first row.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let count = cursor.u64("column count")?;
        // Each name takes a word or more; without this a count could claim any amount of memory.
        let columns = match usize::try_from(count) {
            Ok(columns) if columns <= cursor.rest().len() / 8 => columns,
            _ => return cursor.malformed("column count"),
        };
        let mut names = Vec::with_capacity(columns);
        for _ in 0..columns {
            names.push(cursor.text("column name")?);
        }
        Ok(Self {
            body,
            columns,
            names,
            cursor,
            header: Cursor::new(&[]),
            codes: 0,
            column: columns,
            end: None,
        })
    }

    /// Goes on in a body that was read up to `position`, in front of a row. The names are left out.
    #[inline]
    pub(crate) fn resume(body: &'a [u8], columns: usize, position: usize) -> Self {
        Self {
            body,
            columns,
            names: Vec::new(),
            cursor: Cursor::at(body, position),
            header: Cursor::new(&[]),
            codes: 0,
            column: columns,
            end: None,
        }
    }

    /// Whether nothing follows the part with this body, told without reading its rows.
    pub(crate) fn is_last(body: &[u8]) -> bool {
        body.ends_with(&COMPLETE.to_le_bytes())
    }

    /// What the positions count in.
    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
    }

    #[inline]
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The names in column order; the same name may come twice.
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.names.iter().copied()
    }

    /// Goes to the next row, past whatever is unread of this one; false at the end of the part.
    #[inline]
    pub(crate) fn next_row(&mut self) -> Result<bool, Malformed> {
        self.skip_row()?;
        if self.end.is_some() {
            return Ok(false);
        }
        let mut ahead = self.cursor;
        // No type code is 0xe or 0xf, so no row header looks like an end word.
        let end = match ahead.u64("row or end word")? {
            COMPLETE => End::Complete,
            MORE => End::More,
            _ => return self.open_row(),
        };
        if !ahead.is_empty() {
            return ahead.malformed("bytes behind the end word");
        }
        self.cursor = ahead;
        self.end = Some(end);
        Ok(false)
    }

    #[inline]
    fn open_row(&mut self) -> Result<bool, Malformed> {
        let columns = self.columns();
        // A result without columns has no rows; its headers would have no bytes, without end.
        if columns == 0 {
            return self.cursor.malformed("row without columns");
        }
        let words = columns.div_ceil(CODES_PER_WORD) as u64;
        self.header = Cursor::new(self.cursor.bytes(words * 8, "row header")?);
        self.column = 0;
        Ok(true)
    }

    /// The next value of the row; to be called once per column.
    #[inline(always)]
    pub(crate) fn next_value(&mut self) -> Result<Value<'a>, Malformed> {
        if self.column >= self.columns() {
            return Err(self.past_the_last());
        }
        if self.column.is_multiple_of(CODES_PER_WORD) {
            self.codes = self.header.u64("row header")?;
        }
        let code = (self.codes & 0xf) as u8;
        self.codes >>= 4;
        self.column += 1;
        // The state is moved on first, so that the result is not copied: twice as fast.
        Value::read(code, &mut self.cursor)
    }

    /// A mistake of the caller, and the only one that leaves the rest readable.
    #[cold]
    fn past_the_last(&self) -> Malformed {
        Malformed {
            what: "value past the last column",
            at: self.position(),
        }
    }

    /// Reads the row to its end.
    #[inline]
    pub(super) fn skip_row(&mut self) -> Result<(), Malformed> {
        while self.column < self.columns() {
            self.next_value()?;
        }
        Ok(())
    }

    /// Where in the body the next read starts.
    pub(crate) fn position(&self) -> usize {
        self.cursor.position()
    }

    /// How the part ended, once `next_row` has said that it did.
    #[inline]
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }
}
