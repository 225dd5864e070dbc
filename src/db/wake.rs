//! Ending the calls of a handle from another thread.

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::net::Waker;

/// The connections that calls of one handle may be waiting on, and whether the handle was closed.
#[derive(Default)]
pub(crate) struct WakeSlot {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Why every call ends.
    closed: Option<Error>,
    wakers: Vec<Waker>,
}

impl WakeSlot {
    /// Ends every call, now and later.
    pub(crate) fn close(&self, why: Error) {
        let mut state = self.state.lock();
        state.closed.get_or_insert(why);
        for waker in state.wakers.drain(..) {
            waker.wake();
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.state.lock().check()
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
            None => Ok(()),
        }
    }
}
