//! Allocations whose size a caller, a peer or a disk decides. Rust ends the process where memory for a vector cannot be had;
//! these end their call.

use std::ffi::CString;

use crate::error::{Error, Kind, Result};

/// Room in `vec` for so many more.
pub(crate) fn reserve<T>(vec: &mut Vec<T>, more: usize, what: &str) -> Result<()> {
    vec.try_reserve(more).map_err(|_| none_for(more * size_of::<T>(), what))
}

/// A copy of the bytes.
pub(crate) fn copy(bytes: &[u8], what: &str) -> Result<Box<[u8]>> {
    let mut copy = Vec::new();
    let room = copy.try_reserve_exact(bytes.len());
    room.map_err(|_| none_for(bytes.len(), what))?;
    copy.extend_from_slice(bytes);
    Ok(copy.into_boxed_slice())
}

/// A copy of the text.
pub(crate) fn copy_text(text: &str, what: &str) -> Result<String> {
    let mut copy = String::new();
    let room = copy.try_reserve_exact(text.len());
    room.map_err(|_| none_for(text.len(), what))?;
    copy.push_str(text);
    Ok(copy)
}

/// A copy of the bytes as C has it; empty if there is a NUL among them.
pub(crate) fn c_string(bytes: &[u8], what: &str) -> Result<CString> {
    let mut copy = Vec::new();
    let room = copy.try_reserve_exact(bytes.len() + 1);
    room.map_err(|_| none_for(bytes.len() + 1, what))?;
    copy.extend_from_slice(bytes);
    Ok(CString::new(copy).unwrap_or_default())
}

/// That there is so much, for what cannot ask by itself.
pub(crate) fn check(bytes: usize, what: &str) -> Result<()> {
    reserve(&mut Vec::<u8>::new(), bytes, what)
}

/// The items of an iterator that knows, or nearly, how many they are.
pub(crate) fn collect<T>(items: impl Iterator<Item = Result<T>>, what: &str) -> Result<Vec<T>> {
    let mut all = Vec::new();
    reserve(&mut all, items.size_hint().0, what)?;
    for item in items {
        if all.len() == all.capacity() {
            reserve(&mut all, 1, what)?;
        }
        all.push(item?);
    }
    Ok(all)
}

/// What the caller is told.
pub(crate) fn none_for(bytes: usize, what: &str) -> Error {
    Error::new(
        Kind::NoMemory,
        format!(
            "no memory: {bytes} bytes for {what} cannot be had; free some, or raise the process's limit (ulimit -v), and try again"
        ),
    )
}
