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

use super::ledger::{Ending, Ledger, Note, Order, Position};
use super::{KEYS, Phase, Stage, TYPES};
use crate::support::{TestClock, done, failure, request, retry, settled};

/// A claim that a worker has in hand, with the position of its note.
struct InHand {
    noted: Position,
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
            let claims = self.claim().await;
            self.attempt(stage.phase(), &claims).await;
            let settling: Vec<_> = claims.into_iter().map(|claim| (self.ending(stage.phase()), claim)).collect();
            join_all(settling.into_iter().filter_map(|(ending, claim)| Some(self.settle(claim, ending?)))).await;
        }
    }

    /// Takes as long as attempts take, so that items wait behind those in hand. While the queue is drained, only an
    /// empty claim is a reason to wait.
    async fn attempt(&mut self, phase: Phase, claims: &[InHand]) {
        let longest = match (phase, claims.is_empty()) {
            (_, true) => 5_000,
            (Phase::Running, false) => 20_000,
            (Phase::Draining | Phase::Over, false) => return,
        };
        tokio::time::sleep(Duration::from_micros(self.random.u64(0..longest))).await;
    }

    async fn claim(&mut self) -> Vec<InHand> {
        let begun = self.ledger.position();
        let request = self.request();
        let claims = self.store.claim(&request).await.unwrap().claims;
        claims.into_iter().map(|claim| self.note(begun, claim)).collect()
    }

    fn request(&mut self) -> ClaimRequest {
        let mut request = request(&TYPES, self.random.u32(1..=8));
        for terms in &mut request.types {
            terms.max_retries = u32::MAX;
        }
        request.suspects.budget.max_crashes = u32::MAX;
        request
    }

    fn note(&self, begun: Position, claim: Claim) -> InHand {
        let (id, lease_until) = (claim.item.id, claim.item.lease_until.unwrap());
        let noted = self.ledger.note(Note::Claimed { begun, id, lease_until, now: self.clock.now() });
        InHand { noted, claim }
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

    async fn settle(&self, InHand { noted, claim }: InHand, ending: Ending) {
        let begun = self.ledger.note(Note::Settling { claim: noted, ending });
        let delay = Duration::from_millis(u64::try_from(noted % 20).unwrap());
        let is_accepted = match self.store.settle(&claim.reference(), settlement(ending, delay)).await {
            Ok(()) => true,
            Err(StoreError::ClaimLost) => false,
            Err(err) => panic!("{ending:?} of item {}: {err}", claim.item.id),
        };
        self.ledger.note(Note::Settled { begun, claim: noted, ending, is_accepted });
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
