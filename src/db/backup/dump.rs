//! A copy of the database as a SQLite file: what the leader sends is written as it comes, made one file, checked, and only
//! then given its name.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::Incoming;
use crate::db::backup::{Task, Watch, check};
use crate::db::failed::failure;
use crate::engine::sqlite::{Access, SqliteFile};
use crate::error::{Error, Result};
use crate::wire::{Files, Malformed, Piece, Request, Response};

/// What SQLite appends to the name of a database for the files beside it.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What our glue answers if the database is larger than the engine can send.
const TOO_BIG: u64 = 18;

/// A longer answer is no error message.
const MESSAGE: u64 = 1 << 20;

pub(super) fn dump(task: &mut Task<'_>, target: &Path) -> Result<()> {
    let unchanged = |error: Error| error.with(format!("{} is as it was before", target.display()));
    let mut copy = Copy::begin(target)?;
    receive(task, &mut copy).map_err(unchanged)?;
    settle(&copy, &mut task.watch).map_err(unchanged)?;
    copy.finish()
}

/// Receives the files of the database.
fn receive(task: &mut Task<'_>, copy: &mut Copy) -> Result<()> {
    // Reading goes through the leader's barrier: what was committed before the call is in the copy.
    task.texts("SELECT 1")?;
    let name = task.own.database().to_owned();
    let request = Request::Dump { name: name.as_bytes() };
    // The leader keeps a buffer as large as the database until the connection ends, so it ends here.
    let Some(mut conn) = task.own.conn.take() else {
        return Err(Error::internal("not connected"));
    };
    let began = conn.begin(&request, task.deadline());
    let mut incoming = began.map_err(|broken| task.broken(broken))?;
    let total = incoming.header().body_len();
    let Some(mut files) = Files::new(incoming.header()) else {
        return Err(refusal(task, &mut incoming, &name));
    };
    let mut done = 0;
    task.watch.at(done, total)?;
    while done < total {
        let mut bytes = incoming.piece(task.deadline()).map_err(|broken| task.broken(broken))?;
        done += bytes.len() as u64;
        while let Some(piece) = files.next(&mut bytes).map_err(|fault| garbled(&fault))? {
            copy.take(&piece)?;
        }
        task.watch.at(done, total)?;
    }
    if files.is_complete() {
        return Ok(());
    }
    Err(Error::internal("the leader sent less than the whole database"))
}

fn garbled(fault: &Malformed) -> Error {
    Error::internal(format!("the answer to DUMP makes no sense: {fault}"))
}

/// The answer that is no database.
fn refusal(task: &Task<'_>, incoming: &mut Incoming<'_>, name: &str) -> Error {
    let header = incoming.header();
    let mut body = Vec::new();
    while (body.len() as u64) < header.body_len().min(MESSAGE) {
        match incoming.piece(task.deadline()) {
            Ok(bytes) => body.extend_from_slice(bytes),
            Err(broken) => return task.broken(broken),
        }
    }
    match Response::decode(header, &body) {
        Ok(Response::Failure { code: TOO_BIG, .. }) => Error::sql(
            TOO_BIG as i32,
            format!("the database {name:?} is larger than 2 GiB, more than the engine can send in one piece"),
        ),
        Ok(Response::Failure { code, message }) => failure(code, &String::from_utf8_lossy(message)),
        Ok(other) => Error::internal(format!("DUMP was answered with {}", other.name())),
        Err(fault) => garbled(&fault),
    }
}

/// Makes the file stand for itself, and sees whether it does. A node of an older version sends a WAL beside it.
fn settle(copy: &Copy, watch: &mut Watch<'_>) -> Result<()> {
    let file = SqliteFile::open(&copy.path, Access::Own)?;
    watch.over(&file, || {
        // Nobody else uses it, and it is synced as a whole at the end.
        file.run("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA journal_mode = DELETE")?;
        check(&file)
    })
}

/// A file in the making, removed again unless it is finished.
struct Copy {
    path: PathBuf,
    target: PathBuf,
    writing: Option<File>,
    files: usize,
    finished: bool,
}

impl Copy {
    fn begin(target: &Path) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        if target.file_name().is_none() || target.is_dir() {
            return Err(Error::invalid(format!("{} is no name for a file", target.display())));
        }
        check_beside(target)?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".dqlitepy-dump-{}-{number}", std::process::id());
        let mut copy = Self {
            path: target.with_file_name(name),
            target: target.to_owned(),
            writing: None,
            files: 0,
            finished: false,
        };
        copy.create("")?;
        Ok(copy)
    }

    fn create(&mut self, ending: &str) -> Result<()> {
        let path = beside(&self.path, ending);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        self.writing = Some(made.map_err(|error| Error::invalid(format!("creating {}: {error}", path.display())))?);
        Ok(())
    }

    fn take(&mut self, piece: &Piece<'_>) -> Result<()> {
        match piece {
            Piece::File { size, .. } => {
                self.files += 1;
                match self.files {
                    1 => Ok(()),
                    2 if *size == 0 => Ok(()),
                    2 => self.create("-wal"),
                    _ => Err(Error::internal("the leader sent more than a database and its WAL")),
                }
            }
            Piece::Content(bytes) => self.write(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.writing else {
            return Err(Error::internal("no file is open"));
        };
        file.write_all(bytes)
            .map_err(|error| Error::internal(format!("writing {}: {error}", self.path.display())))
    }

    /// Gives the file its name; from then on it stays, also after a loss of power.
    fn finish(mut self) -> Result<()> {
        let failed = |error| Error::internal(format!("writing {}: {error}", self.target.display()));
        check_beside(&self.target)?;
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.path, &self.target))
            .map_err(failed)?;
        self.finished = true;
        let dir = match self.target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.writing = None;
        if !self.finished {
            let _ = fs::remove_file(&self.path);
            for ending in BESIDE {
                let _ = fs::remove_file(beside(&self.path, ending));
            }
        }
    }
}

/// SQLite would take a WAL or journal that lies beside the new file for the new file's own.
fn check_beside(target: &Path) -> Result<()> {
    for ending in ["-wal", "-journal"] {
        let path = beside(target, ending);
        if fs::metadata(&path).is_ok_and(|found| found.len() > 0) {
            return Err(Error::invalid(format!(
                "{} belongs to another database that is or was in use as {}: close that one or choose another name",
                path.display(),
                target.display()
            )));
        }
    }
    Ok(())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}
