//! How far ahead of the attempts a worker claims. Only while attempts are short: an item that waits in the
//! hands of a process which is busy for long could be handled by another.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// An item that is claimed ahead starts within about this time.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// The weight of one attempt in the mean is one over this.
const WEIGHT: u64 = 8;

/// What a worker knows of its attempts. Until the first has ended, it takes them for long.
#[derive(Debug)]
pub(super) struct Pace {
    waiting: AtomicUsize,
    mean_micros: AtomicU64,
    low: AtomicUsize,
}

impl Default for Pace {
    fn default() -> Self {
        let unknown = u64::try_from(WAIT_MAX.as_micros()).unwrap_or(u64::MAX);
        Self { waiting: AtomicUsize::new(0), mean_micros: AtomicU64::new(unknown), low: AtomicUsize::new(0) }
    }
}

impl Pace {
    /// How many items may be claimed ahead of `concurrency` attempts, of `most`.
    pub(super) fn ahead(&self, most: usize, concurrency: usize) -> usize {
        let mean = self.mean_micros.load(Ordering::Relaxed).max(1);
        let within = u64::try_from(WAIT_MAX.as_micros()).unwrap_or(u64::MAX) / mean;
        // Each of the attempts in flight has so many successors within the time, after itself.
        let ahead = usize::try_from(within).unwrap_or(usize::MAX).saturating_sub(1).saturating_mul(concurrency);
        let ahead = ahead.min(most);
        self.low.store(ahead / 2, Ordering::Relaxed);
        ahead
    }

    /// An item was claimed.
    pub(super) fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// An item that was claimed waits no more. Answers whether it is time to claim again.
    pub(super) fn go_on(&self) -> bool {
        self.waiting.fetch_sub(1, Ordering::Relaxed) == self.low.load(Ordering::Relaxed) + 1
    }

    /// How many items are claimed and wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// An attempt has ended.
    pub(super) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // Two that end at once may lose one of the two: it is an estimate.
        let mean = self.mean_micros.load(Ordering::Relaxed);
        self.mean_micros.store((mean.saturating_mul(WEIGHT - 1).saturating_add(micros)) / WEIGHT, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_ahead_of_attempts_that_are_long_or_unknown() {
        let pace = Pace::default();
        assert_eq!(pace.ahead(64, 64), 0, "nothing is known");
        for _ in 0..50 {
            pace.took(Duration::from_micros(100));
        }
        assert_eq!(pace.ahead(64, 64), 64);
        assert_eq!(pace.ahead(0, 64), 0, "the setting says none");
        for _ in 0..50 {
            pace.took(Duration::from_secs(1));
        }
        assert_eq!(pace.ahead(64, 64), 0);
    }

    #[test]
    fn it_is_time_to_claim_again_when_half_of_what_was_claimed_ahead_is_left() {
        let pace = Pace::default();
        for _ in 0..50 {
            pace.took(Duration::from_micros(100));
        }
        assert_eq!(pace.ahead(4, 4), 4);
        for _ in 0..4 {
            pace.wait();
        }
        let told: Vec<bool> = (0..4).map(|_| pace.go_on()).collect();
        assert_eq!(told, [false, true, false, false]);
        assert_eq!(pace.waiting(), 0);
    }
}
