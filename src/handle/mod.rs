//! The numbers that callers hold, and what they stand for.
//!
//! A handle is made of its kind, a serial number and a place in the table. No serial is used twice, so a handle that was
//! destroyed never comes to mean something else. The lock is held for the look-up alone; whoever looked up owns a share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::Lazy;
use parking_lot::Mutex;
use slab::Slab;

use crate::client::Client;
use crate::db::{PreparedStatement, ResultRows, SharedSession};
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::queue::Queue;

/// Bits of a handle from the top: one unset (so that it is positive in languages without unsigned integers), the kind,
/// the serial number, the place.
const PLACE_BITS: u32 = 22;
const SERIAL_BITS: u32 = 38;
const KIND_SHIFT: u32 = PLACE_BITS + SERIAL_BITS;

/// What a handle can stand for.
pub(crate) trait Object: Sized {
    const KIND: u64;
    const NAME: &'static str;
    fn wrap(self: Arc<Self>) -> Slot;
    fn unwrap(slot: &Slot) -> Option<&Arc<Self>>;
}

/// The kinds of object: their number in a handle, their name in messages.
macro_rules! objects {
    ($($kind:literal $object:ident $name:literal;)*) => {
        pub(crate) enum Slot {
            $($object(Arc<$object>),)*
        }

        const KINDS: &[u64] = &[$($kind),*];

        $(impl Object for $object {
            const KIND: u64 = $kind;
            const NAME: &'static str = $name;

            fn wrap(self: Arc<Self>) -> Slot {
                Slot::$object(self)
            }

            fn unwrap(slot: &Slot) -> Option<&Arc<Self>> {
                match slot {
                    Slot::$object(object) => Some(object),
                    _ => None,
                }
            }
        })*
    };
}

objects! {
    1 Node "node";
    2 Client "client";
    3 SharedSession "session";
    4 PreparedStatement "statement";
    5 ResultRows "result";
    6 Queue "queue";
}

struct Entry {
    handle: u64,
    slot: Slot,
}

static TABLE: Lazy<Mutex<Slab<Entry>>> = Lazy::new(Mutex::default);
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// Gives the object a handle.
pub(crate) fn insert<T: Object>(object: T) -> Result<u64> {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut table = TABLE.lock();
    let place = table.vacant_entry();
    let index = place.key() as u64;
    if index >> PLACE_BITS != 0 || serial >> SERIAL_BITS != 0 {
        return Err(Error::internal(
            "no handle is left: too many objects were created in this process",
        ));
    }
    let handle = T::KIND << KIND_SHIFT | serial << PLACE_BITS | index;
    place.insert(Entry {
        handle,
        slot: Arc::new(object).wrap(),
    });
    Ok(handle)
}

/// A share of what the handle stands for.
pub(crate) fn get<T: Object>(handle: u64) -> Result<Arc<T>> {
    let table = TABLE.lock();
    table
        .get(place(handle))
        .filter(|entry| entry.handle == handle)
        .and_then(|entry| T::unwrap(&entry.slot))
        .cloned()
        .ok_or_else(|| unknown::<T>(handle))
}

/// Everything of one kind that has a handle.
pub(crate) fn all<T: Object>() -> Vec<Arc<T>> {
    let table = TABLE.lock();
    table
        .iter()
        .filter_map(|(_, entry)| T::unwrap(&entry.slot))
        .cloned()
        .collect()
}

/// Takes the handle out of use and returns what it stood for.
pub(crate) fn remove<T: Object>(handle: u64) -> Result<Arc<T>> {
    let object = get::<T>(handle)?;
    let mut table = TABLE.lock();
    // Another thread may have been faster, and the place may be taken again.
    if table.get(place(handle)).is_none_or(|entry| entry.handle != handle) {
        return Err(unknown::<T>(handle));
    }
    let entry = table.remove(place(handle));
    drop(table);
    drop(entry);
    Ok(object)
}

fn place(handle: u64) -> usize {
    (handle & ((1 << PLACE_BITS) - 1)) as usize
}

fn unknown<T: Object>(handle: u64) -> Error {
    let kind = handle >> KIND_SHIFT;
    if kind != T::KIND && KINDS.contains(&kind) {
        return Error::invalid(format!("handle {handle} does not stand for a {}", T::NAME));
    }
    Error::new(
        Kind::NotFound,
        format!(
            "invalid {} handle {handle}: it was never given out, or it was destroyed",
            T::NAME
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::parse_csv;

    fn client() -> Client {
        Client::new(parse_csv("127.0.0.1:9001").unwrap())
    }

    #[test]
    fn a_removed_handle_never_comes_back() {
        let first = insert(client()).unwrap();
        remove::<Client>(first).unwrap();
        let second = insert(client()).unwrap();
        assert_ne!(first, second);
        assert_eq!(get::<Client>(first).err().unwrap().kind(), Kind::NotFound);
        assert_eq!(remove::<Client>(first).err().unwrap().kind(), Kind::NotFound);
        assert!(get::<Client>(second).is_ok());
        remove::<Client>(second).unwrap();
    }

    #[test]
    fn a_handle_of_another_kind_is_told_apart_from_nonsense() {
        let handle = insert(client()).unwrap();
        assert_eq!(get::<Node>(handle).err().unwrap().kind(), Kind::Invalid);
        for nonsense in [0, 1, 99, u64::MAX, handle ^ 1 << PLACE_BITS] {
            assert_eq!(
                get::<Client>(nonsense).err().unwrap().kind(),
                Kind::NotFound,
                "{nonsense}"
            );
        }
        remove::<Client>(handle).unwrap();
    }

    #[test]
    fn threads_never_get_the_same_handle() {
        let all: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..200)
                            .map(|round| {
                                let handle = insert(client()).unwrap();
                                if round % 2 == 0 {
                                    remove::<Client>(handle).unwrap();
                                }
                                handle
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let mut unique = all.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
        assert!(all.iter().all(|handle| *handle != 0 && *handle < 1 << 63));
        for (number, handle) in all.into_iter().enumerate() {
            assert_eq!(remove::<Client>(handle).is_ok(), number % 2 == 1);
        }
    }
}
