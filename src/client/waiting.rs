//! Ending a search for the leader from another thread.

use crate::error::Result;
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

/// Who waits for a leader.
pub(crate) trait Waiting {
    /// Why it waits no longer, if it does not.
    fn check(&self) -> Result<()>;
    /// From now on it is woken by this too, if it is to wait no longer.
    fn watch(&self, by: Box<dyn Wake>) -> Result<()>;
}

/// Waits until the deadline, whatever happens.
pub(super) struct Patient;

impl Waiting for Patient {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn watch(&self, _: Box<dyn Wake>) -> Result<()> {
        Ok(())
    }
}
