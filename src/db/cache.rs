//! The statements that are prepared on a connection, so that the same text is prepared once.

use crate::limits;

/// A statement as the server knows it. The id means something on its own connection only, and nothing after FINALIZE:
/// the server may crash on it. [protocol 11.4]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) db: u32,
    pub(super) id: u32,
    pub(super) parameters: u64,
}

struct Entry {
    sql: String,
    prepared: Prepared,
    used: u64,
}

/// What one connection has prepared. Emptied together with the connection.
pub(super) struct Cache {
    entries: Vec<Entry>,
    clock: u64,
    limit: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            clock: 0,
            limit: limits::CACHED_STATEMENTS,
        }
    }
}

impl Cache {
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// How many statements may be kept.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(super) fn get(&mut self, sql: &str) -> Option<Prepared> {
        self.clock += 1;
        let entry = self.entries.iter_mut().find(|entry| *entry.sql == *sql)?;
        entry.used = self.clock;
        Some(entry.prepared)
    }

    /// Takes out the statement that was not used for the longest time, if there is no room for another one. It has to be
    /// finalized by the caller and is never used again.
    pub(super) fn evict(&mut self) -> Option<Prepared> {
        if self.entries.len() < self.limit {
            return None;
        }
        let oldest = (0..self.entries.len()).min_by_key(|at| self.entries[*at].used)?;
        Some(self.entries.swap_remove(oldest).prepared)
    }

    pub(super) fn insert(&mut self, sql: String, prepared: Prepared) {
        self.clock += 1;
        self.entries.push(Entry {
            sql,
            prepared,
            used: self.clock,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(id: u32) -> Prepared {
        Prepared {
            db: 0,
            id,
            parameters: 0,
        }
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut cache = Cache::default();
        cache.set_limit(2);
        for (id, sql) in ["a", "b"].into_iter().enumerate() {
            assert_eq!(cache.evict(), None);
            cache.insert(sql.to_owned(), prepared(id as u32));
        }
        assert_eq!(cache.get("a"), Some(prepared(0)));
        assert_eq!(cache.evict(), Some(prepared(1)));
        assert_eq!(cache.get("b"), None);
        cache.insert("c".to_owned(), prepared(1));
        assert_eq!(cache.evict(), Some(prepared(0)));
        cache.clear();
        assert_eq!((cache.get("c"), cache.evict()), (None, None));
    }
}
