//! Token buckets of types with a rate limit. Pure.

use std::time::Duration;

use outbox_item::Millis;

/// The tokens in a bucket that was left with so many at that time. It holds one second's worth, and at
/// least one; one that was never used is full.
pub fn available_tokens(rate: f64, left: Option<(f64, Millis)>, now: Millis) -> f64 {
    let full = rate.max(1.0);
    let Some((tokens, filled_at)) = left else { return full };
    let elapsed = Duration::from_millis(u64::try_from(now - filled_at).unwrap_or(0));
    rate.mul_add(elapsed.as_secs_f64(), tokens).min(full)
}
