//! Ending the calls of a handle from another thread.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Kind, Result};
use crate::net::Waker;

/// The connections that calls of one handle may be waiting on, and whether the handle was closed.
#[derive(Default)]
pub(crate) struct WakeSlot {
    state: Mutex<State>,
    /// Told when `state` says that calls have to end; for those that wait for no connection.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Why every call ends.
    closed: Option<Error>,
    /// The call under way has to end; the next one may begin.
    interrupted: bool,
    under_way: bool,
    wakers: Vec<Waker>,
    /// What ends with this one.
    children: Vec<Weak<WakeSlot>>,
}

impl WakeSlot {
    /// Ends every call, now and later, here and in the children.
    pub(crate) fn close(&self, why: Error) {
        let children = {
            let mut state = self.state.lock();
            state.closed.get_or_insert(why.clone());
            state.wake_all();
            self.ended.notify_all();
            std::mem::take(&mut state.children)
        };
        for child in children.iter().filter_map(Weak::upgrade) {
            child.close(why.clone());
        }
    }

    /// A slot that is closed together with this one.
    pub(crate) fn child(&self) -> Result<Arc<Self>> {
        let mut state = self.state.lock();
        state.check()?;
        let child = Arc::new(Self::default());
        state.children.retain(|child| child.strong_count() > 0);
        state.children.push(Arc::downgrade(&child));
        Ok(child)
    }

    /// A call begins that `interrupt` may end.
    pub(crate) fn enter(&self) {
        let mut state = self.state.lock();
        state.under_way = true;
        state.interrupted = false;
    }

    /// The call is over; true if it was interrupted, whether it noticed or not.
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.state.lock();
        state.under_way = false;
        std::mem::take(&mut state.interrupted)
    }

    /// Ends the call under way, if there is one.
    pub(crate) fn interrupt(&self) {
        let mut state = self.state.lock();
        if state.under_way {
            state.interrupted = true;
            state.wake_all();
            self.ended.notify_all();
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.state.lock().check()
    }

    /// Sleeps, unless calls have to end.
    pub(crate) fn pause(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        loop {
            state.check()?;
            if self.ended.wait_until(&mut state, until).timed_out() {
                return state.check();
            }
        }
    }

    /// From now on `close` ends the waiter's connection too.
    pub(crate) fn watch(&self, waker: Waker) -> Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        state.wakers.retain(Waker::is_alive);
        state.wakers.push(waker);
        Ok(())
    }
}

impl State {
    fn check(&self) -> Result<()> {
        match &self.closed {
            Some(why) => Err(why.clone()),
            None if self.interrupted => Err(Error::new(
                Kind::Interrupted,
                "the call was interrupted by another thread",
            )),
            None => Ok(()),
        }
    }

    fn wake_all(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_end_with_their_parent_and_alone() {
        let parent = WakeSlot::default();
        let (one, other) = (parent.child().unwrap(), parent.child().unwrap());
        one.close(Error::new(Kind::Shutdown, "one"));
        assert_eq!(one.check().unwrap_err().message(), "one");
        assert!(other.check().is_ok() && parent.check().is_ok());
        parent.close(Error::new(Kind::Shutdown, "all"));
        assert_eq!(one.check().unwrap_err().message(), "one");
        assert_eq!(other.check().unwrap_err().message(), "all");
        assert!(parent.child().is_err());
    }

    #[test]
    fn an_interrupt_ends_only_the_call_under_way() {
        let slot = Arc::new(WakeSlot::default());
        slot.interrupt();
        slot.enter();
        assert!(slot.check().is_ok());
        let sleeping = Arc::clone(&slot);
        let sleeper = std::thread::spawn(move || sleeping.pause(Duration::from_secs(20)));
        let began = Instant::now();
        slot.interrupt();
        assert_eq!(sleeper.join().unwrap().unwrap_err().kind(), Kind::Interrupted);
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(slot.leave());
        slot.enter();
        assert!(slot.check().is_ok());
        assert!(!slot.leave());
    }
}
