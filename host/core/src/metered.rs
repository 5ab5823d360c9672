//! Measures how long the attempts of this process take, by type and outcome, and counts those that run.
//!
//! Wraps any [`Handler`] and changes nothing about it. The metrics of the HTTP server read the histograms.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::handler::{Attempt, AttemptReport, Handler, Outcome, ServedType};

/// The upper bounds of the buckets, in milliseconds: from a fast call on the same machine to the default lease.
pub const BUCKET_BOUNDS_MS: [u64; 12] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 60_000];

/// A histogram of attempt durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurationHistogram {
    /// For each bound, the number of attempts that took at most this long and longer than the bound before.
    pub buckets: [u64; BUCKET_BOUNDS_MS.len()],
    /// The number of all attempts, including those longer than every bound.
    pub count: u64,
    /// The total duration of all attempts.
    pub sum: Duration,
}

/// Histograms by type and outcome. The outcome is `done` or the class of a failure, and the types are the served ones,
/// so the number of series stays small.
pub type AttemptDurations = BTreeMap<(String, &'static str), DurationHistogram>;

/// A handler that measures the attempts of another handler.
pub struct MeteredHandler {
    handler: Arc<dyn Handler>,
    durations: Mutex<AttemptDurations>,
    running: AtomicU64,
}

impl MeteredHandler {
    /// Wraps the handler to measure.
    pub fn new(handler: Arc<dyn Handler>) -> Self {
        Self { handler, durations: Mutex::default(), running: AtomicU64::default() }
    }

    /// The histograms of all attempts until now.
    pub fn durations(&self) -> AttemptDurations {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many attempts run now.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    fn record(&self, item_type: String, outcome: &'static str, took: Duration) {
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        durations.entry((item_type, outcome)).or_default().record(took);
    }
}

impl DurationHistogram {
    fn record(&mut self, took: Duration) {
        let bucket = BUCKET_BOUNDS_MS.iter().position(|bound| took <= Duration::from_millis(*bound));
        if let Some(bucket) = bucket {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += took;
    }
}

#[async_trait]
impl Handler for MeteredHandler {
    fn served_types(&self) -> Vec<ServedType> {
        self.handler.served_types()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.handler.changes()
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        let (begun, item_type) = (Instant::now(), attempt.item.item_type.clone());
        let _running = RunningAttempt::begin(&self.running);
        let report = self.handler.handle(attempt).await;
        if let Some(outcome) = label(&report.outcome) {
            self.record(item_type, outcome, begun.elapsed());
        }
        report
    }
}

/// An attempt that counts as running until it is dropped: a caller may drop the future of an attempt.
struct RunningAttempt<'a>(&'a AtomicU64);

impl<'a> RunningAttempt<'a> {
    fn begin(running: &'a AtomicU64) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(running)
    }
}

impl Drop for RunningAttempt<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The label of an outcome. Attempts without a handler or ended by a shutdown have no duration worth measuring.
fn label(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Done { .. } => Some("done"),
        Outcome::Failed(failure) => Some(failure.class.as_str()),
        Outcome::Interrupted | Outcome::NoHandler => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_bucket_whose_bound_it_does_not_pass() {
        let mut durations = DurationHistogram::default();
        for took in [0, 5, 6, 60_000, 60_001] {
            durations.record(Duration::from_millis(took));
        }
        assert_eq!((durations.buckets[0], durations.buckets[1], durations.buckets[11]), (2, 1, 1));
        assert_eq!((durations.count, durations.sum), (5, Duration::from_millis(120_012)));
    }
}
