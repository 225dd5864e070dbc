//! What there is to count: of a node's handle, of a client, of the process. Counting is an addition to an atomic and takes
//! no lock; whoever asks adds up.

mod family;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Kind};

pub(crate) use family::{Families, Family, Number, Sample, Type};

/// The upper bounds of the buckets of durations, in microseconds; one more takes what is above.
const BOUNDS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];
const BUCKETS: usize = BOUNDS.len() + 1;

/// Calls, by what they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Statements that only read.
    Read,
    /// Statements that may write.
    Write,
    /// Begin, commit, savepoints and the like.
    Transaction,
    /// Opening, preparing.
    Prepare,
    /// Questions about the members, and changes of them.
    Members,
}

const CALLS: [&str; 5] = ["read", "write", "transaction", "prepare", "members"];

/// What is counted besides calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Retries,
    RowsRead,
    RowsChanged,
    BytesSent,
    BytesReceived,
    Connections,
    LeaderChanges,
}

const COUNTS: [(&str, &str); 7] = [
    (
        "retries_total",
        "Statements that were sent again because they had not run.",
    ),
    ("rows_read_total", "Rows that were read by the caller."),
    ("rows_changed_total", "Rows that were inserted, updated or deleted."),
    ("sent_bytes_total", "Bytes that were sent to nodes."),
    ("received_bytes_total", "Bytes that nodes sent."),
    ("connections_total", "Connections that were made to nodes."),
    (
        "leader_changes_total",
        "Times that another node led than the time before.",
    ),
];

const ERRORS: [&str; Kind::ALL.len()] = [
    "invalid",
    "not_found",
    "misuse",
    "no_leader",
    "shutdown",
    "stopped",
    "internal",
    "timeout",
    "unknown",
    "retry",
    "interrupted",
    "settings_lost",
    "full",
    "transaction_lost",
    "no_memory",
    "sql",
];

/// Counters of one scope.
#[derive(Default)]
pub(crate) struct Metrics {
    calls: [AtomicU64; CALLS.len()],
    counts: [AtomicU64; COUNTS.len()],
    errors: [AtomicU64; ERRORS.len()],
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

/// The counters of all scopes that exist, and the sum of those that are gone.
static SCOPES: Mutex<(Vec<Weak<Metrics>>, Option<Snapshot>)> = Mutex::new((Vec::new(), None));

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    calls: [u64; CALLS.len()],
    counts: [u64; COUNTS.len()],
    errors: [u64; ERRORS.len()],
    buckets: [u64; BUCKETS],
    micros: u64,
}

impl Metrics {
    /// Counters of a new scope, which the process's sum includes for ever.
    pub(crate) fn new() -> Arc<Self> {
        let metrics = Arc::new(Self::default());
        let mut scopes = SCOPES.lock();
        scopes.0.retain(|scope| scope.strong_count() > 0);
        scopes.0.push(Arc::downgrade(&metrics));
        metrics
    }

    pub(crate) fn add(&self, count: Count, number: u64) {
        self.counts[count as usize].fetch_add(number, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn count(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// A call ended.
    pub(crate) fn call(&self, call: Call, time: Duration, failure: Option<&Error>) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.calls[call as usize].fetch_add(1, Ordering::Relaxed);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        if let Some(error) = failure {
            self.error(error);
        }
    }

    /// Something failed that is not the end of a call.
    pub(crate) fn error(&self, error: &Error) {
        if let Some(errors) = self.errors.get(error.kind() as usize) {
            errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut found = Snapshot::default();
        found.each(|at, into| *into = self.at(at).load(Ordering::Relaxed));
        found
    }

    fn at(&self, (group, index): (usize, usize)) -> &AtomicU64 {
        match group {
            0 => &self.calls[index],
            1 => &self.counts[index],
            2 => &self.errors[index],
            3 => &self.buckets[index],
            _ => &self.micros,
        }
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        SCOPES.lock().1.get_or_insert_default().add(&self.snapshot());
    }
}

/// Everything that was ever counted in this process.
pub(crate) fn process() -> Snapshot {
    let (living, mut sum) = {
        let scopes = SCOPES.lock();
        let living: Vec<Arc<Metrics>> = scopes.0.iter().filter_map(Weak::upgrade).collect();
        (living, scopes.1.clone().unwrap_or_default())
    };
    for metrics in living {
        sum.add(&metrics.snapshot());
    }
    sum
}

impl Snapshot {
    pub(crate) fn add(&mut self, other: &Self) {
        let mut all = Vec::new();
        other.clone().each(|_, number| all.push(*number));
        let mut all = all.into_iter();
        self.each(|_, number| *number = number.wrapping_add(all.next().unwrap_or_default()));
    }

    fn each(&mut self, mut visit: impl FnMut((usize, usize), &mut u64)) {
        let groups: [&mut [u64]; 5] = [
            &mut self.calls,
            &mut self.counts,
            &mut self.errors,
            &mut self.buckets,
            std::slice::from_mut(&mut self.micros),
        ];
        for (group, numbers) in groups.into_iter().enumerate() {
            for (index, number) in numbers.iter_mut().enumerate() {
                visit((group, index), number);
            }
        }
    }

    /// Puts the counters under names that begin with `prefix`.
    pub(crate) fn describe(&self, prefix: &str, labels: &[(&'static str, String)], into: &mut Families) {
        let name = |rest: &str| format!("{prefix}_{rest}");
        let mut labelled = |family: &str, help: &'static str, label: &'static str, value: &str, number: u64| {
            let mut labels = labels.to_vec();
            labels.push((label, value.to_owned()));
            into.counter(&name(family), help, labels, number);
        };
        for (call, number) in CALLS.iter().zip(self.calls) {
            labelled("calls_total", "Calls, by what they are about.", "about", call, number);
        }
        for (kind, number) in ERRORS.iter().zip(self.errors) {
            labelled("errors_total", "Failures, by kind.", "kind", kind, number);
        }
        for ((family, help), number) in COUNTS.iter().zip(self.counts) {
            into.counter(&name(family), help, labels.to_vec(), number);
        }
        let mut upto = 0;
        let buckets = self.buckets.iter().enumerate().map(|(at, number)| {
            upto += number;
            (BOUNDS.get(at).map(|micros| *micros as f64 / 1e6), upto)
        });
        let buckets = buckets.collect();
        into.histogram(
            &name("call_duration_seconds"),
            "Duration of calls, waiting for locks and repeating included.",
            labels.to_vec(),
            buckets,
            self.micros as f64 / 1e6,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_found_again_after_the_scope_is_gone() {
        let metrics = Metrics::new();
        let before = process();
        metrics.call(Call::Write, Duration::from_micros(100), None);
        metrics.call(Call::Read, Duration::from_micros(101), Some(&Error::misuse("x")));
        metrics.call(Call::Read, Duration::from_secs(100), None);
        metrics.add(Count::BytesSent, 7);
        let found = metrics.snapshot();
        assert_eq!((found.calls[0], found.calls[1]), (2, 1));
        assert_eq!(
            (found.buckets[1], found.buckets[2], found.buckets[BUCKETS - 1]),
            (1, 1, 1)
        );
        assert_eq!(found.micros, 100_000_201);
        assert_eq!(found.errors[Kind::Misuse as usize], 1);
        assert_eq!(found.counts[Count::BytesSent as usize], 7);
        drop(metrics);
        // Other tests count too.
        assert!(process().calls[0] >= before.calls[0] + 2);
        assert!(process().counts[3] >= before.counts[3] + 7);
    }

    #[test]
    fn every_kind_has_its_name() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            assert_eq!(ERRORS[at].replace('_', ""), format!("{kind:?}").to_lowercase());
        }
        assert_eq!(CALLS[Call::Members as usize], "members");
        assert_eq!(COUNTS[Count::LeaderChanges as usize].0, "leader_changes_total");
        assert_eq!(COUNTS[Count::RowsRead as usize].0, "rows_read_total");
    }
}
