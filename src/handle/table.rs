//! Numbers that stand for values, given out once each. tests/handles_loom.rs runs it under every order of its threads.

use slab::Slab;

use super::sync::{AtomicU64, Mutex, Ordering};

/// Bits of a handle from the top: one unset (so that it is positive in languages without unsigned integers), the kind,
/// the serial number, the place.
const PLACE_BITS: u32 = 22;
const SERIAL_BITS: u32 = 38;
pub(crate) const KIND_SHIFT: u32 = PLACE_BITS + SERIAL_BITS;

struct Entry<T> {
    handle: u64,
    value: T,
}

/// The lock is held for the look-up alone; whoever looked up owns what was cloned.
pub(crate) struct Table<T> {
    entries: Mutex<Slab<Entry<T>>>,
    serial: AtomicU64,
}

impl<T: Clone> Table<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Mutex::new(Slab::new()),
            serial: AtomicU64::new(1),
        }
    }

    /// None if no handle is left.
    pub(crate) fn insert(&self, kind: u64, value: T) -> Option<u64> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries.lock();
        let place = entries.vacant_entry();
        let index = place.key() as u64;
        if index >> PLACE_BITS != 0 || serial >> SERIAL_BITS != 0 {
            return None;
        }
        let handle = kind << KIND_SHIFT | serial << PLACE_BITS | index;
        place.insert(Entry { handle, value });
        Some(handle)
    }

    /// Bytes that the next handle takes, which are many where the table has to grow.
    pub(crate) fn growth(&self) -> usize {
        let entries = self.entries.lock();
        let grows = entries.len() == entries.capacity();
        if grows {
            entries.len() * 3 * size_of::<Entry<T>>()
        } else {
            0
        }
    }

    pub(crate) fn get(&self, handle: u64) -> Option<T> {
        let entries = self.entries.lock();
        let entry = entries.get(place(handle)).filter(|entry| entry.handle == handle)?;
        Some(entry.value.clone())
    }

    pub(crate) fn all(&self) -> Vec<T> {
        let entries = self.entries.lock();
        entries.iter().map(|(_, entry)| entry.value.clone()).collect()
    }

    /// Takes the handle out of use; of several threads only one gets the value.
    pub(crate) fn remove(&self, handle: u64) -> Option<T> {
        let mut entries = self.entries.lock();
        entries.get(place(handle)).filter(|entry| entry.handle == handle)?;
        Some(entries.remove(place(handle)).value)
    }
}

fn place(handle: u64) -> usize {
    (handle & ((1 << PLACE_BITS) - 1)) as usize
}
