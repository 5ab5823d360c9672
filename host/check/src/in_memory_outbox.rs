//! An outbox in memory that holds one item, with the promises of a store: a claim carries a token, a settlement needs
//! it, and state changes, follow-ups and the completion are committed together or not at all.
//!
//! It is in memory so that thousands of crashes take seconds. It moves its own time and knows no handler. A test of the
//! package compares it with SQLite.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use outbox_core::{
    AttemptTrace, ClaimedPast, Destination, Failure, FailureClass, HostWrites, ItemMove, OnDead, Past, ServedType,
    Settlement, StateChange, StateKeyChange, StateReadError, StateReader, StateVersion, has_attempt_left,
};
use outbox_item::{Item, ItemId, Millis, NewItem, Status, Transition};

/// The lease of a claim. Its length does not matter, because time moves only when an item waits or a lease expires.
const LEASE: Duration = Duration::from_mins(1);

/// An outbox in memory that holds one item. Every method is one transaction.
#[derive(Debug)]
pub struct InMemoryOutbox(Mutex<OutboxSnapshot>);

/// The rows of the outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxSnapshot {
    /// The item.
    pub item: Item,
    /// The plugin state: the value and the version of each key.
    pub state: BTreeMap<String, (Vec<u8>, i64)>,
    /// The follow-ups, in the order of commits.
    pub followups: Vec<NewItem>,
    /// The time of the outbox.
    pub now: Millis,
    /// The token of the latest claim.
    token: u64,
    /// The version of the latest state write.
    versions: i64,
}

/// A claim: the right to settle one attempt.
#[derive(Clone, Debug)]
pub struct InMemoryClaim {
    /// The item right after the claim.
    pub item: Item,
    token: u64,
}

/// Why the outbox refused a settlement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The claim has ended: its lease expired, or it was settled.
    #[error("the claim was lost before it was settled")]
    ClaimLost,
    /// Another attempt changed this state key.
    #[error("another attempt changed the state key {0:?}")]
    StateConflict(String),
}

impl InMemoryOutbox {
    /// An outbox right after the enqueue of the item at `now`, with this plugin state.
    pub fn new(item: NewItem, state: BTreeMap<String, Vec<u8>>, now: Millis) -> Self {
        let state: BTreeMap<_, _> = (1..).zip(state).map(|(version, (key, value))| (key, (value, version))).collect();
        let versions = i64::try_from(state.len()).unwrap_or(i64::MAX);
        let rows = OutboxSnapshot {
            item: item.into_item(ItemId::new(1), now),
            state,
            followups: Vec::new(),
            now,
            token: 0,
            versions,
        };
        Self(Mutex::new(rows))
    }

    /// A copy of all rows.
    pub fn snapshot(&self) -> OutboxSnapshot {
        self.with(|rows| rows.clone())
    }

    /// Moves the time to when the item is available and claims it. `None` when the item is not PENDING. An item without
    /// an attempt left is dead-lettered instead, with `None` too.
    pub fn claim(&self, served_type: &ServedType) -> Option<InMemoryClaim> {
        self.with(|rows| rows.claim(served_type))
    }

    /// Moves the time past the lease of the present claim and ends the claim. Does nothing without a claim.
    pub fn expire(&self) {
        self.with(OutboxSnapshot::expire);
    }

    /// Settles a claim. Errors change nothing.
    pub fn settle(
        &self,
        claim: &InMemoryClaim,
        settlement: &Settlement,
        attempt: AttemptTrace<'_>,
    ) -> Result<(), SettleError> {
        self.with(|rows| rows.settle(claim, settlement, attempt))
    }

    /// Another item's attempt commits this value of a state key.
    pub fn write_state(&self, key: &str, value: &[u8]) {
        self.with(|rows| rows.write_state(key, value));
    }

    fn with<T>(&self, transaction: impl FnOnce(&mut OutboxSnapshot) -> T) -> T {
        transaction(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl OutboxSnapshot {
    fn claim(&mut self, served_type: &ServedType) -> Option<InMemoryClaim> {
        let status = self.item.status.next(Transition::Claim).ok()?;
        self.now = self.now.max(self.item.available_at);
        if !has_attempt_left(served_type.retry.max_retries, self.item.attempts, self.item.losses) {
            self.dead_letter_exhausted(served_type.on_dead);
            return None;
        }
        self.item.status = status;
        self.item.attempts += 1;
        self.item.deliveries += 1;
        self.item.claimed_at = Some(self.now);
        self.item.lease_until = Some(self.now.saturating_add(LEASE));
        self.token += 1;
        Some(InMemoryClaim { item: self.item.clone(), token: self.token })
    }

    fn dead_letter_exhausted(&mut self, on_dead: OnDead) {
        let message = self.item.last_error.clone().unwrap_or_else(|| "no retries are left".into());
        let failure = Failure::new(FailureClass::Lost, "retries.exhausted", message);
        self.end_claim(|claimed| ItemMove::dead_lettered(claimed, &failure, on_dead, AttemptTrace::default()));
    }

    fn expire(&mut self) {
        if self.item.status != Status::Claimed {
            return;
        }
        self.now = self.now.max(self.item.lease_until.unwrap_or_default().saturating_add(Duration::from_millis(1)));
        let message = "the lease ended before the attempt was settled";
        let failure = Failure::new(FailureClass::Lost, "lease.expired", message);
        let now = self.now;
        self.end_claim(|claimed| ItemMove::expired(claimed, &failure, now));
    }

    fn settle(
        &mut self,
        claim: &InMemoryClaim,
        settlement: &Settlement,
        attempt: AttemptTrace<'_>,
    ) -> Result<(), SettleError> {
        if self.item.status != Status::Claimed || claim.token != self.token {
            return Err(SettleError::ClaimLost);
        }
        if let Settlement::Done { writes, .. } = settlement {
            self.commit(writes)?;
        }
        let now = self.now;
        self.end_claim(|claimed| ItemMove::settled(claimed, settlement, attempt, now));
        Ok(())
    }

    fn commit(&mut self, writes: &HostWrites) -> Result<(), SettleError> {
        let version = |key: &str| self.state.get(key).map(|(_, version)| *version);
        let is_conflict = |change: &&StateKeyChange| version(&change.key) != change.read_version;
        if let Some(changed) = writes.state.iter().find(is_conflict) {
            return Err(SettleError::StateConflict(changed.key.clone()));
        }
        for key_change in &writes.state {
            match &key_change.change {
                StateChange::None => {}
                StateChange::Put(value) => self.write_state(&key_change.key, value),
                StateChange::Delete => drop(self.state.remove(&key_change.key)),
            }
        }
        self.followups.extend(writes.followups.iter().cloned());
        Ok(())
    }

    fn write_state(&mut self, key: &str, value: &[u8]) {
        self.versions += 1;
        self.state.insert(key.to_owned(), (value.to_vec(), self.versions));
    }

    fn end_claim(&mut self, decide: impl FnOnce(ClaimedPast<'_>) -> ItemMove) {
        let Self { item, now, .. } = self;
        let past = Past::of(item);
        let is_ordered = item.ordering_key.is_some();
        let moved = decide(ClaimedPast { item_type: &item.item_type, is_ordered, past: &past });
        item.status = moved.status();
        (item.claimed_at, item.claimed_by, item.lease_until) = (None, None, None);
        match moved.to {
            Destination::Done { result } => (item.done_at, item.result) = (Some(*now), result),
            Destination::Queue { available_at } => item.available_at = available_at,
            Destination::Dead { .. } => item.dead_at = Some(*now),
        }
        set_past(item, moved.past);
    }
}

/// Gives the item this past. It names every field, so that a new one is not forgotten here.
fn set_past(item: &mut Item, past: Past) {
    Past {
        attempts: item.attempts,
        deliveries: item.deliveries,
        replays: item.replays,
        effect_generation: item.effect_generation,
        losses: item.losses,
        give_backs: item.give_backs,
        maybe_executed: item.maybe_executed,
        given_back_since: item.given_back_since,
        handler_digest: item.handler_digest,
        last_error: item.last_error,
    } = past;
}

#[async_trait]
impl StateReader for InMemoryOutbox {
    async fn read(&self, _: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        let found = self.with(|rows| rows.state.get(key).cloned());
        Ok(found.map_or((None, None), |(value, version)| (Some(value), Some(version))))
    }
}
