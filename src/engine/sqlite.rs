//! SQLite files, through connections of our own to the SQLite inside. Nothing of it is shared with a SQLite of the host's,
//! and the engine's databases are out of reach: these connections use SQLite's ordinary file system.

use std::ffi::{CStr, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Once;

use libsqlite3_sys as ffi;

use crate::engine::c_string;
use crate::error::{Error, Kind, Result};
use crate::memory;

/// How long to wait while another process writes to the file.
const BUSY_MS: c_int = 5_000;

/// Steps of SQLite's machine between two questions whether to go on; some milliseconds.
const STEPS: c_int = 100_000;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may be anybody's: it is only read, and its schema is not trusted.
    Foreign,
    /// It was made by us and nobody else knows it.
    Own,
}

/// An open file. Used by one thread at a time.
pub(crate) struct SqliteFile {
    raw: NonNull<ffi::sqlite3>,
    path: PathBuf,
}

/// The rows of a statement.
pub(crate) struct Cursor<'f> {
    file: &'f SqliteFile,
    raw: NonNull<ffi::sqlite3_stmt>,
}

/// A value as it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// Makes SQLite ready, once. Left alone it does so at its first use and looks by a plain read whether it is done, so of
/// threads that start at the same time one could see that it is before what it has made.
pub(super) fn make_ready() {
    static READY: Once = Once::new();
    // SAFETY: it may be called at any time; if it fails, the next use of SQLite says so.
    READY.call_once(|| unsafe {
        ffi::sqlite3_initialize();
    });
}

impl SqliteFile {
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self> {
        let flags = match access {
            Access::Foreign => {
                check_unlocked(path)?;
                ffi::SQLITE_OPEN_READONLY
            }
            Access::Own => ffi::SQLITE_OPEN_READWRITE,
        };
        let name = c_string(path.as_os_str().as_bytes(), "path")?;
        make_ready();
        let mut raw = ptr::null_mut();
        // SAFETY: the name is a string, `raw` a place for the connection, and the name of the file system is static; "unix"
        // keeps apart from whatever default the engine may set.
        let code = unsafe { ffi::sqlite3_open_v2(name.as_ptr(), &mut raw, flags, c"unix".as_ptr()) };
        let Some(raw) = NonNull::new(raw) else {
            return Err(Error::internal("SQLite has no memory for a connection"));
        };
        let file = Self {
            raw,
            path: path.to_owned(),
        };
        if code != ffi::SQLITE_OK {
            return Err(file.fault());
        }
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_busy_timeout(file.raw.as_ptr(), BUSY_MS) };
        if access == Access::Foreign {
            file.run("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON")?;
        }
        Ok(file)
    }

    /// Runs statements one after the other; their rows are dropped.
    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        let sql = c_string(sql.as_bytes(), "SQL")?;
        // SAFETY: the connection is open and the SQL a string; no callback, no place for a message.
        let code =
            unsafe { ffi::sqlite3_exec(self.raw.as_ptr(), sql.as_ptr(), None, ptr::null_mut(), ptr::null_mut()) };
        if code == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(self.fault())
        }
    }

    /// Starts the one statement in `sql`.
    pub(crate) fn query(&self, sql: &str) -> Result<Cursor<'_>> {
        let sql = c_string(sql.as_bytes(), "SQL")?;
        let mut raw = ptr::null_mut();
        // SAFETY: as in `run`, with a place for the statement and none for the tail.
        let code = unsafe { ffi::sqlite3_prepare_v2(self.raw.as_ptr(), sql.as_ptr(), -1, &mut raw, ptr::null_mut()) };
        match NonNull::new(raw) {
            Some(raw) if code == ffi::SQLITE_OK => Ok(Cursor { file: self, raw }),
            _ => Err(self.fault()),
        }
    }

    /// Runs `body`, within which long statements ask now and then whether they have to stop.
    pub(crate) fn stoppable<T>(&self, stop: &mut dyn FnMut() -> bool, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut stop = stop;
        let place = ptr::from_mut(&mut stop).cast();
        // SAFETY: the connection is open; `stop` outlives the handler, which is removed below, on this thread.
        unsafe { ffi::sqlite3_progress_handler(self.raw.as_ptr(), STEPS, Some(ask), place) };
        let done = catch_unwind(AssertUnwindSafe(body));
        // SAFETY: as above.
        unsafe { ffi::sqlite3_progress_handler(self.raw.as_ptr(), 0, None, ptr::null_mut()) };
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn fault(&self) -> Error {
        // SAFETY: the connection exists, and the message lives until its next call.
        let (code, text) = unsafe {
            let raw = self.raw.as_ptr();
            (
                ffi::sqlite3_extended_errcode(raw),
                CStr::from_ptr(ffi::sqlite3_errmsg(raw)),
            )
        };
        let kind = match code & 0xff {
            ffi::SQLITE_NOMEM | ffi::SQLITE_FULL | ffi::SQLITE_IOERR | ffi::SQLITE_INTERNAL => Kind::Internal,
            ffi::SQLITE_INTERRUPT => Kind::Interrupted,
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => Kind::Retry,
            _ => Kind::Invalid,
        };
        Error::new(kind, format!("{} (code {code})", text.to_string_lossy())).at(self.path.display())
    }
}

impl Drop for SqliteFile {
    fn drop(&mut self) {
        // SAFETY: cursors borrow the file, so all of them are finalized.
        unsafe { ffi::sqlite3_close(self.raw.as_ptr()) };
    }
}

impl Cursor<'_> {
    /// Goes to the next row; false behind the last one.
    pub(crate) fn step(&mut self) -> Result<bool> {
        // SAFETY: the statement is not finalized before this value is dropped.
        match unsafe { ffi::sqlite3_step(self.raw.as_ptr()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            _ => Err(self.file.fault()),
        }
    }

    /// A value of the row that `step` went to; NULL where there is none.
    pub(crate) fn cell(&mut self, column: usize) -> Result<Cell<'_>> {
        let (raw, column) = (self.raw.as_ptr(), c_int::try_from(column).unwrap_or(c_int::MAX));
        // SAFETY: as in `step`; a column that does not exist reads as NULL. The bytes stay until the next step or the next
        // look at this cell in another type, and both need the borrow of `self` to have ended.
        let found = unsafe {
            match ffi::sqlite3_column_type(raw, column) {
                ffi::SQLITE_INTEGER => Some(Cell::Integer(ffi::sqlite3_column_int64(raw, column))),
                ffi::SQLITE_FLOAT => Some(Cell::Real(ffi::sqlite3_column_double(raw, column))),
                ffi::SQLITE_TEXT => {
                    let text = ffi::sqlite3_column_text(raw, column);
                    bytes(text.cast(), ffi::sqlite3_column_bytes(raw, column)).map(Cell::Text)
                }
                ffi::SQLITE_BLOB => {
                    let blob = ffi::sqlite3_column_blob(raw, column);
                    bytes(blob, ffi::sqlite3_column_bytes(raw, column)).map(Cell::Blob)
                }
                _ => Some(Cell::Null),
            }
        };
        found.ok_or_else(|| Error::internal(format!("{}: no memory for a value", self.file.path.display())))
    }

    /// The value as a text; empty where there is none.
    pub(crate) fn text(&mut self, column: usize) -> Result<String> {
        Ok(match self.cell(column)? {
            Cell::Text(bytes) | Cell::Blob(bytes) => match str::from_utf8(bytes) {
                Ok(text) => memory::copy_text(text, "a text")?,
                Err(_) => String::from_utf8_lossy(bytes).into_owned(),
            },
            Cell::Integer(number) => number.to_string(),
            Cell::Real(_) | Cell::Null => String::new(),
        })
    }

    /// The value as an integer; 0 where it is none.
    pub(crate) fn integer(&mut self, column: usize) -> Result<i64> {
        Ok(match self.cell(column)? {
            Cell::Integer(number) => number,
            _ => 0,
        })
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // SAFETY: finalized once, here.
        unsafe { ffi::sqlite3_finalize(self.raw.as_ptr()) };
    }
}

/// None if SQLite had no memory for them.
///
/// # Safety
/// `start` is NULL or points to `size` bytes that outlive the result.
unsafe fn bytes<'a>(start: *const c_void, size: c_int) -> Option<&'a [u8]> {
    match usize::try_from(size) {
        Ok(0) => Some(&[]),
        // SAFETY: the caller's promise.
        Ok(size) if !start.is_null() => Some(unsafe { slice::from_raw_parts(start.cast(), size) }),
        _ => None,
    }
}

/// SQLite's progress handler: not 0 ends the statement.
unsafe extern "C" fn ask(place: *mut c_void) -> c_int {
    // SAFETY: `stoppable` passes a reference that lives as long as the handler.
    let stop = unsafe { &mut *place.cast::<&mut dyn FnMut() -> bool>() };
    catch_unwind(AssertUnwindSafe(stop)).unwrap_or(true).into()
}

/// A process loses all its locks on a file as soon as it closes any descriptor of it, and the host's SQLite would not
/// notice. So a file that this process has locked is not opened a second time.
fn check_unlocked(path: &Path) -> Result<()> {
    let file = fs::metadata(path).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))?;
    if !file.is_file() {
        return Err(Error::invalid(format!("{} is not a file", path.display())));
    }
    // Where there is no such list, there is nothing to check.
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    if locks.lines().any(|line| is_ours(line, file.ino())) {
        return Err(Error::misuse(format!(
            "{} is in use by another SQLite of this process, whose locks would be lost: close it there first, or copy the \
             file",
            path.display()
        )));
    }
    Ok(())
}

/// A line of /proc/locks, such as `1: POSIX  ADVISORY  WRITE 12345 08:01:393228 0 EOF`.
fn is_ours(line: &str, inode: u64) -> bool {
    let mut fields = line.split_whitespace().skip(1).skip_while(|field| *field == "->");
    let posix = fields.next() == Some("POSIX");
    let mut fields = fields.skip(2);
    let pid = fields.next().and_then(|field| field.parse().ok());
    let place = fields.next().and_then(|field| field.rsplit(':').next()?.parse().ok());
    posix && pid == Some(std::process::id()) && place == Some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_this_process_are_recognised() {
        let me = std::process::id();
        assert!(is_ours(
            &format!("1: POSIX  ADVISORY  WRITE {me} 08:01:393228 0 EOF"),
            393_228
        ));
        assert!(is_ours(&format!("1: -> POSIX  ADVISORY  READ {me} 00:2a:7 5 9"), 7));
        assert!(!is_ours(
            &format!("1: POSIX  ADVISORY  WRITE {me} 08:01:393228 0 EOF"),
            393_229
        ));
        assert!(!is_ours(&format!("1: FLOCK  ADVISORY  WRITE {me} 08:01:7 0 EOF"), 7));
        assert!(!is_ours("1: POSIX  ADVISORY  WRITE 1 08:01:7 0 EOF", 7));
        assert!(!is_ours("", 0));
    }
}
