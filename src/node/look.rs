//! A look at a disk that may not answer: on a thread of its own, one at a time, and whoever asked goes on without it.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::net;

#[derive(Clone, Default)]
pub(super) struct Look(Arc<State>);

#[derive(Default)]
struct State {
    under_way: Mutex<bool>,
    ended: Condvar,
}

/// Also if the look panics.
struct Turn(Look);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.0.under_way.lock() = false;
        self.0.0.ended.notify_one();
    }
}

impl Look {
    /// What `look` finds; None if that takes longer than `patience`, or the look before has not ended until then.
    pub(super) fn within<T: Send + 'static>(
        &self,
        patience: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let turn = self.turn(deadline)?;
        let (found, answer) = mpsc::sync_channel(1);
        let thread = net::sys::spawn("dqlite-look", move || {
            let _turn = turn;
            // Who asked may have gone.
            let _ = found.send(look());
        });
        thread.ok()?;
        answer
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()
    }

    fn turn(&self, deadline: Instant) -> Option<Turn> {
        let mut under_way = self.0.under_way.lock();
        while *under_way {
            if self.0.ended.wait_until(&mut under_way, deadline).timed_out() {
                return None;
            }
        }
        *under_way = true;
        Some(Turn(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn one_that_hangs_keeps_nobody_and_is_not_joined_by_others() {
        let look = Look::default();
        let (end, ended) = mpsc::channel::<()>();
        assert_eq!(
            look.within(Duration::from_millis(10), move || ended.recv().is_ok()),
            None
        );
        let (ran, runs) = mpsc::channel();
        assert_eq!(look.within(Duration::from_millis(10), move || ran.send(())), None);
        assert!(runs.recv().is_err(), "a second look began beside the first");
        end.send(()).unwrap();
        assert_eq!(look.within(LONG, || 7), Some(7));
    }

    #[test]
    fn many_at_once_all_get_an_answer() {
        let look = Look::default();
        let asked: Vec<_> = (0..8)
            .map(|n| {
                let look = look.clone();
                std::thread::spawn(move || look.within(LONG, move || n))
            })
            .collect();
        let found: Vec<_> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
        assert_eq!(found, (0..8).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_panics_makes_way() {
        let look = Look::default();
        assert_eq!(
            look.within(LONG, || -> u8 { std::panic::resume_unwind(Box::new(())) }),
            None
        );
        assert_eq!(look.within(LONG, || 1), Some(1));
    }
}
