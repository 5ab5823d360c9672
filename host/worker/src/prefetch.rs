//! How many items a worker claims ahead of its running attempts.
//!
//! Items are claimed ahead only while attempts are short; otherwise another process could run them sooner. Does not
//! know the permits that limit the worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use outbox_core::ServedType;

/// About the longest time that a prefetched item waits for its attempt. It is longer than a claim takes, so that the
/// next batch arrives in time, and too short to delay the item noticeably.
const PREFETCH_WAIT_MAX: Duration = Duration::from_millis(50);
/// The weight of a new attempt in the mean is one divided by this number, so that old durations fade within about ten
/// attempts.
const MEAN_WEIGHT: u64 = 8;

/// The prefetched items of a worker and the mean duration of its attempts. Before the first attempt ends, attempts
/// count as long.
#[derive(Debug)]
pub(crate) struct Prefetch {
    /// Items that are claimed and wait for a run permit.
    waiting: AtomicUsize,
    /// The moving mean of the attempts, in microseconds.
    mean_micros: AtomicU64,
    /// Claim again when this many items wait.
    low_watermark: AtomicUsize,
}

impl Default for Prefetch {
    fn default() -> Self {
        let unknown = u64::try_from(PREFETCH_WAIT_MAX.as_micros()).unwrap_or(u64::MAX);
        Self { waiting: AtomicUsize::new(0), mean_micros: AtomicU64::new(unknown), low_watermark: AtomicUsize::new(0) }
    }
}

impl Prefetch {
    /// How many items may be claimed ahead of `concurrency` attempts, from 0 to `configured_max`.
    pub(crate) fn allowance(&self, configured_max: usize, concurrency: usize) -> usize {
        // The first of the attempts in sequence is running already.
        let within = usize::try_from(self.in_sequence()).unwrap_or(usize::MAX);
        let ahead = within.saturating_sub(1).saturating_mul(concurrency);
        let ahead = ahead.min(configured_max);
        self.low_watermark.store(ahead / 2, Ordering::Relaxed);
        ahead
    }

    /// How many attempts, one after the other, fit into the longest wait of a prefetched item; at least one.
    pub(crate) fn in_sequence(&self) -> u32 {
        let mean = self.mean_micros.load(Ordering::Relaxed).max(1);
        let within = u64::try_from(PREFETCH_WAIT_MAX.as_micros()).unwrap_or(u64::MAX) / mean;
        u32::try_from(within).unwrap_or(u32::MAX).max(1)
    }

    /// Records that an item was claimed.
    pub(crate) fn item_claimed(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a claimed item waits no longer. Returns true when it is time to claim again.
    pub(crate) fn item_started(&self) -> bool {
        self.waiting.fetch_sub(1, Ordering::Relaxed) == self.low_watermark.load(Ordering::Relaxed) + 1
    }

    /// The number of claimed items that wait for a run permit.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Records the duration of an attempt that has ended.
    pub(crate) fn attempt_finished(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // Not atomic as a whole: when two attempts end at once, one duration may be lost, which an estimate tolerates.
        let mean = self.mean_micros.load(Ordering::Relaxed);
        self.mean_micros
            .store((mean.saturating_mul(MEAN_WEIGHT - 1).saturating_add(micros)) / MEAN_WEIGHT, Ordering::Relaxed);
    }
}

/// The most items of each type in a claim by a worker that could begin `free` attempts at once. Of types without
/// retries it claims no more, all together: an item that waits when its process dies would lose its only attempt before
/// that began. The first share is drawn, so that a share that rounds to nothing does not always fall on the same type.
pub(crate) fn limits_at_once(served_types: &[Arc<ServedType>], free: u32) -> Vec<u32> {
    let mut limits = vec![u32::MAX; served_types.len()];
    let has_no_retries = |place: &usize| served_types[*place].retry.max_retries == 0;
    let mut places: Vec<_> = (0..limits.len()).filter(has_no_retries).collect();
    let first = fastrand::usize(..places.len().max(1));
    places.rotate_left(first);
    let mut left = free;
    for (index, place) in places.iter().enumerate() {
        let others = u32::try_from(places.len() - index).unwrap_or(u32::MAX);
        limits[*place] = left.div_ceil(others);
        left -= limits[*place];
    }
    limits
}

#[cfg(test)]
mod tests {
    use outbox_core::RetryPolicy;

    use super::*;

    fn served_type(max_retries: u32) -> Arc<ServedType> {
        let retry = RetryPolicy { max_retries, ..RetryPolicy::default() };
        Arc::new(ServedType { retry, ..ServedType::new("t") })
    }

    #[test]
    fn types_without_retries_share_the_attempts_that_can_begin_and_others_have_no_such_limit() {
        let types = [served_type(8), served_type(0), served_type(0)];
        let limits = limits_at_once(&types, 5);
        assert_eq!((limits[0], limits[1] + limits[2], limits[1].abs_diff(limits[2])), (u32::MAX, 5, 1));
        assert_eq!(limits_at_once(&types, 0), [u32::MAX, 0, 0]);
        let alone: Vec<_> = (0..64).map(|_| limits_at_once(&types, 1)[1]).collect();
        assert!(alone.contains(&0) && alone.contains(&1), "each gets it in turn");
    }

    #[test]
    fn nothing_is_claimed_ahead_of_attempts_that_are_long_or_unknown() {
        let prefetch = Prefetch::default();
        assert_eq!(prefetch.allowance(64, 64), 0, "nothing is known");
        assert_eq!(prefetch.in_sequence(), 1);
        for _ in 0..50 {
            prefetch.attempt_finished(Duration::from_micros(100));
        }
        assert_eq!(prefetch.allowance(64, 64), 64);
        assert!((100..=500).contains(&prefetch.in_sequence()));
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
