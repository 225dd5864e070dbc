//! The table of handles under every order in which its threads can run, which loom tries one after another.
#![allow(clippy::unwrap_used)]

// Links the crate, whose link arguments (--wrap) reach every test.
use dqlitepy as _;

#[path = "../src/handle/table.rs"]
#[allow(dead_code)]
mod table;

/// What the library takes from parking_lot and std, as loom has it.
mod sync {
    pub(crate) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use table::{KIND_SHIFT, Table};

const NODE: u64 = 1;
const CLIENT: u64 = 2;

/// Stands for a node; says if it was used after it had been freed.
#[derive(Default)]
struct Object {
    number: u32,
    freed: AtomicBool,
}

impl Object {
    fn new(number: u32) -> Arc<Self> {
        let freed = AtomicBool::new(false);
        Arc::new(Self { number, freed })
    }

    fn use_it(&self) -> u32 {
        assert!(!self.freed.load(Ordering::Relaxed), "used after it was freed");
        self.number
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.freed.store(true, Ordering::Relaxed);
    }
}

fn new_table() -> Arc<Table<Arc<Object>>> {
    Arc::new(Table::new())
}

#[test]
fn what_is_destroyed_while_in_use_lives_until_its_user_is_done() {
    loom::model(|| {
        let table = new_table();
        let handle = table.insert(NODE, Object::new(7)).unwrap();
        let user = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.get(handle).map(|object| object.use_it()))
        };
        let removed = table.remove(handle).unwrap();
        assert_eq!(removed.use_it(), 7);
        drop(removed);
        assert!(matches!(user.join().unwrap(), None | Some(7)));
        assert!(table.get(handle).is_none());
    });
}

#[test]
fn of_two_that_destroy_only_one_does() {
    loom::model(|| {
        let table = new_table();
        let handle = table.insert(NODE, Object::new(7)).unwrap();
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.remove(handle).is_some())
        };
        let here = table.remove(handle).is_some();
        assert!(here != other.join().unwrap());
        assert!(table.all().is_empty());
    });
}

#[test]
fn a_place_that_is_used_again_is_not_the_old_handles() {
    loom::model(|| {
        let table = new_table();
        let old = table.insert(NODE, Object::new(1)).unwrap();
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                table.remove(old).unwrap();
                table.insert(NODE, Object::new(2)).unwrap()
            })
        };
        // Whatever the other thread has done by now, the old handle means the old object or nothing.
        assert!(table.get(old).is_none_or(|object| object.use_it() == 1));
        assert!(table.get(old).is_none_or(|object| object.use_it() == 1));
        let new = other.join().unwrap();
        assert_ne!(old, new);
        assert!(table.remove(old).is_none());
        assert_eq!(table.get(new).unwrap().use_it(), 2);
    });
}

#[test]
fn handles_of_several_threads_differ() {
    loom::model(|| {
        let table = new_table();
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.insert(CLIENT, Object::new(2)).unwrap())
        };
        let here = table.insert(NODE, Object::new(1)).unwrap();
        let there = other.join().unwrap();
        assert_ne!(here, there);
        assert_eq!((here >> KIND_SHIFT, there >> KIND_SHIFT), (NODE, CLIENT));
        assert_eq!(table.get(here).unwrap().use_it(), 1);
        assert_eq!(table.get(there).unwrap().use_it(), 2);
        assert_eq!(table.all().len(), 2);
    });
}
