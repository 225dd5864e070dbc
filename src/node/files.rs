//! The files that a node keeps beside the engine's: who it is and who the others are, in go-dqlite's format, so that a
//! data directory can change hands. [app-behaviour 3]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

const INFO: &str = "info.yaml";
const CLUSTER: &str = "cluster.yaml";
const JOIN: &str = "join";
const LOCK: &str = "dqlite-lock";

/// What the file `join` holds while a node gives up a history of its own, or is here for the first time; go-dqlite's is
/// always empty.
const RESET: &str = "reset\n";
const NEW: &str = "new\n";

/// A node as the files name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) role: u64,
}

/// Reads info.yaml; None if there is none.
pub(crate) fn load_info(dir: &Path) -> Result<Option<Entry>> {
    let path = dir.join(INFO);
    let Some(text) = read(&path)? else {
        return Ok(None);
    };
    let damaged = |reason: &str| {
        Error::internal(format!(
            "{} {reason}: it says which node this directory belongs to. Restore it from a copy (three lines: ID, \
             Address, Role), or start with an empty directory and join the cluster anew",
            path.display()
        ))
    };
    match parse(&text).map_err(|reason| damaged(&reason))?.as_slice() {
        [entry] if entry.id != 0 && !entry.address.is_empty() => Ok(Some(entry.clone())),
        _ => Err(damaged("is damaged")),
    }
}

/// Both files of a node that is new here, with one wait for the disk less than one after the other.
pub(crate) fn store_new(dir: &Path, me: &Entry) -> Result<()> {
    put(dir, CLUSTER, &sequence(std::slice::from_ref(me)))?;
    replace(dir, INFO, &mapping(me, ""))
}

pub(crate) fn store_cluster(dir: &Path, entries: &[Entry]) -> Result<()> {
    let text = sequence(entries);
    if read(&dir.join(CLUSTER)).is_ok_and(|now| now.as_deref() == Some(&text)) {
        return Ok(());
    }
    replace(dir, CLUSTER, &text)
}

pub(super) fn sequence(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let lines = mapping(entry, "  ");
        text.push('-');
        text.push_str(lines.get(1..).unwrap_or_default());
    }
    if text.is_empty() { "[]\n".to_owned() } else { text }
}

/// Reads cluster.yaml. It can be rebuilt from the engine, so a missing or damaged one is an empty list.
pub(crate) fn load_cluster(dir: &Path) -> Vec<Entry> {
    match read(&dir.join(CLUSTER)) {
        Ok(Some(text)) => parse(&text).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// What the file `join` says: this node has been told to join a cluster and is not a member yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// To be added by the leader, and the directory was empty: what the members know of this node is from before.
    New,
    /// To be added by the leader; until then it never founds a cluster.
    Pending,
    /// The same, and what raft has written here is to be removed first.
    Reset,
}

pub(crate) fn load_join(dir: &Path) -> Result<Option<Join>> {
    Ok(read(&dir.join(JOIN))?.map(|text| match text.as_str() {
        NEW => Join::New,
        RESET => Join::Reset,
        _ => Join::Pending,
    }))
}

pub(crate) fn store_join(dir: &Path, join: Join) -> Result<()> {
    replace(
        dir,
        JOIN,
        match join {
            Join::New => NEW,
            Join::Pending => "",
            Join::Reset => RESET,
        },
    )
}

pub(crate) fn remove_join(dir: &Path) -> Result<()> {
    let path = dir.join(JOIN);
    match fs::remove_file(&path).and_then(|()| File::open(dir)?.sync_all()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::internal(format!("removing {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Removes what raft has written: the history of a node that gives it up.
pub(crate) fn remove_raft_state(dir: &Path) -> Result<()> {
    for name in list(dir)?.iter().filter(|name| is_raft_file(name)) {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(|error| Error::internal(format!("removing {}: {error}", path.display())))?;
    }
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::internal(format!("writing to {}: {error}", dir.display())))
}

/// Whether raft has written anything here, so that a bootstrap would fork history.
pub(crate) fn has_raft_state(dir: &Path) -> Result<bool> {
    Ok(list(dir)?.iter().any(|name| is_raft_file(name)))
}

/// Whether there is a log or a snapshot. Metadata alone is what an interrupted founding leaves, or a spare has.
pub(crate) fn has_raft_log(dir: &Path) -> Result<bool> {
    Ok(list(dir)?.iter().any(|name| is_raft_file(name) && !is_metadata(name)))
}

/// Removes what a founding left that was interrupted before its log; with it there, the engine refuses to begin again.
pub(crate) fn remove_lone_metadata(dir: &Path) -> Result<()> {
    if has_raft_state(dir)? && !has_raft_log(dir)? {
        return remove_raft_state(dir);
    }
    Ok(())
}

fn is_metadata(name: &str) -> bool {
    matches!(name, "metadata1" | "metadata2")
}

fn is_raft_file(name: &str) -> bool {
    is_metadata(name) || name.starts_with("snapshot-") || is_segment(name)
}

/// Whether it is a piece of raft's log.
pub(crate) fn is_segment(name: &str) -> bool {
    let indexes = name.split_once('-');
    name.starts_with("open-") || indexes.is_some_and(|(first, last)| is_index(first) && is_index(last))
}

fn is_index(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The names in a directory.
pub(crate) fn list(dir: &Path) -> Result<Vec<String>> {
    let failed = |error: std::io::Error| Error::internal(format!("reading the directory {}: {error}", dir.display()));
    fs::read_dir(dir)
        .map_err(failed)?
        .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// What the engine did not want to read, under the names that it gave it. [C src/raft/uv_segment.c]
pub(crate) fn list_set_aside(dir: &Path) -> Result<Vec<String>> {
    let mut names = list(dir)?;
    names.retain(|name| name.starts_with("corrupt-"));
    names.sort();
    Ok(names)
}

/// What `make_dir` had to create, outermost first.
#[derive(Default)]
pub(crate) struct Created(Vec<PathBuf>);

impl Created {
    /// Takes back what is still empty.
    pub(crate) fn undo(self) {
        for dir in self.0.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Sees to it that the directory is there, readable by its owner only if it is new, and writable.
pub(crate) fn make_dir(dir: &Path) -> Result<Created> {
    let missing = dir
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
    let mut created: Vec<PathBuf> = missing.map(Path::to_owned).collect();
    created.reverse();
    let created = Created(created);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    if let Err(error) = made
        .map_err(|error| describe(dir, &error))
        .and_then(|()| check_writable(dir))
    {
        created.undo();
        return Err(error);
    }
    Ok(created)
}

/// Refuses, before anything is written, a data directory that cannot work.
pub(crate) fn check_dir(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => check_writable(dir),
        Ok(_) => Err(Error::invalid(format!("data_dir {} is not a directory", dir.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(describe(dir, &error)),
    }
}

fn check_writable(dir: &Path) -> Result<()> {
    // A file without a name: it needs the same rights as the engine's files, and leaves nothing.
    match OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(dir)
    {
        Ok(_) => Ok(()),
        // Some file systems have no such files; the engine will find out.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(describe(dir, &error)),
    }
}

fn describe(dir: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!(
        "data_dir {} cannot be used: {error}; name a directory that this process may create or write to",
        dir.display()
    ))
}

/// Fails if another node, of this process or another, runs on the directory. The engine takes the lock later and for
/// good; asking first means that nothing was touched.
pub(crate) fn check_unlocked(dir: &Path) -> Result<()> {
    let Ok(file) = File::open(dir.join(LOCK)) else {
        return Ok(());
    };
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Err(in_use(dir)),
        // Closing the file ends a lock that we got.
        _ => Ok(()),
    }
}

pub(crate) fn in_use(dir: &Path) -> Error {
    Error::internal(format!(
        "data_dir {} is in use by another node (in this or another process); stop that node first",
        dir.display()
    ))
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::internal(format!("reading {}: {error}", path.display()))),
    }
}

/// Removes the drafts that a crash left. With the lock on the directory held, and before anything is written there.
pub(crate) fn remove_drafts(dir: &Path) -> Result<()> {
    for name in list(dir)?.iter().filter(|name| is_draft(name)) {
        // One that stays does no harm.
        let _ = fs::remove_file(dir.join(name));
    }
    Ok(())
}

fn draft(name: &str, number: u64) -> String {
    format!(".{name}.{number}.new")
}

fn is_draft(name: &str) -> bool {
    let number = name.strip_suffix(".new").and_then(|name| name.rsplit_once('.'));
    number.is_some_and(|(_, number)| {
        let number = number.parse().unwrap_or_default();
        [INFO, CLUSTER, JOIN].iter().any(|file| draft(file, number) == name)
    })
}

/// Writes a file so that after a crash there is the old one or the new one, whole; and which, is certain when this returns.
fn replace(dir: &Path, name: &str, text: &str) -> Result<()> {
    put(dir, name, text)?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::internal(format!("writing {} in {}: {error}", name, dir.display())))
}

/// The same, but which one is certain only once the directory is written.
fn put(dir: &Path, name: &str, text: &str) -> Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let path = dir.join(name);
    // Two threads may be writing the same file; each with a draft of its own, the last one wins.
    let temporary = dir.join(draft(name, NUMBER.fetch_add(1, Ordering::Relaxed)));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::internal(format!("writing {}: {error}", path.display()))
    })
}

fn mapping(entry: &Entry, indent: &str) -> String {
    format!(
        "{indent}ID: {}\n{indent}Address: {}\n{indent}Role: {}\n",
        entry.id,
        scalar(&entry.address),
        entry.role
    )
}

/// Quotes what YAML would not read plainly, as Go's library does.
fn scalar(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_%[]".contains(&byte);
    if text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// Reads a mapping or a sequence of mappings of scalars. Missing keys are zero, unknown ones are ignored; more YAML than
/// that is in neither file.
pub(super) fn parse(text: &str) -> std::result::Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let bad = || format!("is damaged in line {}", number + 1);
        let line = line.trim_end();
        if line.trim_start().is_empty() || line.trim_start().starts_with('#') || matches!(line, "---" | "[]") {
            continue;
        }
        let pair = match line.strip_prefix("- ") {
            Some(rest) => {
                entries.push(Entry::default());
                rest
            }
            None => line,
        };
        if entries.is_empty() {
            entries.push(Entry::default());
        }
        let (key, value) = pair.trim().split_once(':').ok_or_else(bad)?;
        let value = unquote(value.trim());
        let Some(entry) = entries.last_mut() else {
            return Err(bad());
        };
        match key {
            "ID" => entry.id = value.parse().map_err(|_| bad())?,
            "Address" => entry.address = value,
            "Role" => entry.role = value.parse().map_err(|_| bad())?,
            _ => {}
        }
    }
    Ok(entries)
}

fn unquote(text: &str) -> String {
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(text) = inner('\'') {
        return text.replace("''", "'");
    }
    if let Some(text) = inner('"') {
        return text.replace("\\\"", "\"").replace("\\\\", "\\");
    }
    // A comment needs a blank before it.
    text.split(" #").next().unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
