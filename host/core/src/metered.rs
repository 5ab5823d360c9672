//! How long the attempts of this process take, by type and outcome.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::handler::{Attempt, AttemptReport, Handler, Outcome, ServedType};

/// The upper bounds of the buckets, in milliseconds: from a quick call on the same machine to a lease.
pub const BUCKET_BOUNDS_MS: [u64; 12] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 60_000];

/// The durations of some attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurationHistogram {
    /// How many were no longer than each bound and longer than the one before.
    pub buckets: [u64; BUCKET_BOUNDS_MS.len()],
    /// How many there were, those longer than every bound included.
    pub count: u64,
    /// How long all took together.
    pub sum: Duration,
}

/// Durations by type and outcome. The types are those that are served here and the outcomes are the
/// classes of failures and `done`, so that the series stay few.
pub type AttemptDurations = BTreeMap<(String, &'static str), DurationHistogram>;

/// A handler that takes the time of another.
pub struct MeteredHandler {
    handler: Arc<dyn Handler>,
    durations: Mutex<AttemptDurations>,
}

impl MeteredHandler {
    /// Takes the time of this handler.
    pub fn new(handler: Arc<dyn Handler>) -> Self {
        Self { handler, durations: Mutex::default() }
    }

    /// What the attempts have taken until now.
    pub fn durations(&self) -> AttemptDurations {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let report = self.handler.handle(attempt).await;
        if let Some(outcome) = label(&report.outcome) {
            self.record(item_type, outcome, begun.elapsed());
        }
        report
    }
}

/// What was no attempt, or was cut short by a shutdown, says nothing about how long attempts take.
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
