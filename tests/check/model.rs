//! The checker's outbox of one item behaves like the SQLite store for every sequence of events.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox::check::{InMemoryClaim, InMemoryOutbox, SettleError};
use outbox::core::{
    AttemptTrace, Failure, FailureClass, HostWrites, KeyLimits, OnDead, RetryPolicy, ServedType, Settlement,
    StateChange, StateKeyChange,
};
use outbox::item::{Item, ItemId, Millis, NewItem};
use outbox::store::{Claim, SettleRequest, StoreError};
use proptest::prelude::*;

use crate::support::{Fixture, START};

/// Each attempt in this test reports that it may have had effects.
const EXECUTED: AttemptTrace<'static> = AttemptTrace { maybe_executed: true, handler_digest: None };

/// An event in the life of the item.
#[derive(Clone, Copy, Debug)]
enum Event {
    Claim,
    Expire,
    Done { stale: bool, reads: bool },
    Retry { stale: bool },
    GiveBack { stale: bool },
    Dead { stale: bool },
    Release { stale: bool },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (0_u8..10, any::<bool>(), any::<bool>()).prop_map(|(number, stale, reads)| match number {
        0..=3 => Event::Claim,
        4 => Event::Expire,
        5 => Event::Done { stale, reads },
        6 => Event::Retry { stale },
        7 => Event::GiveBack { stale },
        8 => Event::Dead { stale },
        _ => Event::Release { stale },
    });
    prop::collection::vec(event, 1..14)
}

fn failure(class: FailureClass) -> Failure {
    Failure::new(class, "code", "it failed")
}

fn settlement(event: Event, read_version: Option<i64>) -> Settlement {
    let delay = Duration::from_secs(2);
    match event {
        Event::Done { reads, .. } => {
            let change = if reads { StateChange::None } else { StateChange::Put(b"new".to_vec()) };
            let state = vec![StateKeyChange { key: "k".into(), read_version, change }];
            let followups = vec![NewItem { cid: Some("c".into()), ..NewItem::new("mail", "key/mail/1", "{}") }];
            let writes =
                HostWrites { plugin: "p".into(), state, state_quota: 1 << 20, followups, ..HostWrites::default() };
            Settlement::Done { result: Some(b"ok".to_vec()), writes }
        }
        Event::Retry { .. } => Settlement::Retry { failure: failure(FailureClass::Retryable), delay },
        Event::GiveBack { .. } => Settlement::GiveBack { failure: failure(FailureClass::Deferred), delay },
        Event::Dead { .. } => Settlement::Dead { failure: failure(FailureClass::Permanent), on_dead: OnDead::Block },
        Event::Claim | Event::Expire | Event::Release { .. } => Settlement::Release,
    }
}

fn is_stale(event: Event) -> bool {
    match event {
        Event::Claim | Event::Expire => false,
        Event::Done { stale, .. }
        | Event::Retry { stale }
        | Event::GiveBack { stale }
        | Event::Dead { stale }
        | Event::Release { stale } => stale,
    }
}

/// The model and the store, which receive the same events.
struct Both {
    model: InMemoryOutbox,
    fixture: Fixture,
    id: ItemId,
    served_type: ServedType,
    claims: Vec<(InMemoryClaim, Claim)>,
}

impl Both {
    async fn new() -> Self {
        let item = NewItem { cid: Some("c".into()), ..NewItem::new("t", "key", "{}") };
        let fixture = Fixture::sqlite().await;
        let id = fixture.enqueue(item.clone()).await;
        let retry = RetryPolicy { max_retries: 2, ..RetryPolicy::default() };
        let served_type = ServedType {
            item_type: "t".into(),
            timeout: None,
            retry,
            concurrency: None,
            rate: None,
            per_key: KeyLimits::default(),
            on_dead: OnDead::Block,
            streak: 1,
            breaker: None,
        };
        Self { model: InMemoryOutbox::new(item, BTreeMap::new(), START), fixture, id, served_type, claims: Vec::new() }
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Claim => self.claim().await,
            Event::Expire => self.expire().await,
            settling => self.settle(settling).await,
        }
    }

    async fn claim(&mut self) {
        let before = self.model.snapshot().now;
        let modelled = self.model.claim(&self.served_type);
        self.advance(before);
        let real = self.fixture.claim("t", 1).await.pop();
        assert_eq!(modelled.is_some(), real.is_some());
        self.claims.extend(modelled.zip(real));
    }

    async fn expire(&mut self) {
        let before = self.model.snapshot().now;
        self.model.expire();
        self.advance(before);
        self.fixture.store.expire_leases(&[]).await.unwrap();
    }

    /// Moves the store's clock by the time that the model has moved its own.
    fn advance(&self, before: Millis) {
        let now = self.model.snapshot().now;
        assert!(now >= before);
        self.fixture.clock.advance(now.since(before));
    }

    async fn settle(&self, event: Event) {
        let pick = if is_stale(event) { self.claims.first() } else { self.claims.last() };
        let Some((modelled, real)) = pick else { return };
        let (_, read_version) = self.fixture.store.read_state("p", "k").await.unwrap();
        let version = self.model.snapshot().state.get("k").map(|(_, version)| *version);
        let modelled = self.model.settle(modelled, &settlement(event, version), EXECUTED);
        let settled = SettleRequest {
            settlement: settlement(event, read_version),
            maybe_executed: true,
            stderr: None,
            handler_digest: None,
            exchanges: None,
        };
        let real = self.fixture.store.settle(&real.reference(), settled).await;
        match (modelled, real) {
            (Ok(()), Ok(())) | (Err(SettleError::ClaimLost), Err(StoreError::ClaimLost)) => {}
            (modelled, real) => panic!("{event:?}: {modelled:?}, and SQLite says {real:?}"),
        }
    }

    async fn compare(&self) {
        let (rows, real) = (self.model.snapshot(), self.fixture.item(self.id).await);
        let essence = |item: &Item| {
            let times = (item.available_at, item.claimed_at, item.lease_until, item.done_at, item.dead_at);
            let counts = (item.attempts, item.deliveries, item.losses, item.maybe_executed, item.given_back_since);
            (item.status, counts, times, item.result.clone())
        };
        assert_eq!(essence(&rows.item), essence(&real));
        let (value, _) = self.fixture.store.read_state("p", "k").await.unwrap();
        assert_eq!(rows.state.get("k").map(|(value, _)| value.clone()), value);
        let all = crate::support::all(&*self.fixture.store).await;
        assert_eq!(rows.followups.len(), all.len() - 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if crate::support::is_soak() { 400 } else { 24 }))]

    #[test]
    fn the_checkers_outbox_does_what_sqlite_does(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut both = Both::new().await;
            for event in &events {
                both.happen(*event).await;
                both.compare().await;
            }
        });
    }
}

#[tokio::test]
async fn state_that_another_attempt_changed_is_not_committed_by_either() {
    let mut both = Both::new().await;
    both.claim().await;
    let outdated = settlement(Event::Done { stale: false, reads: false }, Some(99));
    let (modelled, real) = both.claims.last().unwrap();
    assert_eq!(
        both.model.settle(modelled, &outdated, AttemptTrace::default()),
        Err(SettleError::StateConflict("k".into()))
    );
    let settled = crate::support::settled(outdated);
    let refused = both.fixture.store.settle(&real.reference(), settled).await;
    assert!(matches!(refused, Err(StoreError::StateConflict { .. })), "{refused:?}");
    both.compare().await;
}

#[tokio::test]
async fn a_claim_that_is_over_settles_nothing_in_either() {
    let mut both = Both::new().await;
    for event in [Event::Claim, Event::Expire, Event::Claim] {
        both.happen(event).await;
    }
    both.happen(Event::Done { stale: true, reads: false }).await;
    both.compare().await;
    let rows = both.model.snapshot();
    assert!(rows.state.is_empty() && rows.followups.is_empty(), "{rows:?}");
    for _ in 0..2 {
        both.happen(Event::Done { stale: false, reads: false }).await;
        both.compare().await;
    }
    assert_eq!(both.model.snapshot().followups.len(), 1);
}
