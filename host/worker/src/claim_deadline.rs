//! When an attempt must end: always before its lease.
//!
//! Pure arithmetic on the monotonic clock. Does not read the clock and does not end attempts.

use std::time::Duration;

use tokio::time::Instant;

use outbox_item::Millis;

/// The least margin: enough to cut off a handler and commit a settlement.
const MARGIN_MIN: Duration = Duration::from_millis(200);
/// The largest margin, so that a long lease is not wasted.
const MARGIN_MAX: Duration = Duration::from_secs(5);

/// The time between the deadline of an attempt and the end of its lease: a fifth of the lease, within the bounds. The
/// worker cuts off and settles the attempt in it.
pub(crate) fn margin(lease: Duration) -> Duration {
    (lease / 5).clamp(MARGIN_MIN, MARGIN_MAX)
}

/// The lease of a claim: the configured one, or a longer one when the timeout of the type and the margin do not fit
/// into it.
pub(crate) fn lease_for(configured: Duration, timeout: Option<Duration>) -> Duration {
    let needed = timeout.map_or(Duration::ZERO, |timeout| timeout + (timeout / 4).clamp(MARGIN_MIN, MARGIN_MAX));
    configured.max(needed)
}

/// The times of one claim, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClaimDeadline {
    sent: Instant,
    lease: Duration,
    timeout: Option<Duration>,
}

impl ClaimDeadline {
    /// `sent` is a moment before the claim was requested, so the lease does not begin earlier.
    pub(crate) fn new(sent: Instant, lease: Duration, timeout: Option<Duration>) -> Self {
        Self { sent, lease, timeout }
    }

    /// The deadline of an attempt that starts at `start`, or `None` when less is left than half of the timeout, or half
    /// of the lease without a timeout.
    pub(crate) fn attempt_deadline(&self, start: Instant) -> Option<Instant> {
        let last = self.sent + self.lease.saturating_sub(margin(self.lease));
        let deadline = self.timeout.map_or(last, |timeout| last.min(start + timeout));
        let enough = self.timeout.map_or(self.lease / 2, |timeout| timeout / 2);
        (deadline.saturating_duration_since(start) >= enough.min(last - self.sent)).then_some(deadline)
    }

    /// Converts a monotonic instant to the store's time. `claimed_at` is when the claim began in the store's time.
    pub(crate) fn in_store_time(&self, claimed_at: Millis, instant: Instant) -> Millis {
        claimed_at.saturating_add(instant.saturating_duration_since(self.sent))
    }

    /// When the worker stops waiting for a handler that ignores its deadline.
    pub(crate) fn grace_deadline(&self, deadline: Instant) -> Instant {
        deadline + margin(self.lease) / 2
    }

    /// The end of the lease, or a little earlier.
    pub(crate) fn lease_end(&self) -> Instant {
        self.sent + self.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_timeout_that_does_not_fit_the_lease_lengthens_it() {
        let second = Duration::from_secs(1);
        assert_eq!(lease_for(60 * second, None), 60 * second);
        assert_eq!(lease_for(60 * second, Some(30 * second)), 60 * second);
        assert_eq!(lease_for(60 * second, Some(120 * second)), 125 * second);
    }

    proptest! {
        #[test]
        fn the_deadline_always_lies_a_margin_before_the_lease_ends(
            visibility in 1u64..600, timeout in proptest::option::of(1u64..600_000), late in 0u64..700_000
        ) {
            let timeout = timeout.map(Duration::from_millis);
            let lease = lease_for(Duration::from_secs(visibility), timeout);
            let sent = Instant::now();
            let claim_deadline = ClaimDeadline::new(sent, lease, timeout);
            let start = sent + Duration::from_millis(late);
            if let Some(deadline) = claim_deadline.attempt_deadline(start) {
                prop_assert!(deadline > start);
                prop_assert!(deadline + margin(lease) <= claim_deadline.lease_end());
                prop_assert!(claim_deadline.grace_deadline(deadline) < claim_deadline.lease_end());
            }
        }

        #[test]
        fn an_attempt_that_starts_at_once_gets_its_whole_timeout(visibility in 1u64..600, timeout in 1u64..600_000) {
            let timeout = Duration::from_millis(timeout);
            let sent = Instant::now();
            let lease = lease_for(Duration::from_secs(visibility), Some(timeout));
            let claim_deadline = ClaimDeadline::new(sent, lease, Some(timeout));
            prop_assert_eq!(claim_deadline.attempt_deadline(sent), Some(sent + timeout));
        }
    }
}
