//! The processes of a campaign: workers that claim and settle, and an operator who also moves the clock.
//!
//! Each of them has a store of its own, as another process would. This file does not judge what the store does.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use outbox::core::{OnDead, Settlement};
use outbox::item::ItemId;
use outbox::store::{
    Action, Claim, ClaimRequest, Control, ControlRequest, EffectKeys, Execution, LeasePolicy, OperateRequest,
    Selection, SettleRequest, Store, StoreError,
};
use tokio::task::JoinHandle;

use super::ledger::{Ending, Ledger, Note, Order, Position};
use super::{KEYS, Phase, Stage, TYPES};
use crate::support::{TestClock, done, failure, request, retry, settled, with_streaks};

/// A claim that a worker has in hand, with the position of its note once its attempt has begun.
struct InHand {
    noted: Option<Position>,
    claim: Claim,
}

/// One worker process.
pub(super) struct Worker {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: TestClock,
    pub(super) ledger: Ledger,
    pub(super) random: Rng,
}

impl Worker {
    /// Claims and settles until the campaign is over.
    pub(super) async fn work(&mut self, stage: &Stage) {
        while stage.phase() != Phase::Over {
            let (begun, streaks) = self.claim().await;
            if streaks.is_empty() {
                self.attempt(stage.phase(), 5_000).await;
            }
            let plans: Vec<_> = streaks.into_iter().map(|streak| self.plan(stage.phase(), begun, streak)).collect();
            join_all(plans.into_iter().map(Plan::carry_out)).await;
        }
    }

    /// Takes as long as attempts take, so that items wait behind those in hand.
    async fn attempt(&mut self, phase: Phase, longest: u64) {
        if phase != Phase::Over {
            tokio::time::sleep(Duration::from_micros(self.random.u64(0..longest))).await;
        }
    }

    /// How the attempts at the items of a streak go. While the queue is drained, they take no time and succeed.
    fn plan(&mut self, phase: Phase, begun: Position, streak: Vec<InHand>) -> Plan {
        let mut steps = Vec::new();
        for claim in streak {
            let takes = if phase == Phase::Running { self.random.u64(0..20_000) } else { 0 };
            let (takes, ending) = (Duration::from_micros(takes), self.ending(phase));
            steps.push(Step { claim, takes, ending, waits: self.random.u8(0..4) == 0 });
        }
        let swaps = steps.len() > 1 && self.random.u8(0..20) == 0;
        Plan {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            ledger: self.ledger.clone(),
            begun,
            steps,
            swaps,
        }
    }

    /// Claims, and returns the claims of each ordering key together, with the position at which the call began.
    async fn claim(&mut self) -> (Position, Vec<Vec<InHand>>) {
        let begun = self.ledger.position();
        let request = self.request();
        let mut streaks: Vec<Vec<InHand>> = Vec::new();
        for claim in self.store.claim(&request).await.unwrap().claims {
            let key = &claim.item.ordering_key;
            let known = streaks.iter_mut().find(|streak| key.is_some() && streak[0].claim.item.ordering_key == *key);
            if let Some(streak) = known {
                streak.push(InHand { noted: None, claim });
            } else {
                let noted = note(&self.ledger, &self.clock, begun, &claim, Vec::new());
                streaks.push(vec![InHand { noted: Some(noted), claim }]);
            }
        }
        (begun, streaks)
    }

    fn request(&mut self) -> ClaimRequest {
        let mut request = with_streaks(request(&TYPES, self.random.u32(1..=12)), self.random.u32(1..=6));
        for terms in &mut request.types {
            terms.max_retries = u32::MAX;
        }
        request.suspects.budget.max_crashes = u32::MAX;
        request
    }

    /// How an attempt ends; `None` when its process is killed. While the queue is drained, all succeed.
    fn ending(&mut self, phase: Phase) -> Option<Ending> {
        match self.random.u8(0..100) {
            0..80 => Some(Ending::Done),
            _ if phase != Phase::Running => Some(Ending::Done),
            80..95 => Some(Ending::Retry),
            95..97 => Some(Ending::DeadSkip),
            97..98 => Some(Ending::DeadBlock),
            _ => None,
        }
    }
}

/// Notes that an attempt begins.
fn note(ledger: &Ledger, clock: &TestClock, begun: Position, claim: &Claim, behind: Vec<ItemId>) -> Position {
    let (id, lease_until) = (claim.item.id, claim.item.lease_until.unwrap());
    ledger.note_with(|| Note::Claimed { begun, id, lease_until, now: clock.now(), behind })
}

/// One attempt of a streak.
struct Step {
    claim: InHand,
    takes: Duration,
    /// How it ends; `None` when its process is killed.
    ending: Option<Ending>,
    /// Whether the next attempt waits for the answer to the settlement.
    waits: bool,
}

/// What a worker does with a streak.
struct Plan {
    store: Arc<dyn Store>,
    clock: TestClock,
    ledger: Ledger,
    begun: Position,
    steps: Vec<Step>,
    /// Whether the settlement of the second item is tried before that of the first, as a worker with a bug would.
    swaps: bool,
}

impl Plan {
    /// Attempts the items one after the other. A next item begins when the settlement before it has been sent.
    async fn carry_out(mut self) {
        if self.swaps {
            self.settle_out_of_turn().await;
        }
        let (mut behind, mut before): (Vec<ItemId>, Option<JoinHandle<bool>>) = (Vec::new(), None);
        for Step { claim: InHand { noted, claim }, takes, ending, waits } in std::mem::take(&mut self.steps) {
            let is_held = self.clock.now() < claim.item.lease_until.unwrap();
            if noted.is_none() && !is_held {
                break;
            }
            let noted = noted.unwrap_or_else(|| note(&self.ledger, &self.clock, self.begun, &claim, behind.clone()));
            tokio::time::sleep(takes).await;
            let Some(ending) = ending else { return };
            behind.push(claim.item.id);
            let settling =
                tokio::spawn(settle(Arc::clone(&self.store), self.ledger.clone(), claim, noted, ending, before));
            // Lets the task send the settlement.
            tokio::task::yield_now().await;
            if ending != Ending::Done || waits {
                if !settling.await.unwrap() || ending != Ending::Done {
                    return;
                }
                before = None;
            } else {
                before = Some(settling);
            }
        }
        if let Some(before) = before {
            before.await.unwrap();
        }
    }

    async fn settle_out_of_turn(&self) {
        let second = &self.steps[1].claim.claim;
        match self.store.settle(&second.reference(), done()).await {
            // Locked when the server was busy.
            Err(StoreError::OutOfTurn | StoreError::ClaimLost | StoreError::Locked { .. }) => {}
            accepted => panic!("item {} was settled before the item in front of it: {accepted:?}", second.item.id),
        }
    }
}

/// Settles a claim. A settlement that is out of turn waits for the one before it and is tried again. Returns whether the
/// store has accepted it.
async fn settle(
    store: Arc<dyn Store>,
    ledger: Ledger,
    claim: Claim,
    noted: Position,
    ending: Ending,
    before: Option<JoinHandle<bool>>,
) -> bool {
    let begun = ledger.note(Note::Settling { claim: noted, ending });
    let delay = Duration::from_millis(u64::try_from(noted % 20).unwrap());
    let mut result = settle_unlocked(&*store, &claim, ending, delay).await;
    if let Some(before) = before
        && before.await.unwrap()
        && matches!(result, Err(StoreError::OutOfTurn))
    {
        result = settle_unlocked(&*store, &claim, ending, delay).await;
    }
    let is_accepted = match result {
        Ok(()) => true,
        Err(StoreError::ClaimLost | StoreError::OutOfTurn) => false,
        Err(err) => panic!("{ending:?} of item {}: {err}", claim.item.id),
    };
    ledger.note(Note::Settled { begun, claim: noted, ending, is_accepted });
    is_accepted
}

/// Settles as a worker does: again and again while another transaction holds a lock, which a busy machine lets it hold for
/// long.
async fn settle_unlocked(store: &dyn Store, claim: &Claim, ending: Ending, delay: Duration) -> Result<(), StoreError> {
    loop {
        match store.settle(&claim.reference(), settlement(ending, delay)).await {
            Err(StoreError::Locked { .. }) => {}
            result => return result,
        }
    }
}

fn settlement(ending: Ending, delay: Duration) -> SettleRequest {
    let dead = |on_dead| settled(Settlement::Dead { failure: failure(), on_dead });
    match ending {
        Ending::Done => done(),
        Ending::Retry => retry(delay),
        Ending::DeadBlock => dead(OnDead::Block),
        Ending::DeadSkip => dead(OnDead::Skip),
    }
}

/// The one operator, who also moves the clock and ends the leases of killed workers.
pub(super) struct Operator {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: TestClock,
    pub(super) ledger: Ledger,
    pub(super) random: Rng,
}

impl Operator {
    /// Works until the campaign is over. While the queue is drained, no key stays blocked.
    pub(super) async fn work(&mut self, stage: &Stage) {
        while stage.phase() != Phase::Over {
            tokio::time::sleep(Duration::from_millis(3)).await;
            self.clock.advance(Duration::from_millis(3));
            if self.random.u8(0..40) == 0 {
                self.clock.advance(Duration::from_secs(61));
                self.store.expire_leases(&[]).await.unwrap();
            }
            match (stage.phase(), self.random.u8(0..10)) {
                (Phase::Running, 0..7) => self.intervene().await,
                (Phase::Running, 7) | (Phase::Draining, _) => self.unblock().await,
                _ => {}
            }
        }
    }

    async fn unblock(&mut self) {
        let ordering_key = KEYS[self.random.usize(..KEYS.len())].to_owned();
        let order = Order::Unblock(ordering_key.clone());
        let begun = self.ledger.note(Note::Ordering { order: order.clone() });
        let control = Control::Unblock { ordering_key };
        let request = ControlRequest { control, actor: "ada".into(), reason: None, execution: Execution::Apply };
        let is_changed = self.store.control(&request).await.unwrap().changed;
        self.ledger.note(Note::Ordered { begun, order, is_changed });
    }

    /// Does one of the operators' actions to any item.
    async fn intervene(&mut self) {
        let choice = self.random.u8(0..6);
        let Some(id) = (if choice < 4 { self.a_finished_item() } else { self.a_new_item() }) else { return };
        let lease = if self.random.bool() { LeasePolicy::Break } else { LeasePolicy::Respect };
        let (action, order) = match choice {
            0..3 => (Action::Replay { keys: EffectKeys::Same }, Order::Revive(id)),
            3 => (Action::Restore, Order::Revive(id)),
            4 => (Action::Dead { on_dead: OnDead::Block, lease }, Order::DeadBlock(id)),
            _ => (Action::Dead { on_dead: OnDead::Skip, lease }, Order::DeadSkip(id)),
        };
        let begun = self.ledger.note(Note::Ordering { order: order.clone() });
        let selection = Selection::Ids(vec![id]);
        let request =
            OperateRequest { action, selection, actor: "ada".into(), reason: None, execution: Execution::Apply };
        let is_changed = self.store.operate(&request).await.unwrap().changed > 0;
        self.ledger.note(Note::Ordered { begun, order, is_changed });
    }

    /// An item that is probably not finished.
    fn a_new_item(&mut self) -> Option<ItemId> {
        let newest = self.ledger.newest_items();
        self.random.choice(newest)
    }

    /// An item that has been finished once.
    fn a_finished_item(&mut self) -> Option<ItemId> {
        let finished = self.ledger.finished_items();
        self.random.choice(finished)
    }
}
