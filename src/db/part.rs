//! One part of a result in memory of its own, so that its rows outlive the connection's next message.

use std::ffi::CString;

use crate::client::Body;
use crate::error::Error;
use crate::memory;
use crate::wire::{End, Malformed, Rows, Value};

/// The rows of a part, one at a time or many; what a value points to lies here until the next part is loaded.
#[derive(Default)]
pub(crate) struct Part {
    body: Body,
    names: Vec<CString>,
    columns: usize,
    /// Where in the body the next row starts.
    next: usize,
    /// The values of the row that was read last; empty if there is none.
    row: Vec<Cell>,
    /// No other part follows this one.
    last: bool,
    /// All its rows were read.
    finished: bool,
}

/// A value: its type and number, or where in the body its bytes lie.
enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(Place),
    Blob(Place),
    UnixTime(i64),
    Iso8601(Place),
    Boolean(u64),
}

#[derive(Clone, Copy)]
struct Place {
    start: usize,
    len: usize,
}

impl Part {
    /// A result without rows and columns.
    pub(super) fn empty() -> Self {
        Self {
            last: true,
            finished: true,
            ..Self::default()
        }
    }

    /// Takes what stands in front of the rows; the body itself has to be moved in afterwards.
    pub(super) fn describe(&mut self, rows: &Rows<'_>) -> Result<(), Error> {
        self.columns = rows.columns();
        self.next = rows.position();
        self.last = Rows::is_last(rows.body());
        self.finished = false;
        self.row.clear();
        // Every part repeats the names, which do not change within one result.
        if self.names.len() != self.columns {
            // A name may be as long as the statement.
            let names = rows.names().map(|name| memory::c_string(name, "the name of a column"));
            self.names = memory::collect(names, "the names of columns")?;
        }
        Ok(())
    }

    pub(super) fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    pub(super) fn is_last(&self) -> bool {
        self.last
    }

    /// All its rows were read.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn names(&self) -> &[CString] {
        &self.names
    }

    /// The values of the row that was read last.
    pub(crate) fn value(&self, column: usize) -> Option<Value<'_>> {
        self.row.get(column).map(|cell| cell.value(self.body.as_slice()))
    }

    /// Bytes of the body.
    pub(super) fn size(&self) -> usize {
        self.body.as_slice().len()
    }

    /// Goes to the next row of this part; false behind the last one.
    pub(super) fn next_row(&mut self) -> Result<bool, Malformed> {
        self.row.clear();
        if self.finished {
            return Ok(false);
        }
        let body = self.body.as_slice();
        let mut rows = Rows::resume(body, self.columns, self.next);
        if !rows.next_row()? {
            self.finished = true;
            self.check_end(rows.end())?;
            return Ok(false);
        }
        for _ in 0..self.columns {
            let value = rows.next_value()?;
            self.row.push(Cell::new(value, body));
        }
        self.next = rows.position();
        Ok(true)
    }

    /// Hands up to `most` rows of this part to `take`, value by value; how many there were.
    pub(super) fn take_rows(
        &mut self,
        most: usize,
        take: &mut dyn FnMut(usize, usize, Value<'_>),
    ) -> Result<usize, Malformed> {
        self.row.clear();
        if self.finished {
            return Ok(0);
        }
        let mut rows = Rows::resume(self.body.as_slice(), self.columns, self.next);
        for row in 0..most {
            if !rows.next_row()? {
                self.finished = true;
                let end = rows.end();
                self.check_end(end)?;
                return Ok(row);
            }
            for column in 0..self.columns {
                take(row, column, rows.next_value()?);
            }
            self.next = rows.position();
        }
        Ok(most)
    }

    /// The last word of a body was looked at before its rows.
    fn check_end(&self, end: Option<End>) -> Result<(), Malformed> {
        if (end == Some(End::Complete)) == self.last {
            return Ok(());
        }
        Err(Malformed {
            what: "end word",
            at: self.next,
        })
    }
}

impl Cell {
    fn new(value: Value<'_>, body: &[u8]) -> Self {
        let place = |bytes: &[u8]| Place {
            start: bytes.as_ptr() as usize - body.as_ptr() as usize,
            len: bytes.len(),
        };
        match value {
            Value::Null => Self::Null,
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Text(bytes) => Self::Text(place(bytes)),
            Value::Blob(bytes) => Self::Blob(place(bytes)),
            Value::UnixTime(seconds) => Self::UnixTime(seconds),
            Value::Iso8601(bytes) => Self::Iso8601(place(bytes)),
            Value::Boolean(number) => Self::Boolean(number),
        }
    }

    fn value<'a>(&self, body: &'a [u8]) -> Value<'a> {
        let bytes = |place: &Place| body.get(place.start..place.start + place.len).unwrap_or_default();
        match self {
            Self::Null => Value::Null,
            Self::Integer(number) => Value::Integer(*number),
            Self::Real(number) => Value::Real(*number),
            Self::Text(place) => Value::Text(bytes(place)),
            Self::Blob(place) => Value::Blob(bytes(place)),
            Self::UnixTime(seconds) => Value::UnixTime(*seconds),
            Self::Iso8601(place) => Value::Iso8601(bytes(place)),
            Self::Boolean(number) => Value::Boolean(*number),
        }
    }
}
