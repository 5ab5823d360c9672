//! What a worker has in hand: how long each of its leases is known to hold, and which attempts must stop.
//!
//! Pure bookkeeping on the monotonic clock. It reads no clock and asks no store; to interrupt an attempt is to cancel
//! its stop token. The rule that it keeps: an attempt that runs has a lease that is known to hold at least for the
//! margin, or it has been interrupted.

use std::collections::HashSet;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use outbox_item::ItemId;
use outbox_store::{ClaimRef, ClaimToken, LeaseState, Renewal, RenewedLease};

use crate::lease_times::LeaseTimes;

/// The leases of a worker. One that holds nothing any more is not in it.
#[derive(Debug)]
pub(crate) struct LeaseBook {
    times: LeaseTimes,
    leases: HashMap<ClaimToken, HeldLease>,
}

#[derive(Debug)]
struct HeldLease {
    /// The end of the lease, or a little earlier: its length after a moment before the store was asked for it.
    known_end: Instant,
    items: HashMap<ItemId, HeldItem>,
}

#[derive(Debug)]
struct HeldItem {
    phase: HoldPhase,
    /// Cancelled when the attempt must end, or must not begin.
    stop: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HoldPhase {
    /// The item waits for its attempt since it was claimed.
    Prefetched { since: Instant },
    /// The attempt runs.
    Running { deadline: Instant },
    /// The attempt has ended, and its settlement is under way.
    Settling,
}

impl LeaseBook {
    pub(crate) fn new(times: LeaseTimes) -> Self {
        Self { times, leases: HashMap::new() }
    }

    /// Adds a claimed item. `sent` is a moment before the claim was requested, so its lease does not begin earlier.
    /// Returns the token that says when its attempt must stop.
    pub(crate) fn add(&mut self, claim: &ClaimRef, sent: Instant) -> CancellationToken {
        let known_end = sent + self.times.lease();
        let new_lease = || HeldLease { known_end, items: HashMap::new() };
        let stop = CancellationToken::new();
        let item = HeldItem { phase: HoldPhase::Prefetched { since: sent }, stop: stop.clone() };
        self.leases.entry(claim.token).or_insert_with(new_lease).items.insert(claim.id, item);
        stop
    }

    /// Begins the attempt at an item. Returns its deadline, or `None` when it must not begin: it was interrupted, or
    /// the renewals failed and too little of the lease is left.
    pub(crate) fn begin_attempt(
        &mut self,
        claim: &ClaimRef,
        now: Instant,
        timeout: Option<Duration>,
    ) -> Option<Instant> {
        let attempt_time = self.times.attempt_time(timeout);
        let lease = self.leases.get_mut(&claim.token)?;
        let left = lease.known_end.saturating_duration_since(now);
        let item = lease.items.get_mut(&claim.id)?;
        if item.stop.is_cancelled() || !self.times.allows_start(left, attempt_time) {
            return None;
        }
        let deadline = now + attempt_time;
        item.phase = HoldPhase::Running { deadline };
        Some(deadline)
    }

    /// Records that the attempt at an item has ended, or will not begin. The lease is renewed until the settlement.
    pub(crate) fn end_attempt(&mut self, claim: &ClaimRef) {
        let items = self.leases.get_mut(&claim.token).map(|lease| &mut lease.items);
        if let Some(item) = items.and_then(|items| items.get_mut(&claim.id)) {
            item.phase = HoldPhase::Settling;
        }
    }

    /// Removes an item, whose claim has ended.
    pub(crate) fn remove(&mut self, claim: &ClaimRef) {
        let Some(lease) = self.leases.get_mut(&claim.token) else { return };
        lease.items.remove(&claim.id);
        if lease.items.is_empty() {
            self.leases.remove(&claim.token);
        }
    }

    /// The leases to renew: those with an item that waits, that is settled, or whose attempt may still run.
    pub(crate) fn renewals(&self, now: Instant) -> Vec<Renewal> {
        let is_needed = |lease: &HeldLease| lease.items.values().any(|item| !item.phase.is_overdue(now, self.times));
        let needed = self.leases.iter().filter(|(_, lease)| is_needed(lease));
        needed.map(|(token, _)| Renewal { token: *token, lease: self.times.lease() }).collect()
    }

    /// Records the answers to renewals that were requested after `sent`. Interrupts the attempts at items that are in
    /// their lease no more, and returns these items.
    pub(crate) fn record_renewals(&mut self, sent: Instant, renewed: Vec<RenewedLease>) -> Vec<ItemId> {
        let known_end = sent + self.times.lease();
        let mut interrupted = Vec::new();
        for RenewedLease { token, state } in renewed {
            let held: HashSet<ItemId> = match state {
                LeaseState::Held { ids } => ids.into_iter().collect(),
                LeaseState::Gone => HashSet::new(),
                LeaseState::Busy => continue,
            };
            let Some(lease) = self.leases.get_mut(&token) else { continue };
            lease.known_end = lease.known_end.max(known_end);
            let lost = lease.items.extract_if(|id, _| !held.contains(id));
            interrupted.extend(lost.filter_map(|(id, item)| item.interrupt().then_some(id)));
            if lease.items.is_empty() {
                self.leases.remove(&token);
            }
        }
        interrupted
    }

    /// Interrupts the attempts whose leases are known to hold for no more than the margin. Returns their items.
    pub(crate) fn interrupt_unheld(&mut self, now: Instant) -> Vec<ItemId> {
        let is_ending = |lease: &&HeldLease| lease.known_end <= now + self.times.margin();
        let items = self.leases.values().filter(is_ending).flat_map(|lease| &lease.items);
        items.filter_map(|(id, item)| item.interrupt().then_some(*id)).collect()
    }

    /// Interrupts the items that have waited a whole lease for their attempts, so that the worker releases them and
    /// another process can take them. Returns them.
    pub(crate) fn interrupt_waiting(&mut self, now: Instant) -> Vec<ItemId> {
        let items = self.leases.values().flat_map(|lease| &lease.items);
        let has_waited = |item: &HeldItem| item.waits_until(self.times).is_some_and(|end| end <= now);
        let waited = items.filter(|(_, item)| has_waited(item));
        waited.filter_map(|(id, item)| item.interrupt().then_some(*id)).collect()
    }

    /// When [`Self::interrupt_unheld`] has something to do unless a renewal comes first, or
    /// [`Self::interrupt_waiting`] unless the attempt begins first. `None` while no attempt runs or waits.
    pub(crate) fn next_interruption(&self) -> Option<Instant> {
        let of_lease = |lease: &HeldLease| {
            let unheld = lease.known_end - self.times.margin();
            let interruptible = lease.items.values().filter(|item| item.is_interruptible());
            interruptible.map(|item| item.waits_until(self.times).map_or(unheld, |end| end.min(unheld))).min()
        };
        self.leases.values().filter_map(of_lease).min()
    }

    /// Whether the lease of a claim has been renewed as often as it should: the store can be reached.
    pub(crate) fn is_renewed_in_time(&self, claim: &ClaimRef, now: Instant) -> bool {
        let left = self.leases.get(&claim.token).map(|lease| lease.known_end.saturating_duration_since(now));
        left.is_some_and(|left| self.times.is_renewed_in_time(left))
    }

    /// Interrupts every attempt that runs or waits.
    pub(crate) fn interrupt_all(&mut self) {
        for item in self.leases.values().flat_map(|lease| lease.items.values()) {
            item.interrupt();
        }
    }

    /// Removes the items whose attempts have not ended some time after their deadline, although the worker drops a
    /// handler earlier: the host cannot stop them. Returns them.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> Vec<ClaimRef> {
        let mut overdue = Vec::new();
        for (token, lease) in &mut self.leases {
            let taken = lease.items.extract_if(|_, item| item.phase.is_overdue(now, self.times));
            overdue.extend(taken.map(|(id, _)| ClaimRef { id, token: *token, is_plain: false }));
        }
        self.leases.retain(|_, lease| !lease.items.is_empty());
        overdue
    }
}

impl HeldItem {
    /// Until when the item waits for its attempt, at the latest; `None` when it does not wait.
    fn waits_until(&self, times: LeaseTimes) -> Option<Instant> {
        match self.phase {
            HoldPhase::Prefetched { since } if !self.stop.is_cancelled() => Some(since + times.lease()),
            _ => None,
        }
    }

    fn is_interruptible(&self) -> bool {
        self.phase != HoldPhase::Settling && !self.stop.is_cancelled()
    }

    /// Tells the attempt to stop. Returns false when it has ended or was told before.
    fn interrupt(&self) -> bool {
        let is_first = self.is_interruptible();
        self.stop.cancel();
        is_first
    }
}

impl HoldPhase {
    fn is_overdue(self, now: Instant, times: LeaseTimes) -> bool {
        matches!(self, Self::Running { deadline } if now > deadline + times.overdue_after())
    }
}

#[cfg(test)]
mod tests;
