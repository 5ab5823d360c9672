//! Where an item goes when a claim on it ends, and what its past says afterwards.
//!
//! Pure. Every store takes an [`ItemMove`], checks that the claim still holds, deletes the item's id from its lease and
//! inserts it where [`ItemMove::to`] says. The in-memory outbox of `check` does the same. This file knows no SQL and no
//! history, signals or counters.

use std::time::Duration;

use outbox_item::{Item, Millis, Status};

use crate::failure::Failure;
use crate::fingerprint::fingerprint;
use crate::on_dead::OnDead;
use crate::settlement::Settlement;

/// What a store keeps of an item's life besides the place where the item is. The default is the past of an item that no
/// worker has claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// See [`Item::attempts`].
    pub attempts: u32,
    /// See [`Item::deliveries`].
    pub deliveries: u32,
    /// See [`Item::replays`].
    pub replays: u32,
    /// See [`Item::effect_generation`].
    pub effect_generation: u32,
    /// See [`Item::losses`].
    pub losses: u32,
    /// See [`Item::give_backs`].
    pub give_backs: u32,
    /// See [`Item::maybe_executed`].
    pub maybe_executed: bool,
    /// See [`Item::given_back_since`].
    pub given_back_since: Option<Millis>,
    /// See [`Item::handler_digest`].
    pub handler_digest: Option<String>,
    /// See [`Item::last_error`].
    pub last_error: Option<String>,
}

impl Past {
    /// The past of an item that has been claimed once, which is that of most items. A store needs no row for it.
    pub fn claimed_once() -> Self {
        Self { attempts: 1, deliveries: 1, ..Self::default() }
    }

    /// Whether this is the past of a DONE item that was claimed once, apart from its digest: a store needs no row for
    /// it, because the place of DONE items has the digest.
    pub fn was_claimed_once(&self) -> bool {
        *self == Self { handler_digest: self.handler_digest.clone(), ..Self::claimed_once() }
    }

    /// The past that an item shows.
    pub fn of(item: &Item) -> Self {
        Self {
            attempts: item.attempts,
            deliveries: item.deliveries,
            replays: item.replays,
            effect_generation: item.effect_generation,
            losses: item.losses,
            give_backs: item.give_backs,
            maybe_executed: item.maybe_executed,
            given_back_since: item.given_back_since,
            handler_digest: item.handler_digest.clone(),
            last_error: item.last_error.clone(),
        }
    }
}

/// An item whose claim ends.
#[derive(Clone, Copy, Debug)]
pub struct ClaimedPast<'a> {
    /// The item's type.
    pub item_type: &'a str,
    /// Whether the item has an ordering key.
    pub is_ordered: bool,
    /// The item's past, the claim counted.
    pub past: &'a Past,
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

/// The place where an item is after its claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The item is DONE.
    Done {
        /// See [`Item::result`].
        result: Option<Vec<u8>>,
    },
    /// The item is PENDING.
    Queue {
        /// See [`Item::available_at`].
        available_at: Millis,
    },
    /// The item is in the DLQ.
    Dead {
        /// Whether items with the same ordering key wait for an operator.
        blocks_key: bool,
        /// The group of similar failures. See [`fingerprint`].
        fingerprint: String,
    },
}

impl Destination {
    /// The status of an item in this place.
    pub const fn status(&self) -> Status {
        match self {
            Self::Done { .. } => Status::Done,
            Self::Queue { .. } => Status::Pending,
            Self::Dead { .. } => Status::Dlq,
        }
    }
}

/// The end of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemMove {
    /// Where the item goes.
    pub to: Destination,
    /// The item's past afterwards.
    pub past: Past,
}

impl ItemMove {
    /// The move of a worker's settlement at `now`.
    pub fn settled(claimed: ClaimedPast<'_>, settlement: &Settlement, attempt: AttemptTrace<'_>, now: Millis) -> Self {
        match settlement {
            Settlement::Done { result, .. } => Self::completed(claimed, result.clone(), attempt),
            Settlement::Retry { failure, delay } => Self::retried(claimed, failure, *delay, attempt, now),
            Settlement::GiveBack { failure, delay } => Self::given_back(claimed, failure, *delay, attempt, now),
            Settlement::Dead { failure, on_dead } => Self::dead_lettered(claimed, failure, *on_dead, attempt),
            Settlement::Release => Self::released(claimed, attempt, now),
        }
    }

    /// The move of a dead-lettering: by a settlement, by the store at a claim, or by an operator.
    pub fn dead_lettered(
        claimed: ClaimedPast<'_>,
        failure: &Failure,
        on_dead: OnDead,
        attempt: AttemptTrace<'_>,
    ) -> Self {
        let past = Past {
            last_error: Some(failure.message.clone()),
            handler_digest: attempt.digest().or_else(|| claimed.past.handler_digest.clone()),
            ..after(claimed, attempt)
        };
        let blocks_key = claimed.is_ordered && on_dead == OnDead::Block;
        let fingerprint = fingerprint(claimed.item_type, failure, attempt.handler_digest);
        Self { to: Destination::Dead { blocks_key, fingerprint }, past }
    }

    /// The move after the lease ended at `now` without a settlement. The attempt does not count, because another item
    /// of the process may have ended it, or may not have begun: it counts as a loss. It may have caused effects.
    pub fn expired(claimed: ClaimedPast<'_>, failure: &Failure, now: Millis) -> Self {
        let Self { to, past } = Self::ended_by_operator(claimed, failure, now);
        let past = Past {
            attempts: claimed.past.attempts.saturating_sub(1),
            losses: claimed.past.losses.saturating_add(1),
            ..past
        };
        Self { to, past }
    }

    /// The move after an operator ended the claim at `now`. The attempt counts. It may have caused effects, because the
    /// store does not know how far it came.
    pub fn ended_by_operator(claimed: ClaimedPast<'_>, failure: &Failure, now: Millis) -> Self {
        let attempt = AttemptTrace { maybe_executed: true, handler_digest: None };
        let past = Past { last_error: Some(failure.message.clone()), ..after(claimed, attempt) };
        Self { to: Destination::Queue { available_at: now }, past }
    }

    fn completed(claimed: ClaimedPast<'_>, result: Option<Vec<u8>>, attempt: AttemptTrace<'_>) -> Self {
        let past = Past {
            // A success does not raise the flag: it is about attempts whose effects are uncertain.
            maybe_executed: claimed.past.maybe_executed,
            losses: 0,
            last_error: None,
            handler_digest: attempt.digest(),
            ..after(claimed, attempt)
        };
        Self { to: Destination::Done { result }, past }
    }

    fn retried(
        claimed: ClaimedPast<'_>,
        failure: &Failure,
        delay: Duration,
        attempt: AttemptTrace<'_>,
        now: Millis,
    ) -> Self {
        let past = Past {
            last_error: Some(failure.message.clone()),
            handler_digest: attempt.digest(),
            ..after(claimed, attempt)
        };
        // At least one millisecond, so that a retry is always later than its failure.
        let available_at = now.saturating_add(delay.max(Duration::from_millis(1)));
        Self { to: Destination::Queue { available_at }, past }
    }

    fn given_back(
        claimed: ClaimedPast<'_>,
        failure: &Failure,
        delay: Duration,
        attempt: AttemptTrace<'_>,
        now: Millis,
    ) -> Self {
        let Self { to, past } = Self::retried(claimed, failure, delay, attempt, now);
        let past = Past {
            attempts: claimed.past.attempts.saturating_sub(1),
            give_backs: claimed.past.give_backs.saturating_add(1),
            given_back_since: claimed.past.given_back_since.or(Some(now)),
            ..past
        };
        Self { to, past }
    }

    fn released(claimed: ClaimedPast<'_>, attempt: AttemptTrace<'_>, now: Millis) -> Self {
        let past = Past {
            attempts: claimed.past.attempts.saturating_sub(1),
            give_backs: claimed.past.give_backs,
            given_back_since: claimed.past.given_back_since,
            ..after(claimed, attempt)
        };
        Self { to: Destination::Queue { available_at: now }, past }
    }

    /// The status of the item after the move.
    pub const fn status(&self) -> Status {
        self.to.status()
    }
}

/// What all ends of a claim have in common.
fn after(claimed: ClaimedPast<'_>, attempt: AttemptTrace<'_>) -> Past {
    Past {
        maybe_executed: claimed.past.maybe_executed || attempt.maybe_executed,
        give_backs: 0,
        given_back_since: None,
        ..claimed.past.clone()
    }
}

#[cfg(test)]
mod tests {
    use outbox_item::Transition;

    use super::*;
    use crate::failure::FailureClass;
    use crate::host_writes::HostWrites;

    const NOW: Millis = Millis::new(1_000);
    const EXECUTED: AttemptTrace<'static> = AttemptTrace { maybe_executed: true, handler_digest: Some("new") };

    fn past() -> Past {
        Past {
            attempts: 2,
            deliveries: 2,
            losses: 1,
            give_backs: 3,
            given_back_since: Some(Millis::new(7)),
            last_error: Some("before".into()),
            handler_digest: Some("old".into()),
            ..Past::default()
        }
    }

    fn failure() -> Failure {
        Failure::new(FailureClass::Retryable, "c", "m")
    }

    fn settled(settlement: &Settlement, attempt: AttemptTrace<'_>) -> ItemMove {
        ItemMove::settled(ClaimedPast { item_type: "t", is_ordered: true, past: &past() }, settlement, attempt, NOW)
    }

    fn queued(moved: &ItemMove) -> Option<Millis> {
        match moved.to {
            Destination::Queue { available_at } => Some(available_at),
            _ => None,
        }
    }

    #[test]
    fn a_success_keeps_the_flag_of_earlier_attempts_and_no_error() {
        let result = Some(b"r".to_vec());
        let moved = settled(&Settlement::Done { result: result.clone(), writes: HostWrites::default() }, EXECUTED);
        assert_eq!(moved.to, Destination::Done { result });
        let Past { maybe_executed, last_error, given_back_since, handler_digest, attempts, .. } = moved.past;
        assert_eq!((maybe_executed, last_error, given_back_since), (false, None, None));
        assert_eq!((handler_digest.as_deref(), attempts), (Some("new"), 2));
    }

    #[test]
    fn every_move_is_a_transition_that_a_claimed_item_allows() {
        let done = Settlement::Done { result: None, writes: HostWrites::default() };
        let (failure, delay) = (failure(), Duration::ZERO);
        let dead = Settlement::Dead { failure: failure.clone(), on_dead: OnDead::Skip };
        let retry = Settlement::Retry { failure: failure.clone(), delay };
        let give_back = Settlement::GiveBack { failure: failure.clone(), delay };
        let past = past();
        let expired = ItemMove::expired(ClaimedPast { item_type: "t", is_ordered: true, past: &past }, &failure, NOW);
        let moves = [
            (settled(&done, EXECUTED), Transition::Complete),
            (settled(&retry, EXECUTED), Transition::Retry),
            (settled(&give_back, EXECUTED), Transition::GiveBack),
            (settled(&Settlement::Release, EXECUTED), Transition::GiveBack),
            (settled(&dead, EXECUTED), Transition::DeadLetter),
            (expired, Transition::Expire),
        ];
        for (moved, transition) in moves {
            assert_eq!(Status::Claimed.next(transition), Ok(moved.status()), "{transition:?}");
        }
    }

    #[test]
    fn a_first_attempt_that_succeeds_leaves_nothing_but_its_digest() {
        let claimed = ClaimedPast { item_type: "t", is_ordered: false, past: &Past::claimed_once() };
        let done = Settlement::Done { result: None, writes: HostWrites::default() };
        let moved = ItemMove::settled(claimed, &done, EXECUTED, NOW);
        assert_eq!(Past { handler_digest: None, ..moved.past }, Past::claimed_once());
    }

    #[test]
    fn a_retry_is_later_than_its_failure_and_ends_a_series_of_give_backs() {
        let moved = settled(&Settlement::Retry { failure: failure(), delay: Duration::ZERO }, EXECUTED);
        assert_eq!((queued(&moved), moved.past.attempts), (Some(Millis::new(1_001)), 2));
        assert_eq!((moved.past.maybe_executed, moved.past.last_error.as_deref()), (true, Some("m")));
        assert_eq!((moved.past.given_back_since, moved.past.give_backs), (None, 0));
    }

    #[test]
    fn a_give_back_takes_the_attempt_back_and_continues_the_series() {
        let give_back = Settlement::GiveBack { failure: failure(), delay: Duration::from_millis(9) };
        let moved = settled(&give_back, AttemptTrace::default());
        assert_eq!((queued(&moved), moved.past.attempts), (Some(Millis::new(1_009)), 1));
        assert_eq!((moved.past.given_back_since, moved.past.give_backs), (Some(Millis::new(7)), 4));
        assert_eq!(moved.past.handler_digest, None);
        let first = Past::claimed_once();
        let claimed = ClaimedPast { item_type: "t", is_ordered: false, past: &first };
        let moved = ItemMove::settled(claimed, &give_back, AttemptTrace::default(), NOW);
        assert_eq!((moved.past.given_back_since, moved.past.give_backs), (Some(NOW), 1));
    }

    #[test]
    fn a_release_keeps_what_the_last_failure_wrote() {
        let moved = settled(&Settlement::Release, AttemptTrace::default());
        assert_eq!((queued(&moved), moved.past.attempts), (Some(NOW), 1));
        assert_eq!((moved.past.given_back_since, moved.past.give_backs), (Some(Millis::new(7)), 3));
        let Past { last_error, handler_digest, .. } = moved.past;
        assert_eq!((last_error.as_deref(), handler_digest.as_deref()), (Some("before"), Some("old")));
    }

    #[test]
    fn a_dead_lettering_blocks_its_key_unless_the_type_skips() {
        let dead = |on_dead| Settlement::Dead { failure: failure(), on_dead };
        let blocks = |moved: &ItemMove| matches!(moved.to, Destination::Dead { blocks_key: true, .. });
        let moved = settled(&dead(OnDead::Block), AttemptTrace::default());
        assert!(blocks(&moved));
        assert_eq!((moved.status(), moved.past.handler_digest.as_deref()), (Status::Dlq, Some("old")));
        assert!(!blocks(&settled(&dead(OnDead::Skip), EXECUTED)));
        let past = past();
        let unordered = ClaimedPast { item_type: "t", is_ordered: false, past: &past };
        assert!(!blocks(&ItemMove::settled(unordered, &dead(OnDead::Block), EXECUTED, NOW)));
    }

    #[test]
    fn an_expired_claim_is_a_loss_and_no_attempt_and_may_have_had_effects() {
        let past = past();
        let claimed = ClaimedPast { item_type: "t", is_ordered: true, past: &past };
        let moved = ItemMove::expired(claimed, &failure(), NOW);
        assert_eq!((queued(&moved), moved.past.attempts, moved.past.deliveries), (Some(NOW), 1, 2));
        assert_eq!((moved.past.losses, moved.past.maybe_executed, moved.past.given_back_since), (2, true, None));
        assert_eq!((moved.past.handler_digest.as_deref(), moved.past.last_error.as_deref()), (Some("old"), Some("m")));
    }

    #[test]
    fn a_claim_that_an_operator_ends_counts_and_is_no_loss() {
        let past = past();
        let claimed = ClaimedPast { item_type: "t", is_ordered: true, past: &past };
        let moved = ItemMove::ended_by_operator(claimed, &failure(), NOW);
        assert_eq!((queued(&moved), moved.past.attempts, moved.past.losses), (Some(NOW), 2, 1));
        assert!(moved.past.maybe_executed);
    }

    #[test]
    fn a_success_ends_the_count_of_losses_and_a_failure_does_not() {
        let done = Settlement::Done { result: None, writes: HostWrites::default() };
        assert_eq!(settled(&done, EXECUTED).past.losses, 0);
        assert_eq!(settled(&Settlement::Retry { failure: failure(), delay: Duration::ZERO }, EXECUTED).past.losses, 1);
    }
}
