//! Ending the calls of a handle from another thread.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Kind, Result};
use crate::net::Waker;

/// Ends what somebody waits for.
pub(crate) trait Wake: Send {
    fn wake(&self);
    /// Somebody may still be waiting.
    fn is_alive(&self) -> bool;
}

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self);
    }

    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }
}

/// The connections that one call after the other may be waiting on, and whether all of them have to end. Where several calls
/// may be under way at once, each has a child.
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
    /// What may end that call and no other.
    cancel: Option<Arc<Cancel>>,
    wakers: Vec<Box<dyn Wake>>,
    /// What ends with this one.
    children: Vec<Weak<WakeSlot>>,
    /// How often the children's calls were interrupted.
    interrupts: u64,
}

/// Ends one call and no other, also if it has not begun yet.
#[derive(Default)]
pub(crate) struct Cancel {
    cancelled: AtomicBool,
}

thread_local! {
    /// What the call that this thread makes can be ended by.
    static COVER: RefCell<Option<Arc<Cancel>>> = const { RefCell::new(None) };
}

/// Takes the cover off, after a panic too.
struct Uncover;

impl Drop for Uncover {
    fn drop(&mut self) {
        COVER.take();
    }
}

impl Cancel {
    /// Calls that `body` makes can be ended by this.
    pub(crate) fn cover<T>(self: &Arc<Self>, body: impl FnOnce() -> T) -> T {
        COVER.set(Some(Arc::clone(self)));
        let _uncover = Uncover;
        body()
    }

    /// From now on a call that it covers does not begin.
    pub(crate) fn set(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// What this thread's call can be ended by, unless it has been.
    fn of_this_thread() -> Result<Option<Arc<Self>>> {
        let cancel = COVER.with_borrow(Clone::clone);
        match &cancel {
            Some(cancel) if cancel.cancelled.load(Ordering::Acquire) => Err(cancelled()),
            _ => Ok(cancel),
        }
    }
}

/// Why a call ended, or did not begin.
pub(crate) fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "the call was interrupted by another thread")
}

/// Why a call did not begin.
pub(crate) fn cancelled() -> Error {
    Error::new(Kind::Interrupted, "the call was cancelled; nothing was changed")
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

    /// From now on `child` is closed together with this one.
    pub(crate) fn adopt(&self, child: &Arc<Self>) -> Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        state.children.retain(|child| child.strong_count() > 0);
        state.children.push(Arc::downgrade(child));
        Ok(())
    }

    /// A slot that ends with this one.
    pub(crate) fn child(&self) -> Result<Arc<Self>> {
        let child = Arc::default();
        self.adopt(&child)?;
        Ok(child)
    }

    /// Makes a call in a child of its own, for `interrupt_children` to end. One that is not certain to have changed nothing
    /// says so itself.
    pub(crate) fn call<T>(&self, body: impl FnOnce(&Arc<Self>) -> Result<T>) -> Result<T> {
        let slot = self.child()?;
        slot.enter()?;
        let done = body(&slot);
        match (slot.leave(), done) {
            (true, Err(error)) if error.kind() != Kind::Unknown => Err(interrupted()),
            (_, done) => done,
        }
    }

    /// Ends the calls that are under way in the children.
    pub(crate) fn interrupt_children(&self) {
        let children = {
            let mut state = self.state.lock();
            state.interrupts += 1;
            state.children.clone()
        };
        for child in children.iter().filter_map(Weak::upgrade) {
            child.interrupt();
        }
    }

    /// How often that was done: for who waits for its turn, and has no slot yet.
    pub(crate) fn interrupts(&self) -> u64 {
        self.state.lock().interrupts
    }

    /// A call begins that `interrupt` may end; fails if what covers it was set before.
    pub(crate) fn enter(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.cancel = Cancel::of_this_thread()?;
        state.under_way = true;
        state.interrupted = false;
        Ok(())
    }

    /// Another thread goes on with the call under way.
    pub(crate) fn go_on(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.cancel = Cancel::of_this_thread()?;
        Ok(())
    }

    /// The call is over; true if it was interrupted, whether it noticed or not.
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.state.lock();
        state.under_way = false;
        std::mem::take(&mut state.interrupted)
    }

    /// Ends the call under way, if there is one.
    pub(crate) fn interrupt(&self) {
        self.interrupt_if(|_| true);
    }

    /// Ends the call that `cancel` covers, whether it has begun or will.
    pub(crate) fn cancel(&self, cancel: &Arc<Cancel>) {
        cancel.set();
        self.interrupt_if(|state| state.cancel.as_ref().is_some_and(|it| Arc::ptr_eq(it, cancel)));
    }

    fn interrupt_if(&self, meant: impl FnOnce(&State) -> bool) {
        let mut state = self.state.lock();
        if state.under_way && meant(&state) {
            state.interrupted = true;
            state.wake_all();
            self.ended.notify_all();
        }
    }

    #[cfg(test)]
    pub(crate) fn is_under_way(&self) -> bool {
        self.state.lock().under_way
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

    pub(crate) fn check(&self) -> Result<()> {
        self.state.lock().check()
    }

    /// From now on the end of the calls wakes by this too.
    pub(crate) fn watch(&self, by: Box<dyn Wake>) -> Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        state.wakers.retain(|waker| waker.is_alive());
        state.wakers.push(by);
        Ok(())
    }
}

impl State {
    fn check(&self) -> Result<()> {
        match &self.closed {
            Some(why) => Err(why.clone()),
            None if self.interrupted => Err(interrupted()),
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
        let (one, other) = (Arc::new(WakeSlot::default()), Arc::new(WakeSlot::default()));
        parent.adopt(&one).unwrap();
        parent.adopt(&other).unwrap();
        one.close(Error::new(Kind::Shutdown, "one"));
        assert_eq!(one.check().unwrap_err().message(), "one");
        assert!(other.check().is_ok() && parent.check().is_ok());
        parent.close(Error::new(Kind::Shutdown, "all"));
        assert_eq!(one.check().unwrap_err().message(), "one");
        assert_eq!(other.check().unwrap_err().message(), "all");
        assert!(parent.adopt(&one).is_err());
    }

    #[test]
    fn an_interrupt_ends_only_the_call_under_way() {
        let slot = Arc::new(WakeSlot::default());
        slot.interrupt();
        slot.enter().unwrap();
        assert!(slot.check().is_ok());
        let sleeping = Arc::clone(&slot);
        let sleeper = std::thread::spawn(move || sleeping.pause(Duration::from_secs(20)));
        let began = Instant::now();
        slot.interrupt();
        assert_eq!(sleeper.join().unwrap().unwrap_err().kind(), Kind::Interrupted);
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(slot.leave());
        slot.enter().unwrap();
        assert!(slot.check().is_ok());
        assert!(!slot.leave());
    }

    #[test]
    fn a_cancel_ends_the_call_that_it_covers_and_no_other() {
        let slot = WakeSlot::default();
        let (early, late) = (Arc::new(Cancel::default()), Arc::new(Cancel::default()));
        slot.cancel(&early);
        assert_eq!(early.cover(|| slot.enter()).unwrap_err().kind(), Kind::Interrupted);
        assert!(!slot.leave());
        late.cover(|| slot.enter()).unwrap();
        slot.cancel(&early);
        assert!(slot.check().is_ok());
        slot.cancel(&late);
        assert_eq!(slot.check().unwrap_err().kind(), Kind::Interrupted);
        assert!(slot.leave());
        // The thread itself is free again.
        slot.enter().unwrap();
        slot.cancel(&late);
        assert!(slot.check().is_ok() && !slot.leave());
    }
}
