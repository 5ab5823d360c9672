//! What the worker asks the store to do with a claimed item after an attempt, and the rule that chooses it.
//!
//! Pure: the outcome, the item, the policy of its type and a random number decide. This file does not know how a store
//! writes a settlement; `item_move.rs` says where the item goes.

use std::time::Duration;

use outbox_item::Item;

use crate::failure::Failure;
use crate::handler::{Outcome, ServedType};
use crate::host_writes::HostWrites;
use crate::on_dead::OnDead;
use crate::retry::MAX_UNCOUNTED_PERIOD;

/// The end that a worker chooses for its claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Settlement {
    /// The item becomes DONE.
    Done {
        /// The result of the handler; the store keeps it on the item.
        result: Option<Vec<u8>>,
        /// State changes and follow-ups that the store commits in the same transaction.
        writes: HostWrites,
    },
    /// The item becomes PENDING. The attempt counts, and the history gets a row.
    Retry {
        /// Why the attempt failed.
        failure: Failure,
        /// How long the item waits before the next claim.
        delay: Duration,
    },
    /// The item is dead-lettered, and the history gets a row.
    Dead {
        /// Why the attempt failed.
        failure: Failure,
        /// What this means for the items queued behind it with the same ordering key.
        on_dead: OnDead,
    },
    /// The item becomes PENDING. The attempt does not count, and the history gets a row.
    GiveBack {
        /// Why the attempt failed.
        failure: Failure,
        /// How long the item waits before the next claim.
        delay: Duration,
    },
    /// The item becomes PENDING at once. The attempt does not count, and the history gets no row.
    Release,
}

impl Settlement {
    /// The failure of the attempt; `None` for `Done` and `Release`.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Retry { failure, .. } | Self::Dead { failure, .. } | Self::GiveBack { failure, .. } => Some(failure),
            Self::Done { .. } | Self::Release => None,
        }
    }
}

/// Chooses the settlement of an attempt at `item`. `item.attempts` is the number of the attempt and
/// `item.claimed_at` the start of its claim. `draw` is a random number from 0 to 1 for the jitter of the delay.
pub fn settlement_for(outcome: Outcome, item: &Item, served_type: &ServedType, draw: f64) -> Settlement {
    match outcome {
        Outcome::Done { result, writes } => Settlement::Done { result, writes },
        Outcome::Interrupted | Outcome::NoHandler => Settlement::Release,
        Outcome::Failed(failure) => after_failure(failure, item, served_type, draw),
    }
}

fn after_failure(failure: Failure, item: &Item, served_type: &ServedType, draw: f64) -> Settlement {
    let delay = served_type.retry.delay(item.attempts, draw, failure.retry_after);
    if failure.class.is_uncounted() && !is_uncounted_too_long(item) {
        // At least the first backoff step: without it, one item could be given back in a busy loop.
        let delay = delay.max(served_type.retry.backoff(1, draw));
        return Settlement::GiveBack { failure, delay };
    }
    if failure.class.skips_retries() || !served_type.retry.allows_another(item.attempts) {
        return Settlement::Dead { failure, on_dead: served_type.on_dead };
    }
    Settlement::Retry { failure, delay }
}

fn is_uncounted_too_long(item: &Item) -> bool {
    let since = item.claimed_at.zip(item.given_back_since).map_or(Duration::ZERO, |(now, since)| now.since(since));
    since > MAX_UNCOUNTED_PERIOD
}

#[cfg(test)]
mod tests {
    use outbox_item::{ItemId, Millis, NewItem, Status};

    use super::*;
    use crate::failure::FailureClass;
    use crate::retry::RetryPolicy;

    fn item(attempts: u32) -> Item {
        Item {
            status: Status::Claimed,
            attempts,
            deliveries: attempts,
            claimed_at: Some(Millis::new(1_000_000_000)),
            ..NewItem::new("t", "k", "").into_item(ItemId::new(1), Millis::default())
        }
    }

    fn after(class: FailureClass, item: &Item) -> Settlement {
        let retry = RetryPolicy { max_retries: 2, ..RetryPolicy::default() };
        let served_type = ServedType { retry, ..ServedType::new("t") };
        settlement_for(Outcome::Failed(Failure::new(class, "code", "message")), item, &served_type, 1.0)
    }

    #[test]
    fn retryable_failures_are_retried_until_the_retries_are_used_up() {
        assert!(
            matches!(after(FailureClass::Retryable, &item(1)), Settlement::Retry { delay, .. } if delay.as_secs() == 1)
        );
        assert!(matches!(after(FailureClass::Trap, &item(2)), Settlement::Retry { delay, .. } if delay.as_secs() == 2));
        assert!(matches!(after(FailureClass::Retryable, &item(3)), Settlement::Dead { .. }));
    }

    #[test]
    fn a_permanent_failure_is_dead_at_once() {
        assert!(matches!(after(FailureClass::Permanent, &item(1)), Settlement::Dead { .. }));
    }

    #[test]
    fn a_give_back_waits_and_does_not_count_until_it_has_gone_on_for_a_day() {
        let mut item = item(3);
        assert!(
            matches!(after(FailureClass::Deferred, &item), Settlement::GiveBack { delay, .. } if delay.as_secs() >= 1)
        );
        let day_ago = Millis::new(1_000_000_000).saturating_sub(MAX_UNCOUNTED_PERIOD);
        item.given_back_since = Some(day_ago);
        assert!(matches!(after(FailureClass::Deferred, &item), Settlement::GiveBack { .. }));
        item.given_back_since = Some(day_ago.saturating_sub(Duration::from_millis(1)));
        assert!(matches!(after(FailureClass::Deferred, &item), Settlement::Dead { .. }));
    }
}
