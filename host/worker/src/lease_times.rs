//! The times that follow from the length of a lease: its margin, its renewal, and what an attempt may take.
//!
//! Pure arithmetic. Does not read a clock and knows no lease in particular.

use std::time::Duration;

/// The least margin: enough to cut off a handler and commit a settlement.
const MARGIN_MIN: Duration = Duration::from_millis(200);
/// The largest margin, so that a long lease is not wasted.
const MARGIN_MAX: Duration = Duration::from_secs(5);
/// The longest time that an interrupted handler gets to return. Then the worker drops it.
const INTERRUPT_GRACE_MAX: Duration = Duration::from_secs(1);
/// The least time between the drop of a handler and the moment from which its attempt is overdue: a busy machine
/// records the end of the attempt within it.
const OVERDUE_SLACK: Duration = Duration::from_secs(1);
/// The bounds of the wait after a failed renewal.
const RENEWAL_RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// The length of a lease, and what follows from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseTimes {
    lease: Duration,
}

/// The longest time of one attempt at an item of a type without a timeout, with leases of this length.
pub fn attempt_time_without_timeout(lease: Duration) -> Duration {
    LeaseTimes::new(lease).attempt_time(None)
}

impl LeaseTimes {
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease }
    }

    /// The length of a lease, from its claim or its last renewal.
    pub(crate) fn lease(self) -> Duration {
        self.lease
    }

    /// The last part of a lease, in which no attempt runs any more unless it ignores that it was interrupted: a fifth
    /// of the lease, within the bounds.
    pub(crate) fn margin(self) -> Duration {
        (self.lease / 5).clamp(MARGIN_MIN, MARGIN_MAX).min(self.lease)
    }

    /// The longest duration of one attempt: the timeout of its type; without one, what fits into a lease.
    pub(crate) fn attempt_time(self, timeout: Option<Duration>) -> Duration {
        timeout.unwrap_or(self.usable())
    }

    /// How long after its deadline the worker waits for a handler before it drops it.
    pub(crate) fn deadline_grace(self) -> Duration {
        self.margin() / 2
    }

    /// How long after its deadline an attempt that has not ended is overdue: its handler was dropped earlier.
    pub(crate) fn overdue_after(self) -> Duration {
        self.margin().max(self.deadline_grace() + OVERDUE_SLACK)
    }

    /// How long the worker waits for an interrupted handler before it drops it.
    pub(crate) fn interrupt_grace(self) -> Duration {
        (self.margin() / 2).min(INTERRUPT_GRACE_MAX)
    }

    /// The time between two renewals of a lease.
    pub(crate) fn renewal_period(self) -> Duration {
        self.lease / 3
    }

    /// Whether a lease with `left` until its end has missed no renewal: each comes when two thirds are left, and its
    /// answer gets a sixth of the lease.
    pub(crate) fn is_renewed_in_time(self, left: Duration) -> bool {
        left >= self.lease / 2
    }

    /// The wait after a renewal that failed. About ten of them fit between the time of a renewal and the margin.
    pub(crate) fn renewal_retry(self) -> Duration {
        let [least, most] = RENEWAL_RETRY;
        (self.lease / 30).clamp(least, most)
    }

    /// Whether an attempt that may take `attempt_time` may begin with `left` of its lease: either it ends within the
    /// usable part, or there are [`Self::watch_period`] until it may have to be interrupted. The second holds for every
    /// lease that was renewed in time.
    pub(crate) fn allows_start(self, left: Duration, attempt_time: Duration) -> bool {
        left.saturating_sub(self.margin()) >= attempt_time.min(self.watch_period())
    }

    /// The longest time between two looks for leases that end.
    pub(crate) fn watch_period(self) -> Duration {
        self.usable() / 2
    }

    /// The part of a lease before the margin.
    fn usable(self) -> Duration {
        self.lease.saturating_sub(self.margin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_margin_is_a_fifth_of_the_lease_within_bounds() {
        let margin = |lease| LeaseTimes::new(Duration::from_millis(lease)).margin().as_millis();
        assert_eq!([100, 500, 2_000, 25_000, 60_000].map(margin), [100, 200, 400, 5_000, 5_000]);
    }

    #[test]
    fn an_attempt_is_overdue_a_second_after_its_drop_or_later() {
        let slack = |lease| {
            let times = LeaseTimes::new(Duration::from_millis(lease));
            times.overdue_after().saturating_sub(times.deadline_grace()).as_millis()
        };
        assert_eq!([100, 1_000, 10_000, 60_000].map(slack), [1_000, 1_000, 1_000, 2_500]);
    }

    #[test]
    fn a_timeout_may_be_longer_than_a_lease_and_without_one_the_attempt_fits_into_it() {
        let minute = LeaseTimes::new(Duration::from_mins(1));
        assert_eq!(minute.attempt_time(Some(Duration::from_mins(10))), Duration::from_mins(10));
        assert_eq!(minute.attempt_time(None), Duration::from_secs(55));
    }

    proptest! {
        #[test]
        fn an_attempt_may_begin_on_every_lease_that_was_renewed_in_time(
            lease in 1_000u64..600_000, timeout in proptest::option::of(1u64..6_000_000)
        ) {
            let times = LeaseTimes::new(Duration::from_millis(lease));
            let attempt_time = times.attempt_time(timeout.map(Duration::from_millis));
            prop_assert!(times.allows_start(times.lease().saturating_sub(times.renewal_period()), attempt_time));
            prop_assert!(!times.allows_start(times.margin(), attempt_time));
        }

        #[test]
        fn what_ends_or_is_interrupted_before_the_margin_is_over_before_the_lease(lease in 1u64..600_000) {
            let times = LeaseTimes::new(Duration::from_millis(lease));
            let grace = times.deadline_grace().max(times.interrupt_grace());
            prop_assert!(2 * grace <= times.margin());
            prop_assert!(times.margin() <= times.lease());
        }
    }
}
