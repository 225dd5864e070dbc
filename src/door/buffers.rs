//! Memory of connections: none for those at rest, a shared buffer for those being served.

use std::mem;
use std::ops::RangeInclusive;

use super::Limits;
use super::inbound::Inbound;

/// The rest of a request up to this size moves into the shared buffer when more arrives; a longer
/// one has a buffer of its own, so that a request that comes byte by byte is not copied each time.
const SMALL: usize = 4 << 10;

/// The least and, for requests still shorter than it, the most that such a buffer grows by at a
/// time.
const GROWTH: RangeInclusive<usize> = SMALL..=64 << 10;

/// Where the bytes of clients arrive, and the account of what they leave behind.
pub(super) struct Arrivals {
    /// Lent to one connection at a time; has no capacity while it is.
    shared: Vec<u8>,
    capacity: usize,
    /// Bytes in buffers of connections whose request is not whole, and how many there may be.
    collected: usize,
    limit: usize,
}

impl Arrivals {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            shared: Vec::with_capacity(limits.buffer),
            capacity: limits.buffer,
            collected: 0,
            limit: limits.collected,
        }
    }

    /// Gives the inbound buffer spare capacity; false = the door holds too much already.
    pub(super) fn lend(&mut self, inbound: &mut Inbound) -> bool {
        let lacking = inbound.lacking();
        let buffer = inbound.buffer();
        if buffer.len() <= SMALL && self.shared.capacity() > 0 {
            let mut shared = mem::take(&mut self.shared);
            shared.extend_from_slice(buffer);
            *buffer = shared;
            return true;
        }
        if buffer.capacity() > buffer.len() {
            return true;
        }
        // Grows with what has arrived, not with what a header of eight bytes announces.
        let growth = lacking.clamp(*GROWTH.start(), buffer.len().max(*GROWTH.end()));
        self.collected + growth <= self.limit && buffer.try_reserve_exact(growth).is_ok()
    }

    /// Takes the shared buffer back if it was lent, leaving the start of a request that is not
    /// whole yet. `accounted` is what the connection had left here before.
    pub(super) fn take_back(&mut self, inbound: &mut Inbound, accounted: &mut usize) {
        let buffer = inbound.buffer();
        if self.shared.capacity() == 0 {
            let mut lent = mem::take(buffer);
            if lent.len() > lent.capacity() / 2 {
                *buffer = lent;
            } else {
                *buffer = lent.as_slice().to_vec();
                lent.clear();
                self.shared = lent;
            }
            // Kept, or grown for a long request, or dropped when the engine ended: the next one
            // gets a new one.
            if self.shared.capacity() != self.capacity {
                self.shared = Vec::with_capacity(self.capacity);
            }
        } else if buffer.is_empty() {
            *buffer = Vec::new();
        }
        self.collected = self.collected + buffer.capacity() - *accounted;
        *accounted = buffer.capacity();
    }

    /// The connection is gone, and with it what it had left.
    pub(super) fn release(&mut self, accounted: usize) {
        self.collected -= accounted;
    }

    /// Makes good for a buffer that was lost in a panic.
    pub(super) fn renew(&mut self) {
        self.shared = Vec::with_capacity(self.capacity);
    }
}

/// Bytes for the client that it does not take yet.
#[derive(Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
}

impl Backlog {
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
