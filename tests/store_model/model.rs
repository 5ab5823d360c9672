//! The model: what a store must do, in memory and without regard to speed.
//!
//! It knows no store, and shares no code with one.

use std::cmp::Reverse;
use std::time::Duration;

use outbox::core::OnDead;
use outbox::item::{ItemId, Millis, Status};
use outbox::store::LeasePolicy;

use super::{How, LEASE, MAX_CRASHES, MAX_RETRIES};

/// The model's data of an item; the fields have the order of [`row`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) id: ItemId,
    pub(super) status: Status,
    pub(super) attempts: u32,
    pub(super) deliveries: u32,
    pub(super) losses: u32,
    pub(super) replays: u32,
    pub(super) available_at: Millis,
    pub(super) failed_attempts: usize,
}

#[derive(Debug)]
pub(super) struct ModelItem {
    pub(super) row: Row,
    pub(super) key: u8,
    pub(super) ordering: Option<u8>,
    /// The number of the claim on the item, and the end of its lease.
    pub(super) claim: Option<(usize, Millis)>,
    pub(super) blocks: bool,
    pub(super) dead_by_operator: bool,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) now: Millis,
    pub(super) paused: bool,
    pub(super) items: Vec<ModelItem>,
    pub(super) last_id: i64,
    /// For each claim, the number of its lease.
    pub(super) leases: Vec<usize>,
}

impl Model {
    pub(super) fn enqueue(&mut self, key: u8, ordering: Option<u8>, delay: u16) -> Result<(), ()> {
        if let Some(existing) = self.items.iter().find(|item| item.key == key) {
            return if existing.ordering == ordering { Ok(()) } else { Err(()) };
        }
        self.last_id += 1;
        let available_at = self.now.saturating_add(Duration::from_millis(delay.into()));
        let row = Row {
            id: ItemId::new(self.last_id),
            status: Status::Pending,
            attempts: 0,
            deliveries: 0,
            losses: 0,
            replays: 0,
            available_at,
            failed_attempts: 0,
        };
        self.items.push(ModelItem { row, key, ordering, claim: None, blocks: false, dead_by_operator: false });
        Ok(())
    }

    pub(super) fn expire(&mut self) {
        let now = self.now;
        for item in self.items.iter_mut().filter(|item| item.claim.is_some_and(|(_, until)| until <= now)) {
            item.claim = None;
            item.row.status = Status::Pending;
            item.row.available_at = now;
            item.row.failed_attempts += 1;
            item.row.attempts -= 1;
            item.row.losses += 1;
        }
    }

    /// The items in the lease of a claim.
    pub(super) fn leased_with(&mut self, claim: usize) -> impl Iterator<Item = &mut ModelItem> {
        let (leases, lease) = (&self.leases, self.leases[claim]);
        self.items.iter_mut().filter(move |item| item.claim.is_some_and(|(number, _)| leases[number] == lease))
    }

    /// The ids of the items that are left in the lease of a claim.
    pub(super) fn renew(&mut self, claim: usize) -> Vec<ItemId> {
        let until = self.now.saturating_add(LEASE);
        let renew = |item: &mut ModelItem| {
            item.claim = item.claim.map(|(number, _)| (number, until));
            item.row.id
        };
        self.leased_with(claim).map(renew).collect()
    }

    /// How many items an abandoned claim gives back.
    pub(super) fn abandon(&mut self, claim: usize) -> usize {
        let abandoned: Vec<_> = self.leased_with(claim).filter_map(|item| item.claim).collect();
        let released = abandoned.iter().filter(|(number, _)| self.settle(*number, How::Release).is_ok());
        released.count()
    }

    /// The ids of the items that a claim returns, by a process that has nothing in flight.
    pub(super) fn claim(&mut self, limit: u32) -> Vec<ItemId> {
        let lease = self.leases.last().map_or(0, |lease| lease + 1);
        if self.paused {
            return Vec::new();
        }
        let suspects = self.ready(|item| item.row.losses > 0);
        let most_losses = suspects.first().map_or(0, |index| self.items[*index].row.losses);
        let together = match most_losses {
            0 => 0,
            1 => 4,
            2 => 2,
            _ => 1,
        };
        let suspects = suspects.into_iter().take(together.min(limit as usize));
        let mut claimed: Vec<_> = suspects.filter_map(|index| self.claim_one(index, lease)).collect();
        if most_losses >= 3 && !claimed.is_empty() {
            return claimed;
        }
        while claimed.len() < limit as usize {
            let Some(index) = self.ready(|item| item.row.losses == 0).first().copied() else { break };
            claimed.extend(self.claim_one(index, lease + 1));
        }
        claimed
    }

    /// Claims the item, or dead-letters it when it has no attempt left.
    fn claim_one(&mut self, index: usize, lease: usize) -> Option<ItemId> {
        let (now, claims) = (self.now, self.leases.len());
        let item = &mut self.items[index];
        let is_exhausted = item.row.attempts > MAX_RETRIES;
        if is_exhausted || item.row.losses >= MAX_CRASHES {
            item.row.status = Status::Dlq;
            item.row.deliveries += u32::from(!is_exhausted);
            item.row.failed_attempts += usize::from(!is_exhausted);
            item.blocks = item.ordering.is_some();
            return None;
        }
        item.row.status = Status::Claimed;
        item.row.attempts += 1;
        item.row.deliveries += 1;
        item.claim = Some((claims, now.saturating_add(LEASE)));
        self.leases.push(lease);
        Some(item.row.id)
    }

    /// The items that fit and may be claimed, in the order of claims.
    fn ready(&self, fits: impl Fn(&ModelItem) -> bool) -> Vec<usize> {
        let is_due = |item: &ModelItem| item.row.status == Status::Pending && item.row.available_at <= self.now;
        let ready = |item: &ModelItem| is_due(item) && !self.is_held(item) && fits(item);
        let mut found: Vec<_> = (0..self.items.len()).filter(|index| ready(&self.items[*index])).collect();
        found.sort_by_key(|index| {
            let row = &self.items[*index].row;
            (Reverse(row.losses), row.available_at, row.id)
        });
        found
    }

    /// Whether an earlier item with the same ordering key is not finished, or any item of this key is claimed.
    pub(super) fn is_held(&self, item: &ModelItem) -> bool {
        let same = |other: &&ModelItem| other.ordering == item.ordering && other.row.id != item.row.id;
        let holds = |other: &ModelItem| match other.row.status {
            Status::Claimed => true,
            Status::Pending => other.row.id < item.row.id,
            Status::Done | Status::Dlq => other.blocks && other.row.id < item.row.id,
        };
        item.ordering.is_some() && self.items.iter().filter(same).any(holds)
    }

    pub(super) fn find(&mut self, id: ItemId, fits: impl Fn(&ModelItem) -> bool) -> Option<&mut ModelItem> {
        self.items.iter_mut().find(|item| item.row.id == id && fits(item))
    }

    pub(super) fn dead(&mut self, id: ItemId, on_dead: OnDead, lease: LeasePolicy) {
        let now = self.now;
        let free = |item: &ModelItem| item.claim.is_none_or(|(_, until)| lease == LeasePolicy::Break || until <= now);
        let alive = |item: &ModelItem| matches!(item.row.status, Status::Pending | Status::Claimed);
        let Some(item) = self.find(id, |item| alive(item) && free(item)) else { return };
        item.row.deliveries += u32::from(item.row.status == Status::Pending);
        item.row.failed_attempts += 1;
        item.row.status = Status::Dlq;
        item.claim = None;
        item.blocks = on_dead == OnDead::Block && item.ordering.is_some();
        item.dead_by_operator = true;
    }

    pub(super) fn restore(&mut self, id: ItemId) {
        let Some(item) = self.find(id, |item| item.row.status == Status::Dlq && item.dead_by_operator) else { return };
        item.row.status = Status::Pending;
        (item.blocks, item.dead_by_operator) = (false, false);
    }

    pub(super) fn reschedule(&mut self, id: ItemId, at: Millis) {
        if let Some(item) = self.find(id, |item| item.row.status == Status::Pending) {
            item.row.available_at = at;
        }
    }

    pub(super) fn release(&mut self, id: ItemId, lease: LeasePolicy) {
        let now = self.now;
        let free = |(_, until)| lease == LeasePolicy::Break || until <= now;
        let Some(item) = self.find(id, |item| item.claim.is_some_and(free)) else { return };
        item.claim = None;
        (item.row.status, item.row.available_at) = (Status::Pending, now);
        item.row.failed_attempts += 1;
    }

    pub(super) fn unblock(&mut self, ordering: u8) {
        for item in self.items.iter_mut().filter(|item| item.ordering == Some(ordering)) {
            item.blocks = false;
        }
    }

    pub(super) fn settle(&mut self, claim: usize, how: How) -> Result<(), ()> {
        let now = self.now;
        let holds = |item: &&mut ModelItem| item.claim.is_some_and(|(number, _)| number == claim);
        let item = self.items.iter_mut().find(holds).ok_or(())?;
        item.claim = None;
        item.row.status = match how {
            How::Done => Status::Done,
            How::Block | How::Skip => Status::Dlq,
            How::Retry | How::GiveBack | How::Release => Status::Pending,
        };
        item.row.failed_attempts += usize::from(!matches!(how, How::Done | How::Release));
        item.blocks = matches!(how, How::Block) && item.ordering.is_some();
        match how {
            How::Retry | How::GiveBack => item.row.available_at = now.saturating_add(Duration::from_secs(1)),
            How::Release => item.row.available_at = now,
            _ => {}
        }
        item.row.attempts -= u32::from(matches!(how, How::GiveBack | How::Release));
        item.row.losses *= u32::from(!matches!(how, How::Done));
        Ok(())
    }

    pub(super) fn replay(&mut self, id: ItemId) {
        let now = self.now;
        let finished =
            |item: &&mut ModelItem| item.row.id == id && matches!(item.row.status, Status::Done | Status::Dlq);
        if let Some(item) = self.items.iter_mut().find(finished) {
            let row = &mut item.row;
            (row.status, row.attempts, row.replays, row.available_at) = (Status::Pending, 0, row.replays + 1, now);
            row.losses = 0;
            (item.blocks, item.dead_by_operator) = (false, false);
        }
    }

    pub(super) fn replay_dead(&mut self) {
        let dead = self.items.iter().filter(|item| item.row.status == Status::Dlq);
        for id in dead.map(|item| item.row.id).collect::<Vec<_>>() {
            self.replay(id);
        }
    }

    pub(super) fn purge(&mut self, id: ItemId) {
        self.items.retain(|item| item.row.id != id || matches!(item.row.status, Status::Pending | Status::Claimed));
    }
}
