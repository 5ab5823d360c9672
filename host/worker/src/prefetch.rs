//! How far ahead of the attempts a worker claims. Only while attempts are short: an item that waits in the
//! hands of a process which is busy for long could be handled by another.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// An item that is claimed ahead starts within about this time.
const PREFETCH_WAIT_MAX: Duration = Duration::from_millis(50);
/// The weight of one attempt in the mean is one over this.
const MEAN_WEIGHT: u64 = 8;

/// What a worker knows of its attempts. Until the first has ended, it takes them for long.
#[derive(Debug)]
pub(crate) struct Prefetch {
    waiting: AtomicUsize,
    mean_micros: AtomicU64,
    low_watermark: AtomicUsize,
}

impl Default for Prefetch {
    fn default() -> Self {
        let unknown = u64::try_from(PREFETCH_WAIT_MAX.as_micros()).unwrap_or(u64::MAX);
        Self { waiting: AtomicUsize::new(0), mean_micros: AtomicU64::new(unknown), low_watermark: AtomicUsize::new(0) }
    }
}

impl Prefetch {
    /// How many items may be claimed ahead of `concurrency` attempts, of `configured_max`.
    pub(crate) fn allowance(&self, configured_max: usize, concurrency: usize) -> usize {
        let mean = self.mean_micros.load(Ordering::Relaxed).max(1);
        let within = u64::try_from(PREFETCH_WAIT_MAX.as_micros()).unwrap_or(u64::MAX) / mean;
        // Each of the attempts in flight has so many successors within the time, after itself.
        let ahead = usize::try_from(within).unwrap_or(usize::MAX).saturating_sub(1).saturating_mul(concurrency);
        let ahead = ahead.min(configured_max);
        self.low_watermark.store(ahead / 2, Ordering::Relaxed);
        ahead
    }

    /// An item was claimed.
    pub(crate) fn item_claimed(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// An item that was claimed waits no more. Answers whether it is time to claim again.
    pub(crate) fn item_started(&self) -> bool {
        self.waiting.fetch_sub(1, Ordering::Relaxed) == self.low_watermark.load(Ordering::Relaxed) + 1
    }

    /// How many items are claimed and wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// An attempt has ended.
    pub(crate) fn attempt_finished(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // Two that end at once may lose one of the two: it is an estimate.
        let mean = self.mean_micros.load(Ordering::Relaxed);
        self.mean_micros
            .store((mean.saturating_mul(MEAN_WEIGHT - 1).saturating_add(micros)) / MEAN_WEIGHT, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_ahead_of_attempts_that_are_long_or_unknown() {
        let prefetch = Prefetch::default();
        assert_eq!(prefetch.allowance(64, 64), 0, "nothing is known");
        for _ in 0..50 {
            prefetch.attempt_finished(Duration::from_micros(100));
        }
        assert_eq!(prefetch.allowance(64, 64), 64);
        assert_eq!(prefetch.allowance(0, 64), 0, "the setting says none");
        for _ in 0..50 {
            prefetch.attempt_finished(Duration::from_secs(1));
        }
        assert_eq!(prefetch.allowance(64, 64), 0);
    }

    #[test]
    fn it_is_time_to_claim_again_when_half_of_what_was_claimed_ahead_is_left() {
        let prefetch = Prefetch::default();
        for _ in 0..50 {
            prefetch.attempt_finished(Duration::from_micros(100));
        }
        assert_eq!(prefetch.allowance(4, 4), 4);
        for _ in 0..4 {
            prefetch.item_claimed();
        }
        let claims_again: Vec<bool> = (0..4).map(|_| prefetch.item_started()).collect();
        assert_eq!(claims_again, [false, true, false, false]);
        assert_eq!(prefetch.waiting(), 0);
    }
}
