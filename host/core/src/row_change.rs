//! The columns of an item's row that change when a claim on it ends.
//!
//! Pure. The PostgreSQL store and the in-memory outbox of `check` take a [`RowChange`], check that the claim still
//! holds, write all columns and clear those of the claim. The SQLite store instead has a statement for each kind of
//! end. This file knows no SQL and no history, signals or counters.

use std::time::Duration;

use outbox_item::{Item, Millis, Status};

use crate::failure::Failure;
use crate::fingerprint::fingerprint;
use crate::on_dead::OnDead;
use crate::settlement::{ClaimEndKind, Settlement};

/// The columns of an item's row after its claim has ended. A column that a transition does not touch has its old value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// See [`Item::status`].
    pub status: Status,
    /// See [`Item::available_at`].
    pub available_at: Millis,
    /// See [`Item::attempts`].
    pub attempts: u32,
    /// See [`Item::maybe_executed`].
    pub maybe_executed: bool,
    /// See [`Item::given_back_since`].
    pub given_back_since: Option<Millis>,
    /// See [`Item::last_error`].
    pub last_error: Option<String>,
    /// See [`Item::handler_digest`].
    pub handler_digest: Option<String>,
    /// See [`Item::done_at`].
    pub done_at: Option<Millis>,
    /// See [`Item::dead_at`].
    pub dead_at: Option<Millis>,
    /// See [`Item::result`].
    pub result: Option<Vec<u8>>,
    /// Whether items with the same ordering key wait for an operator.
    pub blocks_key: bool,
    /// The group of similar failures; set while DLQ only. See [`fingerprint`].
    pub fingerprint: Option<String>,
}

/// What the attempt of a claim leaves behind. The default is a claim whose attempt never started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptTrace<'a> {
    /// Whether the attempt may have caused effects.
    pub maybe_executed: bool,
    /// The digest of the component that ran.
    pub handler_digest: Option<&'a str>,
}

impl AttemptTrace<'_> {
    fn digest(self) -> Option<String> {
        self.handler_digest.map(str::to_owned)
    }
}

impl RowChange {
    /// The row after a worker's settlement at `now`. `item` is the claimed item.
    pub fn settled(item: &Item, settlement: &Settlement, attempt: AttemptTrace<'_>, now: Millis) -> Self {
        match settlement {
            Settlement::Done { result, .. } => Self::completed(item, result.clone(), attempt, now),
            Settlement::Retry { failure, delay } => Self::retried(item, failure, *delay, attempt, now),
            Settlement::GiveBack { failure, delay } => Self::given_back(item, failure, *delay, attempt, now),
            Settlement::Dead { failure, on_dead } => Self::dead_lettered(item, failure, *on_dead, attempt, now),
            Settlement::Release => Self::released(item, attempt, now),
        }
    }

    /// The row after a dead-lettering at `now`: by a settlement, by the store at a claim, or by an operator.
    pub fn dead_lettered(
        item: &Item,
        failure: &Failure,
        on_dead: OnDead,
        attempt: AttemptTrace<'_>,
        now: Millis,
    ) -> Self {
        Self {
            dead_at: Some(now),
            last_error: Some(failure.message.clone()),
            handler_digest: attempt.digest().or_else(|| item.handler_digest.clone()),
            blocks_key: item.ordering_key.is_some() && on_dead == OnDead::Block,
            fingerprint: Some(fingerprint(&item.item_type, failure, attempt.handler_digest)),
            ..Self::ended(item, ClaimEndKind::DeadLetter, attempt)
        }
    }

    /// The row after the lease ended at `now` without a settlement, or after an operator ended it. The attempt may
    /// have caused effects, because the store does not know how far it came.
    pub fn expired(item: &Item, failure: &Failure, now: Millis) -> Self {
        let attempt = AttemptTrace { maybe_executed: true, handler_digest: None };
        Self {
            available_at: now,
            last_error: Some(failure.message.clone()),
            ..Self::ended(item, ClaimEndKind::Expire, attempt)
        }
    }

    fn completed(item: &Item, result: Option<Vec<u8>>, attempt: AttemptTrace<'_>, now: Millis) -> Self {
        Self {
            // A success does not raise the flag: it is about attempts whose effects are uncertain.
            maybe_executed: item.maybe_executed,
            last_error: None,
            handler_digest: attempt.digest(),
            done_at: Some(now),
            result,
            ..Self::ended(item, ClaimEndKind::Complete, attempt)
        }
    }

    fn retried(item: &Item, failure: &Failure, delay: Duration, attempt: AttemptTrace<'_>, now: Millis) -> Self {
        Self {
            // At least one millisecond, so that a retry is always later than its failure.
            available_at: now.saturating_add(delay.max(Duration::from_millis(1))),
            last_error: Some(failure.message.clone()),
            handler_digest: attempt.digest(),
            ..Self::ended(item, ClaimEndKind::Retry, attempt)
        }
    }

    fn given_back(item: &Item, failure: &Failure, delay: Duration, attempt: AttemptTrace<'_>, now: Millis) -> Self {
        Self {
            status: ClaimEndKind::GiveBack.status(),
            attempts: item.attempts.saturating_sub(1),
            given_back_since: item.given_back_since.or(Some(now)),
            ..Self::retried(item, failure, delay, attempt, now)
        }
    }

    fn released(item: &Item, attempt: AttemptTrace<'_>, now: Millis) -> Self {
        Self {
            available_at: now,
            attempts: item.attempts.saturating_sub(1),
            given_back_since: item.given_back_since,
            ..Self::ended(item, ClaimEndKind::GiveBack, attempt)
        }
    }

    /// The changes that all ends of a claim have in common.
    fn ended(item: &Item, kind: ClaimEndKind, attempt: AttemptTrace<'_>) -> Self {
        Self {
            status: kind.status(),
            available_at: item.available_at,
            attempts: item.attempts,
            maybe_executed: item.maybe_executed || attempt.maybe_executed,
            given_back_since: None,
            last_error: item.last_error.clone(),
            handler_digest: item.handler_digest.clone(),
            done_at: None,
            dead_at: None,
            result: None,
            blocks_key: false,
            fingerprint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use outbox_item::{ItemId, NewItem};

    use super::*;
    use crate::failure::FailureClass;
    use crate::host_writes::HostWrites;

    const NOW: Millis = Millis::new(1_000);
    const EXECUTED: AttemptTrace<'static> = AttemptTrace { maybe_executed: true, handler_digest: Some("new") };

    fn claimed() -> Item {
        Item {
            status: Status::Claimed,
            attempts: 2,
            deliveries: 2,
            available_at: Millis::new(5),
            given_back_since: Some(Millis::new(7)),
            last_error: Some("before".into()),
            handler_digest: Some("old".into()),
            ordering_key: Some("k".into()),
            ..NewItem::new("t", "k", "").into_item(ItemId::new(1), Millis::default())
        }
    }

    fn failure() -> Failure {
        Failure::new(FailureClass::Retryable, "c", "m")
    }

    #[test]
    fn a_success_keeps_the_flag_of_earlier_attempts_and_no_error() {
        let settlement = Settlement::Done { result: Some(b"r".to_vec()), writes: HostWrites::default() };
        let change = RowChange::settled(&claimed(), &settlement, EXECUTED, NOW);
        assert_eq!((change.status, change.done_at, change.result), (Status::Done, Some(NOW), Some(b"r".to_vec())));
        assert_eq!((change.maybe_executed, change.last_error, change.given_back_since), (false, None, None));
        assert_eq!((change.handler_digest.as_deref(), change.attempts), (Some("new"), 2));
    }

    #[test]
    fn a_retry_is_later_than_its_failure_and_ends_a_series_of_releases() {
        let settlement = Settlement::Retry { failure: failure(), delay: Duration::ZERO };
        let change = RowChange::settled(&claimed(), &settlement, EXECUTED, NOW);
        assert_eq!((change.status, change.available_at, change.attempts), (Status::Pending, Millis::new(1_001), 2));
        assert_eq!((change.maybe_executed, change.last_error.as_deref()), (true, Some("m")));
        assert_eq!(change.given_back_since, None);
    }

    #[test]
    fn an_uncounted_release_takes_the_attempt_back_and_continues_the_series() {
        let settlement = Settlement::GiveBack { failure: failure(), delay: Duration::from_millis(9) };
        let change = RowChange::settled(&claimed(), &settlement, AttemptTrace::default(), NOW);
        assert_eq!(
            (change.available_at, change.attempts, change.given_back_since),
            (Millis::new(1_009), 1, Some(Millis::new(7)))
        );
        assert_eq!(change.handler_digest, None);
        let first = Item { given_back_since: None, ..claimed() };
        let change = RowChange::settled(&first, &settlement, AttemptTrace::default(), NOW);
        assert_eq!(change.given_back_since, Some(NOW));
    }

    #[test]
    fn a_release_without_a_trace_keeps_what_the_last_failure_wrote() {
        let change = RowChange::settled(&claimed(), &Settlement::Release, AttemptTrace::default(), NOW);
        assert_eq!((change.available_at, change.attempts, change.given_back_since), (NOW, 1, Some(Millis::new(7))));
        assert_eq!((change.last_error.as_deref(), change.handler_digest.as_deref()), (Some("before"), Some("old")));
    }

    #[test]
    fn a_dead_lettering_blocks_its_key_unless_the_type_skips() {
        let dead = |on_dead| Settlement::Dead { failure: failure(), on_dead };
        let change = RowChange::settled(&claimed(), &dead(OnDead::Block), AttemptTrace::default(), NOW);
        assert_eq!((change.status, change.dead_at, change.blocks_key), (Status::Dlq, Some(NOW), true));
        assert_eq!((change.handler_digest.as_deref(), change.fingerprint.is_some()), (Some("old"), true));
        assert!(!RowChange::settled(&claimed(), &dead(OnDead::Skip), EXECUTED, NOW).blocks_key);
        let unordered = Item { ordering_key: None, ..claimed() };
        assert!(!RowChange::settled(&unordered, &dead(OnDead::Block), EXECUTED, NOW).blocks_key);
    }

    #[test]
    fn an_expired_claim_counts_and_may_have_had_effects() {
        let change = RowChange::expired(&claimed(), &failure(), NOW);
        assert_eq!((change.status, change.available_at, change.attempts), (Status::Pending, NOW, 2));
        assert_eq!((change.maybe_executed, change.given_back_since), (true, None));
        assert_eq!(change.handler_digest.as_deref(), Some("old"));
    }
}
