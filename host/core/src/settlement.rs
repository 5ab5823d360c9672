//! What the worker asks the store to do with a claimed item after an attempt, and the rule that chooses it.
//!
//! Pure: the outcome, the item, the policy of its type and a random number decide. This file does not know how a store
//! writes a settlement; `item_move.rs` says where the item goes.

use std::time::Duration;

use outbox_item::Item;

use crate::failure::{Failure, FailureClass};
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
    /// The word for it in traces.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::Retry { .. } => "retry",
            Self::Dead { .. } => "dead",
            Self::GiveBack { .. } => "give_back",
            Self::Release => "release",
        }
    }

    /// The failure of the attempt; `None` for `Done` and `Release`.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Retry { failure, .. } | Self::Dead { failure, .. } | Self::GiveBack { failure, .. } => Some(failure),
            Self::Done { .. } | Self::Release => None,
        }
    }
}

/// What decides a settlement besides the outcome and the item.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// A random number from 0 to 1 for the jitter of the delay.
    pub draw: f64,
    /// Whether the host fails attempts at other items of the type too. Then its faults never count.
    pub others_fail_too: bool,
}

/// Chooses the settlement of an attempt at `item`. `item.attempts` is the number of the attempt and
/// `item.claimed_at` the start of its claim.
pub fn settlement_for(
    outcome: Outcome,
    item: &Item,
    served_type: &ServedType,
    circumstances: Circumstances,
) -> Settlement {
    match outcome {
        Outcome::Done { result, writes } => Settlement::Done { result, writes },
        Outcome::Interrupted | Outcome::NoHandler => Settlement::Release,
        Outcome::Failed(failure) => after_failure(failure, item, served_type, circumstances),
    }
}

fn after_failure(
    failure: Failure,
    item: &Item,
    served_type: &ServedType,
    Circumstances { draw, others_fail_too }: Circumstances,
) -> Settlement {
    let never_counts = failure.class == FailureClass::Host && others_fail_too;
    if failure.class.is_uncounted() && (never_counts || !is_uncounted_too_long(item)) {
        let delay = served_type.retry.delay(item.give_backs.saturating_add(1), draw, failure.retry_after);
        return Settlement::GiveBack { failure, delay };
    }
    let delay = served_type.retry.delay(item.attempts, draw, failure.retry_after);
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
        after_in(class, item, None, false)
    }

    fn after_in(class: FailureClass, item: &Item, wish: Option<Duration>, others_fail_too: bool) -> Settlement {
        let retry = RetryPolicy { max_retries: 2, ..RetryPolicy::default() };
        let served_type = ServedType { retry, ..ServedType::new("t") };
        let failure = Failure { retry_after: wish, ..Failure::new(class, "code", "message") };
        let circumstances = Circumstances { draw: 1.0, others_fail_too };
        settlement_for(Outcome::Failed(failure), item, &served_type, circumstances)
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
    fn each_give_back_in_a_row_waits_longer_and_a_wish_is_a_lower_bound() {
        let waits = |class, give_backs, wish: Option<u64>| {
            let item = Item { give_backs, ..item(1) };
            match after_in(class, &item, wish.map(Duration::from_secs), false) {
                Settlement::GiveBack { delay, .. } => delay.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        for class in [FailureClass::Deferred, FailureClass::Conflict, FailureClass::Host, FailureClass::Plugin] {
            assert_eq!([0, 1, 2, 3, 20].map(|given_back| waits(class, given_back, None)), [1, 2, 4, 8, 300]);
            assert_eq!([0, 1, 2, 3, 20].map(|given_back| waits(class, given_back, Some(1))), [1, 2, 4, 8, 300]);
            assert_eq!(waits(class, 20, Some(0)), 300);
            assert_eq!(waits(class, 2, Some(900)), 900);
            assert_eq!(waits(class, 2, Some(99 * 3600)), 24 * 3600);
        }
    }

    #[test]
    fn a_fault_of_the_host_never_counts_while_others_of_the_type_fare_the_same() {
        let old = Item { given_back_since: Some(Millis::default()), ..item(3) };
        assert!(matches!(after_in(FailureClass::Host, &old, None, true), Settlement::GiveBack { .. }));
        assert!(matches!(after_in(FailureClass::Host, &old, None, false), Settlement::Dead { .. }));
        assert!(matches!(after_in(FailureClass::Deferred, &old, None, true), Settlement::Dead { .. }));
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
