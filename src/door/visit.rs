//! What the door still does for a connection that the engine serves: it answers for its requests, on the engine's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::visit::{Check, Moment};
use crate::wire::{self, Refused};

use super::inbound::Later;
use super::{Left, Shared};

/// SQLite's code for running out of memory.
const NO_MEMORY: u64 = 7;

struct Visit {
    id: u64,
    limit: u64,
    later: Later,
    last_words: Vec<u8>,
    shared: Arc<Shared>,
}

/// What the engine is to ask about the connection of this number, whose requests may be `limit` bytes long.
pub(super) fn check(id: u64, limit: u64, shared: Arc<Shared>) -> Check {
    let mut visit = Visit {
        id,
        limit,
        later: Later::default(),
        last_words: Vec::new(),
        shared,
    };
    Box::new(move |moment| visit.ask(moment))
}

impl Visit {
    fn ask(&mut self, moment: Moment<'_>) -> bool {
        let checked = match moment {
            Moment::Header(bytes) => self.later.header(bytes, self.limit),
            Moment::Body(body) => self.later.body(body),
            Moment::Flooded => Err(Refused {
                code: NO_MEMORY,
                message: "too much is arriving at this node at once, try again later".to_owned(),
            }),
            Moment::Paused => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        };
        if let Err(refused) = &checked {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            wire::encode_failure(refused.code, &refused.message, &mut self.last_words);
        }
        checked.is_ok()
    }
}

impl Drop for Visit {
    /// The engine has closed its copy of the socket; what is left to be said is the door's.
    fn drop(&mut self) {
        self.shared.left.lock().push(Left {
            id: self.id,
            last_words: std::mem::take(&mut self.last_words),
        });
        self.shared.wake.signal();
    }
}
