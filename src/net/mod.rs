//! Addresses, listening, connecting, and byte streams with deadlines. Knows nothing of what the
//! bytes mean.

mod addr;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod listen;
mod neighbour;
mod stream;
pub(crate) mod sys;

pub(crate) use addr::{Address, parse_csv};
pub(crate) use listen::{Listener, Listening, listen};
pub(crate) use stream::dial;
pub(crate) use stream::{Cause, Shortcut, Stream, UNACKNOWLEDGED, Waker, keep_little_unsent, tune_tcp};
