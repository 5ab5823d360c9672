//! The token buckets of types with a rate limit. Pure.
//!
//! Where a bucket is stored, and who takes tokens out of it, is the engine's.

use outbox_item::Millis;

/// The tokens in a bucket at `now`; `left` is how many it had, and when. `rate` tokens flow in each second. A bucket
/// holds the tokens of one second, and at least one; a bucket that was never used is full.
pub fn available_tokens(rate: f64, left: Option<(f64, Millis)>, now: Millis) -> f64 {
    let full = rate.max(1.0);
    let Some((tokens, filled_at)) = left else { return full };
    rate.mul_add(now.since(filled_at).as_secs_f64(), tokens).min(full)
}
