//! How often an item is retried and how long it waits before each retry: the policy of one type and its default.
//!
//! Pure: the number of the attempt and a random number are arguments, and the result is a duration. This file knows no
//! clock and no store; the store adds the delay to its own time.

use std::time::Duration;

/// How often and how fast the items of one type are retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first attempt. With 0 the first failure dead-letters the item.
    pub max_retries: u32,
    /// The delay after the first failed attempt, before jitter.
    pub base: Duration,
    /// The longest delay before jitter, unless a handler asks for a longer one.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    /// Eight retries spread over two to four minutes (255 seconds before jitter), enough for the restart of a receiver.
    fn default() -> Self {
        Self { max_retries: 8, base: Duration::from_secs(1), cap: Duration::from_mins(5) }
    }
}

/// The longest delay that a handler can ask for. A mistaken unit must not hide an item for weeks.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// How long a worker can give back one item again and again. Later failures count, so that the series ends.
pub const MAX_UNCOUNTED_PERIOD: Duration = Duration::from_hours(24);

impl RetryPolicy {
    /// Whether an item with this number of counted attempts may be claimed again.
    pub fn allows_another(&self, attempts: u32) -> bool {
        attempts <= self.max_retries
    }

    /// The delay after attempt number `attempt` (from 1): between half of `min(cap, base * 2^(attempt-1))` and all of
    /// it. `draw`, a random number from 0 to 1, chooses the point between them.
    pub fn backoff(&self, attempt: u32, draw: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(63);
        let full = self.base.saturating_mul(2u32.saturating_pow(doublings)).min(self.cap);
        full.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
    }

    /// The longest and the shortest time that all retries together can wait, if handlers ask for nothing longer.
    pub fn span(&self) -> (Duration, Duration) {
        let doublings = 64.min(self.max_retries);
        let growing = (1..=doublings).map(|attempt| self.backoff(attempt, 1.0));
        let longest = growing.fold(Duration::ZERO, Duration::saturating_add);
        let longest = longest.saturating_add(self.backoff(64, 1.0).saturating_mul(self.max_retries - doublings));
        (longest, longest / 2)
    }

    /// [`Self::backoff`], or what the handler asked for, at most [`MAX_RETRY_AFTER`], if that is longer.
    pub fn delay(&self, attempt: u32, draw: f64, retry_after: Option<Duration>) -> Duration {
        self.backoff(attempt, draw).max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn eight_retries_are_nine_attempts_and_zero_is_one() {
        let policy = RetryPolicy { max_retries: 8, ..RetryPolicy::default() };
        assert!(policy.allows_another(8));
        assert!(!policy.allows_another(9));
        let once = RetryPolicy { max_retries: 0, ..policy };
        assert!(once.allows_another(0));
        assert!(!once.allows_another(1));
    }

    #[test]
    fn a_delay_that_the_handler_asks_for_is_a_lower_bound_that_overrides_the_cap_but_not_the_bound() {
        let policy = RetryPolicy::default();
        let hour = Duration::from_hours(1);
        assert_eq!(policy.delay(1, 0.5, Some(hour)), hour);
        assert_eq!(policy.delay(1, 0.5, Some(hour * 100)), MAX_RETRY_AFTER);
        assert_eq!(policy.delay(5, 0.5, Some(Duration::ZERO)), policy.backoff(5, 0.5));
        assert_eq!(policy.delay(5, 0.5, Some(Duration::from_secs(1))), policy.backoff(5, 0.5));
    }

    #[test]
    fn eight_retries_span_two_to_four_minutes_and_a_million_some_years() {
        let seconds = |policy: RetryPolicy| {
            let (longest, shortest) = policy.span();
            (longest.as_secs(), shortest.as_secs())
        };
        assert_eq!(seconds(RetryPolicy::default()), (255, 127));
        assert_eq!(seconds(RetryPolicy { max_retries: 0, ..RetryPolicy::default() }), (0, 0));
        assert!(seconds(RetryPolicy { max_retries: 1_000_000, ..RetryPolicy::default() }).0 > 290_000_000);
    }

    proptest! {
        #[test]
        fn backoff_never_falls_from_one_attempt_to_the_next_and_keeps_within_its_bounds(
            attempt in 1u32..200, base in 1u64..10_000, cap in 1u64..1_000_000, draw in 0.0f64..1.0
        ) {
            let policy = RetryPolicy {
                max_retries: 8, base: Duration::from_millis(base), cap: Duration::from_millis(cap),
            };
            let delay = policy.backoff(attempt, draw);
            prop_assert!(delay <= policy.cap);
            prop_assert!(delay >= policy.base.min(policy.cap) / 2);
            prop_assert!(policy.backoff(attempt + 1, draw) >= delay);
        }
    }
}
