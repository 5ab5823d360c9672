//! The promises about ordering keys, checked on the notes of a campaign.
//!
//! The judge follows each item through the notes and knows at each position whether the item is surely unfinished,
//! surely blocks its key, surely is finished, or may be either because a call about it is under way. It reports only
//! what is certain. It knows no database.

use std::collections::HashMap;

use outbox::item::{ItemId, Millis};

use super::ledger::{Ending, Note, Order, Position};

/// What is certain about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// PENDING or CLAIMED.
    Unfinished,
    /// In the DLQ, and the items behind it must wait.
    Blocking,
    /// DONE, or in the DLQ without blocking.
    Finished,
    /// A call that may change it is under way, or ended without telling.
    Unknown,
}

/// Which item comes first is decided by its commit.
struct Origin {
    key: Option<String>,
    begun: Position,
    committed: Position,
    place: usize,
    version: Option<i64>,
}

impl Origin {
    /// Whether the item surely comes before another of the same key: earlier in the same transaction, or committed
    /// before the other's commit began, by the notes or by the versions of the application's row.
    fn precedes(&self, other: &Self) -> bool {
        if self.committed == other.committed {
            return self.place < other.place;
        }
        let by_row = self.version.zip(other.version).is_some_and(|(mine, theirs)| mine < theirs);
        by_row || self.committed < other.begun
    }
}

/// What is known of an item at the present note.
#[derive(Debug)]
struct Life {
    standing: Standing,
    since: Position,
    /// The last note about this item.
    touched: Position,
    /// When the last operator's order about this item ended; `Position::MAX` while one is under way.
    ordered: Position,
    /// When it became DONE for the last time, by a settlement that the store accepted.
    done: Option<Position>,
    /// Whether an operator may have revived it.
    is_revived: bool,
}

impl Life {
    fn becomes(&mut self, standing: Standing, at: Position) {
        (self.standing, self.since, self.touched) = (standing, at, at);
    }
}

/// A claim that its worker has neither ended nor lost.
struct OpenClaim {
    noted: Position,
    id: ItemId,
    lease_until: Millis,
    /// What was in front of it in its streak.
    behind: Vec<ItemId>,
}

/// What a campaign showed.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// The broken promises.
    pub(super) faults: Vec<String>,
    /// How many pairs of items of one key were compared.
    pub(super) pairs: u64,
    /// How many of them only the application's own rows put in order.
    pub(super) pairs_by_rows: u64,
}

/// The judge's view of the notes read so far.
struct Judge {
    origins: HashMap<ItemId, Origin>,
    lives: HashMap<ItemId, Life>,
    of_key: HashMap<String, Vec<ItemId>>,
    claims: HashMap<Position, ItemId>,
    open: HashMap<String, Vec<OpenClaim>>,
    /// When the last unblocking of each key ended; `Position::MAX` while one is under way.
    unblocked: HashMap<String, Position>,
    /// What was certain of the targets of the order that is under way. One operator gives all orders.
    before_order: HashMap<ItemId, (Standing, Position)>,
    verdict: Verdict,
}

/// Judges all notes of a campaign.
pub(super) fn judge(notes: &[Note]) -> Verdict {
    let mut judge = Judge::of(notes);
    for (at, note) in notes.iter().enumerate() {
        match note {
            Note::Claimed { begun, id, lease_until, now, behind } => {
                let (lease_until, behind) = (*lease_until, behind.clone());
                judge.claimed(*begun, OpenClaim { noted: at, id: *id, lease_until, behind }, *now);
            }
            Note::Settling { claim, ending } => judge.settling(at, *claim, *ending),
            Note::Settled { begun, claim, ending, is_accepted } if *is_accepted => {
                judge.settled(at, *begun, *claim, *ending);
            }
            Note::Ordering { order } => judge.ordering(at, order),
            Note::Ordered { begun, order, is_changed } => judge.ordered(at, *begun, order, *is_changed),
            Note::Committed { .. } | Note::Settled { .. } => {}
        }
    }
    judge.verdict
}

impl Judge {
    fn of(notes: &[Note]) -> Self {
        let mut judge = Self {
            origins: HashMap::new(),
            lives: HashMap::new(),
            of_key: HashMap::new(),
            claims: HashMap::new(),
            open: HashMap::new(),
            unblocked: HashMap::new(),
            before_order: HashMap::new(),
            verdict: Verdict::default(),
        };
        for (committed, note) in notes.iter().enumerate() {
            let Note::Committed { begun, items } = note else { continue };
            for (place, item) in items.iter().enumerate() {
                let (key, version) = (item.key.clone(), item.version);
                if let Some(key) = &key {
                    judge.of_key.entry(key.clone()).or_default().push(item.id);
                }
                judge.origins.insert(item.id, Origin { key, begun: *begun, committed, place, version });
                let (standing, done, is_revived) = (Standing::Unfinished, None, false);
                let life = Life { standing, since: 0, touched: 0, ordered: 0, done, is_revived };
                judge.lives.insert(item.id, life);
            }
        }
        judge
    }

    fn key_of(&self, id: ItemId) -> Option<String> {
        self.origins.get(&id).and_then(|origin| origin.key.clone())
    }

    fn claimed(&mut self, begun: Position, claim: OpenClaim, now: Millis) {
        let (id, at) = (claim.id, claim.noted);
        self.claims.insert(at, id);
        let Some(life) = self.lives.get(&id) else {
            return self.verdict.faults.push(format!("item {id} was claimed and never committed"));
        };
        if matches!(life.standing, Standing::Finished | Standing::Blocking) && life.since < begun {
            self.verdict.faults.push(format!("item {id} was claimed after it was finished: {life:?}"));
        }
        // An operator may have taken the claim, or ended its streak, or its lease may have ended, before the worker noted
        // it. Then a claim that follows others says nothing.
        let is_untouched = |id: &ItemId| self.lives.get(id).is_none_or(|life| life.ordered < begun);
        let is_held = is_untouched(&id) && claim.behind.iter().all(is_untouched) && now < claim.lease_until;
        if let Some(key) = self.key_of(id)
            && (is_held || claim.behind.is_empty())
        {
            self.compare_with_others(&key, &claim, begun);
            // Another may have followed a claim that ended before its worker noted it.
            self.compare_with_open(&key, id, now, if is_held { at } else { begun });
            if is_held {
                self.open.entry(key).or_default().push(claim);
            }
        }
        let life = self.lives.get_mut(&id).expect("looked up above");
        life.touched = at;
        if is_held && life.standing != Standing::Unfinished {
            life.becomes(Standing::Unfinished, at);
        }
    }

    /// Nothing of the key that comes before the item may have been unfinished or blocking during the whole claim, nor
    /// when the attempt begins if it is in front in the same streak. Nothing that comes after the item may have been
    /// DONE before the claim: what is repeated after a crash is repeated in order.
    fn compare_with_others(&mut self, key: &str, claim: &OpenClaim, begun: Position) {
        let (id, mine) = (claim.id, &self.origins[&claim.id]);
        let is_revived = self.lives[&id].is_revived;
        for other in &self.of_key[key] {
            let theirs = &self.origins[other];
            let is_done = self.lives[other].done.is_some_and(|done| done < begun);
            if is_done && !is_revived && mine.precedes(theirs) {
                let fault = format!("item {id} of key {key} was claimed again after item {other}, which is DONE");
                self.verdict.faults.push(fault);
            }
            if !theirs.precedes(mine) {
                continue;
            }
            self.verdict.pairs += 1;
            self.verdict.pairs_by_rows +=
                u64::from(theirs.committed >= mine.begun && theirs.committed != mine.committed);
            let life = &self.lives[other];
            let until = if claim.behind.contains(other) { claim.noted } else { begun };
            if matches!(life.standing, Standing::Unfinished | Standing::Blocking) && life.since < until {
                let fault = format!("item {id} of key {key} was claimed before item {other}, which is {life:?}");
                self.verdict.faults.push(fault);
            }
        }
    }

    /// No other claim of the key that was noted before `until` may be open, unless its lease has ended.
    fn compare_with_open(&mut self, key: &str, id: ItemId, now: Millis, until: Position) {
        let open = self.open.entry(key.to_owned()).or_default();
        open.retain(|other| now < other.lease_until);
        if let Some(other) = open.iter().find(|other| other.noted < until) {
            self.verdict.faults.push(format!("items {id} and {} of key {key} were claimed at once", other.id));
        }
    }

    fn close(&mut self, id: ItemId, is_meant: impl Fn(&OpenClaim) -> bool) {
        let Some(key) = self.key_of(id) else { return };
        if let Some(open) = self.open.get_mut(&key) {
            open.retain(|claim| !is_meant(claim));
        }
    }

    fn settling(&mut self, at: Position, claim: Position, ending: Ending) {
        let id = self.claims[&claim];
        self.close(id, |open| open.noted == claim);
        let Some(life) = self.lives.get_mut(&id) else { return };
        life.touched = at;
        if ending != Ending::Retry {
            life.becomes(Standing::Unknown, at);
        }
    }

    fn settled(&mut self, at: Position, begun: Position, claim: Position, ending: Ending) {
        let standing = match ending {
            Ending::Done | Ending::DeadSkip => Standing::Finished,
            Ending::DeadBlock => Standing::Blocking,
            Ending::Retry => return,
        };
        let id = self.claims[&claim];
        let key = self.key_of(id);
        let unblocked = key.as_ref().and_then(|key| self.unblocked.get(key)).copied().unwrap_or(0);
        let Some(life) = self.lives.get_mut(&id) else { return };
        if ending == Ending::Done {
            life.done = Some(at);
        }
        // Otherwise an order may have changed it since, or another claim has.
        let is_last = life.touched == begun && life.ordered < begun;
        match standing {
            Standing::Blocking if key.is_some() && unblocked >= begun => {}
            _ if !is_last => {}
            Standing::Blocking if key.is_none() => life.becomes(Standing::Finished, at),
            standing => life.becomes(standing, at),
        }
    }

    /// The items that an order may change.
    fn targets(&self, order: &Order) -> Vec<ItemId> {
        match order {
            Order::Revive(id) | Order::DeadBlock(id) | Order::DeadSkip(id) => vec![*id],
            Order::Unblock(key) => {
                let ids = self.of_key.get(key).into_iter().flatten().copied();
                ids.filter(|id| self.lives[id].standing == Standing::Blocking).collect()
            }
        }
    }

    fn ordering(&mut self, at: Position, order: &Order) {
        if let Order::Unblock(key) = order {
            self.unblocked.insert(key.clone(), Position::MAX);
        }
        for id in self.targets(order) {
            if matches!(order, Order::DeadBlock(_) | Order::DeadSkip(_)) {
                self.close(id, |open| open.id == id || open.behind.contains(&id));
            }
            let Some(life) = self.lives.get_mut(&id) else { continue };
            life.is_revived |= matches!(order, Order::Revive(_));
            self.before_order.insert(id, (life.standing, life.since));
            life.becomes(Standing::Unknown, at);
            life.ordered = Position::MAX;
        }
    }

    fn ordered(&mut self, at: Position, begun: Position, order: &Order, is_changed: bool) {
        let standing = match order {
            Order::Revive(_) => Standing::Unfinished,
            Order::DeadBlock(_) => Standing::Blocking,
            Order::DeadSkip(_) | Order::Unblock(_) => Standing::Finished,
        };
        if let Order::Unblock(key) = order {
            self.unblocked.insert(key.clone(), at);
        }
        for (id, before) in std::mem::take(&mut self.before_order) {
            let is_keyed = self.key_of(id).is_some();
            let Some(life) = self.lives.get_mut(&id) else { continue };
            life.ordered = at;
            if life.touched != begun {
                continue;
            }
            match (is_changed, standing) {
                (false, _) => (life.standing, life.since) = before,
                (true, Standing::Blocking) if !is_keyed => life.becomes(Standing::Finished, at),
                (true, standing) => life.becomes(standing, at),
            }
        }
    }
}
