//! An outbox with one item in it, as the stores keep one: a claim carries a token, settling needs it, and
//! state, follow-ups and DONE come together or not at all.
//!
//! It is a model, so that thousands of crashes take seconds. `tests/check.rs` has it do what SQLite does.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use outbox_core::{
    Failure, FailureClass, HostWrites, ServedType, Settlement, StateChange, StateReadError, StateReader, StateVersion,
};
use outbox_item::{Item, Millis, NewItem, Status, Transition};

/// How long a claim holds.
const LEASE: Duration = Duration::from_mins(1);

/// The outbox. Every method is one transaction.
#[derive(Debug)]
pub struct InMemoryOutbox(Mutex<OutboxSnapshot>);

/// What is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxSnapshot {
    /// The item.
    pub item: Item,
    /// The plugin's state, with the version of each value.
    pub state: BTreeMap<String, (Vec<u8>, i64)>,
    /// What was emitted.
    pub followups: Vec<NewItem>,
    /// The present time.
    pub now: Millis,
    /// The token of the present claim.
    token: u64,
    versions: i64,
}

/// The right to settle an attempt.
#[derive(Clone, Debug)]
pub struct InMemoryClaim {
    /// The item as it stands after the claim.
    pub item: Item,
    token: u64,
}

/// Why a settlement was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleError {
    /// The claim is no longer this attempt's.
    ClaimLost,
    /// A key of the state was changed by another attempt.
    StateConflict(String),
}

impl InMemoryOutbox {
    /// An outbox in which the item has just been enqueued.
    pub fn new(item: NewItem, state: BTreeMap<String, Vec<u8>>, now: Millis) -> Self {
        let state: BTreeMap<_, _> = (1..).zip(state).map(|(version, (key, value))| (key, (value, version))).collect();
        let versions = i64::try_from(state.len()).unwrap_or(i64::MAX);
        let rows =
            OutboxSnapshot { item: item.into_item(1, now), state, followups: Vec::new(), now, token: 0, versions };
        Self(Mutex::new(rows))
    }

    /// What is stored.
    pub fn snapshot(&self) -> OutboxSnapshot {
        self.with(|rows| rows.clone())
    }

    /// Waits for the item's time, then claims it, unless it is finished or claimed. One with no retries
    /// left is dead-lettered instead.
    pub fn claim(&self, served_type: &ServedType) -> Option<InMemoryClaim> {
        self.with(|rows| rows.claim(served_type))
    }

    /// Lets the present claim's lease run out.
    pub fn expire(&self) {
        self.with(OutboxSnapshot::expire);
    }

    /// Settles a claim.
    pub fn settle(
        &self,
        claim: &InMemoryClaim,
        settlement: &Settlement,
        maybe_executed: bool,
    ) -> Result<(), SettleError> {
        self.with(|rows| rows.settle(claim, settlement, maybe_executed))
    }

    fn with<T>(&self, transaction: impl FnOnce(&mut OutboxSnapshot) -> T) -> T {
        transaction(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl OutboxSnapshot {
    fn claim(&mut self, served_type: &ServedType) -> Option<InMemoryClaim> {
        let status = self.item.status.next(Transition::Claim).ok()?;
        self.now = self.now.max(self.item.available_at);
        self.item.status = status;
        if !served_type.retry.allows_another(self.item.attempts) {
            let message = self.item.last_error.clone().unwrap_or_else(|| "no retries are left".into());
            self.dead_letter(&Failure::new(FailureClass::Lost, "retries.exhausted", message));
            return None;
        }
        self.item.attempts += 1;
        self.item.deliveries += 1;
        self.item.claimed_at = Some(self.now);
        self.item.lease_until = Some(self.now + millis(LEASE));
        self.token += 1;
        Some(InMemoryClaim { item: self.item.clone(), token: self.token })
    }

    fn expire(&mut self) {
        let Ok(status) = self.item.status.next(Transition::Expire) else { return };
        self.now = self.now.max(self.item.lease_until.unwrap_or_default() + 1);
        self.return_to_pending(status, 0);
        self.item.maybe_executed = true;
        self.item.given_back_since = None;
        self.item.last_error = Some("the lease ended before the attempt was settled".to_owned());
    }

    fn settle(
        &mut self,
        claim: &InMemoryClaim,
        settlement: &Settlement,
        maybe_executed: bool,
    ) -> Result<(), SettleError> {
        if self.item.status != Status::Claimed || claim.token != self.token {
            return Err(SettleError::ClaimLost);
        }
        if let Settlement::Done { result, writes } = settlement {
            self.commit(writes)?;
            self.complete(result.clone());
            return Ok(());
        }
        self.item.maybe_executed |= maybe_executed;
        match settlement {
            Settlement::Retry { failure, delay } => self.retry(Transition::Retry, failure, *delay),
            Settlement::GiveBack { failure, delay } => {
                self.item.attempts -= 1;
                self.retry(Transition::GiveBack, failure, *delay);
            }
            Settlement::Dead { failure, .. } => self.dead_letter(failure),
            Settlement::Release | Settlement::Done { .. } => {
                self.item.attempts -= 1;
                self.return_to_pending(Status::Pending, 0);
            }
        }
        Ok(())
    }

    fn commit(&mut self, writes: &HostWrites) -> Result<(), SettleError> {
        let version = |key: &str| self.state.get(key).map(|(_, version)| *version);
        if let Some(key_change) =
            writes.state.iter().find(|key_change| version(&key_change.key) != key_change.read_version)
        {
            return Err(SettleError::StateConflict(key_change.key.clone()));
        }
        for key_change in &writes.state {
            match &key_change.change {
                StateChange::None => {}
                StateChange::Put(value) => {
                    self.versions += 1;
                    self.state.insert(key_change.key.clone(), (value.clone(), self.versions));
                }
                StateChange::Delete => drop(self.state.remove(&key_change.key)),
            }
        }
        self.followups.extend(writes.followups.iter().cloned());
        Ok(())
    }

    fn complete(&mut self, result: Option<Vec<u8>>) {
        let Ok(status) = self.item.status.next(Transition::Complete) else { return };
        self.item.status = status;
        self.item.done_at = Some(self.now);
        self.item.result = result;
        self.item.last_error = None;
        self.item.given_back_since = None;
        self.clear_claim();
    }

    fn retry(&mut self, transition: Transition, failure: &Failure, delay: Duration) {
        let Ok(status) = self.item.status.next(transition) else { return };
        self.return_to_pending(status, millis(delay).max(1));
        self.item.last_error = Some(failure.message.clone());
        self.item.given_back_since = match transition {
            Transition::GiveBack => self.item.given_back_since.or(Some(self.now)),
            _ => None,
        };
    }

    fn return_to_pending(&mut self, status: Status, delay: Millis) {
        self.item.status = status;
        self.item.available_at = self.now.saturating_add(delay);
        self.clear_claim();
    }

    fn dead_letter(&mut self, failure: &Failure) {
        let Ok(status) = self.item.status.next(Transition::DeadLetter) else { return };
        self.item.status = status;
        self.item.dead_at = Some(self.now);
        self.item.last_error = Some(failure.message.clone());
        self.item.given_back_since = None;
        self.clear_claim();
    }

    fn clear_claim(&mut self) {
        self.item.claimed_at = None;
        self.item.claimed_by = None;
        self.item.lease_until = None;
    }
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

#[async_trait]
impl StateReader for InMemoryOutbox {
    async fn read(&self, _: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        let found = self.with(|rows| rows.state.get(key).cloned());
        Ok(found.map_or((None, None), |(value, version)| (Some(value), Some(version))))
    }
}
