//! What becomes of an item after an attempt. Pure: the policy, the item and a random draw decide.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::handler::{Outcome, ServedType};
use crate::host_writes::HostWrites;
use crate::retry::MAX_UNCOUNTED_PERIOD;
use outbox_item::Item;

/// What a dead-lettered item means for the items behind it with the same ordering key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDead {
    /// They wait until an operator replays, purges or unblocks it.
    #[default]
    Block,
    /// They go on without it.
    Skip,
}

/// What becomes of a claimed item.
#[derive(Clone, Debug, PartialEq)]
pub enum Settlement {
    /// DONE, with what the handler answered and what the host stores for it.
    Done {
        /// The handler's answer.
        result: Option<Vec<u8>>,
        /// State and follow-ups.
        writes: HostWrites,
    },
    /// PENDING after the delay; the attempt counts and has a history row.
    Retry {
        /// Why.
        failure: Failure,
        /// How long it waits.
        delay: Duration,
    },
    /// DLQ, with a history row.
    Dead {
        /// Why.
        failure: Failure,
        /// What this means for the items behind it with the same ordering key.
        on_dead: OnDead,
    },
    /// PENDING after the delay; the attempt does not count but has a history row.
    GiveBack {
        /// Why.
        failure: Failure,
        /// How long it waits.
        delay: Duration,
    },
    /// PENDING at once; the attempt does not count and leaves no trace.
    Release,
}

impl Settlement {
    /// Why the attempt did not end DONE, where there is a reason.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Retry { failure, .. } | Self::Dead { failure, .. } | Self::GiveBack { failure, .. } => Some(failure),
            Self::Done { .. } | Self::Release => None,
        }
    }
}

/// The settlement of an attempt at `item`, whose claim began at `item.claimed_at`. `draw` is a random
/// number from 0 to 1.
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
        // At least one step, so that giving back cannot become a busy loop.
        let delay = delay.max(served_type.retry.backoff(1, draw));
        return Settlement::GiveBack { failure, delay };
    }
    if failure.class.skips_retries() || !served_type.retry.allows_another(item.attempts) {
        return Settlement::Dead { failure, on_dead: served_type.on_dead };
    }
    Settlement::Retry { failure, delay }
}

fn is_uncounted_too_long(item: &Item) -> bool {
    let since = item.claimed_at.zip(item.given_back_since).map_or(0, |(now, since)| now - since);
    Duration::from_millis(u64::try_from(since).unwrap_or(0)) > MAX_UNCOUNTED_PERIOD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;
    use crate::retry::RetryPolicy;
    use crate::settlement::OnDead;
    use outbox_item::{NewItem, Status};

    fn item(attempts: u32) -> Item {
        Item {
            status: Status::Claimed,
            attempts,
            deliveries: attempts,
            claimed_at: Some(1_000_000_000),
            ..NewItem::new("t", "k", "").into_item(1, 0)
        }
    }

    fn after(class: FailureClass, item: &Item) -> Settlement {
        let retry = RetryPolicy { max_retries: 2, ..RetryPolicy::default() };
        let served_type = ServedType {
            item_type: "t".into(),
            timeout: None,
            retry,
            concurrency: None,
            rate: None,
            on_dead: OnDead::Block,
            breaker: None,
        };
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
        let day = i64::try_from(MAX_UNCOUNTED_PERIOD.as_millis()).unwrap();
        item.given_back_since = Some(1_000_000_000 - day);
        assert!(matches!(after(FailureClass::Deferred, &item), Settlement::GiveBack { .. }));
        item.given_back_since = Some(1_000_000_000 - day - 1);
        assert!(matches!(after(FailureClass::Deferred, &item), Settlement::Dead { .. }));
    }
}
