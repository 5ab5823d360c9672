//! When an attempt must have ended: always before its lease does. Pure.

use std::time::Duration;

use tokio::time::Instant;

use outbox_item::Millis;

const MARGIN_MIN: Duration = Duration::from_millis(200);
const MARGIN_MAX: Duration = Duration::from_secs(5);

/// The time between an attempt's deadline and its lease's end, for cutting it off and settling it.
pub(crate) fn margin(lease: Duration) -> Duration {
    (lease / 5).clamp(MARGIN_MIN, MARGIN_MAX)
}

/// The lease of a claim: the configured one, or a longer one when the type's timeout and the margin do
/// not fit into it.
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
    /// `sent` is when the claim was asked for: its lease cannot have begun earlier.
    pub(crate) fn new(sent: Instant, lease: Duration, timeout: Option<Duration>) -> Self {
        Self { sent, lease, timeout }
    }

    /// The deadline of an attempt that starts at `start`, or `None` when too little is left of the lease
    /// for an attempt to be worth starting.
    pub(crate) fn attempt_deadline(&self, start: Instant) -> Option<Instant> {
        let last = self.sent + self.lease.saturating_sub(margin(self.lease));
        let deadline = self.timeout.map_or(last, |timeout| last.min(start + timeout));
        let enough = self.timeout.map_or(self.lease / 2, |timeout| timeout / 2);
        (deadline.saturating_duration_since(start) >= enough.min(last - self.sent)).then_some(deadline)
    }

    /// A monotonic instant in the store's time, in which the claim began at `claimed_at`.
    pub(crate) fn in_store_time(&self, claimed_at: Millis, instant: Instant) -> Millis {
        let since = instant.saturating_duration_since(self.sent).as_millis();
        claimed_at.saturating_add(Millis::try_from(since).unwrap_or(Millis::MAX))
    }

    /// When the host stops waiting for a handler that ignores its deadline.
    pub(crate) fn grace_deadline(&self, deadline: Instant) -> Instant {
        deadline + margin(self.lease) / 2
    }

    /// When the lease ends at the latest.
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
            let claim_deadline = ClaimDeadline::new(sent, lease_for(Duration::from_secs(visibility), Some(timeout)), Some(timeout));
            prop_assert_eq!(claim_deadline.attempt_deadline(sent), Some(sent + timeout));
        }
    }
}
