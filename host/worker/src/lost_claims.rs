//! The claims of a worker whose answers were lost: their leases may or may not exist.
//!
//! Pure bookkeeping on the monotonic clock. It says which tokens the store must be asked to abandon, and asks nobody.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use outbox_store::ClaimToken;

/// How long a token is named after the store has abandoned it for the first time. A server may commit a claim after its
/// connection broke, and this is longer than a claim takes.
const LATE_COMMIT_MAX: Duration = Duration::from_mins(1);
/// The most tokens. The claims at the beginning of an outage may have been committed; those after ten thousand failures
/// hardly were, and a lease that nobody gives back ends by itself.
const TOKENS_MAX: usize = 10_000;

/// The tokens of lost claims.
#[derive(Debug, Default)]
pub(crate) struct LostClaims {
    /// Until when each token is named; `None` before the store has abandoned it for the first time.
    named_until: HashMap<ClaimToken, Option<Instant>>,
}

impl LostClaims {
    /// Adds the tokens of a claim whose answer was lost.
    pub(crate) fn add(&mut self, tokens: &[ClaimToken]) {
        let room = TOKENS_MAX.saturating_sub(self.named_until.len());
        self.named_until.extend(tokens.iter().take(room).map(|token| (*token, None)));
    }

    /// The tokens to abandon.
    pub(crate) fn tokens(&self) -> Vec<ClaimToken> {
        self.named_until.keys().copied().collect()
    }

    /// Records that the store has abandoned these tokens, which it was asked for at `sent`.
    pub(crate) fn record_abandoned(&mut self, tokens: &[ClaimToken], sent: Instant) {
        for token in tokens {
            match self.named_until.get_mut(token) {
                Some(Some(until)) if *until <= sent => drop(self.named_until.remove(token)),
                Some(until) => *until = until.or(Some(sent + LATE_COMMIT_MAX)),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: ClaimToken = ClaimToken::new(1);

    #[test]
    fn a_token_is_named_until_it_was_abandoned_a_minute_after_it_was_abandoned_first() {
        let (mut lost, start) = (LostClaims::default(), Instant::now());
        lost.add(&[TOKEN]);
        lost.record_abandoned(&[TOKEN], start);
        lost.record_abandoned(&[TOKEN], start + LATE_COMMIT_MAX - Duration::from_millis(1));
        assert_eq!(lost.tokens(), [TOKEN], "it may still be committed");
        lost.record_abandoned(&[TOKEN], start + LATE_COMMIT_MAX);
        assert_eq!(lost.tokens(), []);
    }

    #[test]
    fn the_first_tokens_of_a_long_outage_are_kept() {
        let mut lost = LostClaims::default();
        for number in 1..=2 * i64::try_from(TOKENS_MAX).expect("a small number") {
            lost.add(&[ClaimToken::new(number)]);
        }
        let tokens = lost.tokens();
        assert_eq!((tokens.len(), tokens.contains(&TOKEN)), (TOKENS_MAX, true));
    }
}
