//! Waiting for another session's transaction to end.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

/// The pause before the second attempt; it doubles up to the cap.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(100);

/// The pauses between the attempts of a statement that found the database locked.
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// For at most `busy`, and not past the deadline.
    pub(super) fn new(busy: Duration, deadline: Instant) -> Self {
        Self {
            until: deadline.min(Instant::now() + busy),
            pause: FIRST,
        }
    }

    /// How long to wait before the next attempt; None when it is not worth one. Between half and all of a pause that
    /// doubles, so that those who wait do not come back all at once.
    pub(super) fn next(&mut self) -> Option<Duration> {
        let random = RandomState::new().hash_one(()) as u32;
        let half = self.pause / 2;
        let pause = half + half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.pause = (self.pause * 2).min(LONGEST);
        (Instant::now() + pause < self.until).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let now = Instant::now();
        assert_eq!(Patience::new(Duration::ZERO, now + LONGEST).next(), None);
        assert_eq!(Patience::new(LONGEST, now).next(), None);
        let mut patience = Patience::new(LONGEST * 100, now + LONGEST * 100);
        let pauses: Vec<Duration> = (0..12).map(|_| patience.next().unwrap()).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST));
        assert!(pauses[11] >= LONGEST / 2);
    }
}
