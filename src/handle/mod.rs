//! The numbers that callers hold, and what they stand for.
//!
//! A handle is made of its kind, a serial number and a place in the table. No serial is used twice, so a handle that was
//! destroyed never comes to mean something else. The lock is held for the look-up alone; whoever looked up owns a share.

mod table;

/// tests/handles_loom.rs has others.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) use parking_lot::Mutex;
}

use std::sync::Arc;

use once_cell::sync::Lazy;

use crate::client::Client;
use crate::db::{PreparedStatement, ResultRows, SharedSession};
use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::node::Node;
use crate::queue::Queue;
use table::{KIND_SHIFT, Table};

/// What a handle can stand for.
pub(crate) trait Object: Sized {
    const KIND: u64;
    const NAME: &'static str;
    fn wrap(self: Arc<Self>) -> Slot;
    fn unwrap(slot: Slot) -> Option<Arc<Self>>;
}

/// The kinds of object: their number in a handle, their name in messages.
macro_rules! objects {
    ($($kind:literal $object:ident $name:literal;)*) => {
        #[derive(Clone)]
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

            fn unwrap(slot: Slot) -> Option<Arc<Self>> {
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

static TABLE: Lazy<Table<Slot>> = Lazy::new(Table::new);

/// Gives the object a handle.
pub(crate) fn insert<T: Object>(object: T) -> Result<u64> {
    memory::check(TABLE.growth(), "handles")?;
    TABLE
        .insert(T::KIND, Arc::new(object).wrap())
        .ok_or_else(|| Error::internal("no handle is left: too many objects were created in this process"))
}

/// A share of what the handle stands for.
pub(crate) fn get<T: Object>(handle: u64) -> Result<Arc<T>> {
    check_kind::<T>(handle)?;
    TABLE
        .get(handle)
        .and_then(T::unwrap)
        .ok_or_else(|| unknown::<T>(handle))
}

/// Everything of one kind that has a handle.
pub(crate) fn all<T: Object>() -> Vec<Arc<T>> {
    TABLE.all().into_iter().filter_map(T::unwrap).collect()
}

/// Takes the handle out of use and returns what it stood for.
pub(crate) fn remove<T: Object>(handle: u64) -> Result<Arc<T>> {
    check_kind::<T>(handle)?;
    TABLE
        .remove(handle)
        .and_then(T::unwrap)
        .ok_or_else(|| unknown::<T>(handle))
}

/// The kind stands in the handle, too.
fn check_kind<T: Object>(handle: u64) -> Result<()> {
    let kind = handle >> KIND_SHIFT;
    if kind != T::KIND && KINDS.contains(&kind) {
        return Err(Error::invalid(format!(
            "handle {handle} does not stand for a {}",
            T::NAME
        )));
    }
    Ok(())
}

fn unknown<T: Object>(handle: u64) -> Error {
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
        for nonsense in [0, 1, 99, u64::MAX, handle ^ 1 << 22] {
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
