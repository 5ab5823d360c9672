//! The token buckets of types with a rate limit: how many tokens they have, and when the next one comes.
//!
//! This file knows neither where a bucket is stored nor who takes tokens out of it.

use std::time::Duration;

use outbox_item::Millis;

/// The longest wait for a token: a worker looks again after it, whatever the rate is.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// A bucket that was filled more than this in the future was filled before the clock was set back.
const SET_BACK: Duration = Duration::from_secs(1);

/// Whether a bucket that was filled at `filled_at` was filled before the clock was set back to `now`.
pub(crate) fn is_of_future(filled_at: Millis, now: Millis) -> bool {
    filled_at.since(now) > SET_BACK
}

/// The tokens in a bucket at `now`; `left` is how many it had, and when. `rate` tokens flow in each second. A bucket
/// holds the tokens of one second, and at least one; a bucket that was never used is full. So is one that was filled
/// before the clock was set back: how long ago that was is unknown.
pub fn available_tokens(rate: f64, left: Option<(f64, Millis)>, now: Millis) -> f64 {
    let full = rate.max(1.0);
    let Some((tokens, filled_at)) = left.filter(|(_, filled_at)| !is_of_future(*filled_at, now)) else { return full };
    // A number that no host wrote counts as the nearest one that a host could have written.
    let tokens = if tokens.is_nan() { 0.0 } else { tokens.clamp(-full, full) };
    rate.mul_add(now.since(filled_at).as_secs_f64(), tokens).min(full)
}

/// How long until a bucket with this many tokens has one, at most a day; zero if it has.
pub fn until_next_token(rate: f64, tokens: f64) -> Duration {
    Duration::try_from_secs_f64((1.0 - tokens).max(0.0) / rate).unwrap_or(WAIT_MAX).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis::new(1_000_000);

    fn same(tokens: f64, wanted: f64) -> bool {
        (tokens - wanted).abs() < 1e-9
    }

    #[test]
    fn a_bucket_fills_by_its_rate_up_to_one_second() {
        let after =
            |millis| available_tokens(10.0, Some((0.0, NOW)), NOW.saturating_add(Duration::from_millis(millis)));
        assert!([0, 100, 500, 5_000].map(after).iter().zip([0.0, 1.0, 5.0, 10.0]).all(|(is, want)| same(*is, want)));
        assert!(same(available_tokens(0.1, None, NOW), 1.0));
    }

    #[test]
    fn a_clock_that_was_set_back_stops_no_type() {
        let filled_in =
            |millis| available_tokens(2.0, Some((0.0, NOW.saturating_add(Duration::from_millis(millis)))), NOW);
        assert!(same(filled_in(900), 0.0), "clocks of several processes differ a little");
        assert!(same(filled_in(3_600_000), 2.0));
    }

    #[test]
    fn the_wait_for_a_token_is_bounded_however_small_the_rate_is() {
        assert_eq!(until_next_token(2.0, 0.0), Duration::from_millis(500));
        assert_eq!(until_next_token(2.0, 1.5), Duration::ZERO);
        for rate in [1e-300, f64::MIN_POSITIVE, 0.0, f64::NAN] {
            assert_eq!(until_next_token(rate, 0.5), WAIT_MAX, "{rate}");
        }
    }
}
