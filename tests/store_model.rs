//! Random histories, run on a real store and on a model of a page, and compared after every step.

use std::time::Duration;

use outbox::item::{Class, Failure, ItemId, Millis, NewItem, OnDead, Status};
use outbox::store::{Action, Claim, EffectKeys, Order, Run, Selection, Settled, Settlement, StoreError};
use proptest::prelude::*;

use crate::support::{Fixture, START, all, done, is_soak, item, request, retry, settled};

/// The retries of the claims that `support::request` makes, and their lease.
const MAX_RETRIES: u32 = 2;
const LEASE: Millis = 60_000;

#[derive(Clone, Debug)]
enum Command {
    Enqueue { key: u8, ordering: Option<u8>, delay: u16 },
    Claim { limit: u32 },
    Settle { which: prop::sample::Index, how: How },
    Advance { seconds: u8 },
    Expire,
    Replay { id: ItemId },
    Purge { id: ItemId },
}

#[derive(Clone, Copy, Debug)]
enum How {
    Done,
    Retry,
    GiveBack,
    Release,
    Block,
    Skip,
}

fn command() -> impl Strategy<Value = Command> {
    let how = prop_oneof![
        3 => Just(How::Done), 2 => Just(How::Retry), 1 => Just(How::GiveBack), 1 => Just(How::Release),
        1 => Just(How::Block), 1 => Just(How::Skip)
    ];
    prop_oneof![
        4 => (0u8..12, prop::option::of(0u8..3), 0u16..3_000)
            .prop_map(|(key, ordering, delay)| Command::Enqueue { key, ordering, delay }),
        4 => (1u32..5).prop_map(|limit| Command::Claim { limit }),
        5 => (any::<prop::sample::Index>(), how).prop_map(|(which, how)| Command::Settle { which, how }),
        2 => (0u8..90).prop_map(|seconds| Command::Advance { seconds }),
        1 => Just(Command::Expire),
        1 => (1i64..14).prop_map(|id| Command::Replay { id }),
        1 => (1i64..14).prop_map(|id| Command::Purge { id }),
    ]
}

/// What the model knows of an item; the order of the fields is that of [`row`].
#[derive(Clone, Debug, PartialEq)]
struct Row {
    id: ItemId,
    status: Status,
    attempts: u32,
    deliveries: u32,
    replays: u32,
    available_at: Millis,
    failed_attempts: usize,
}

#[derive(Debug)]
struct ModelItem {
    row: Row,
    key: u8,
    ordering: Option<u8>,
    /// The number of the claim that holds it, and when its lease ends.
    claim: Option<(usize, Millis)>,
    blocks: bool,
}

#[derive(Default)]
struct Model {
    now: Millis,
    items: Vec<ModelItem>,
    last_id: ItemId,
    claims: usize,
}

impl Model {
    fn enqueue(&mut self, key: u8, ordering: Option<u8>, delay: u16) -> Result<(), ()> {
        if let Some(existing) = self.items.iter().find(|item| item.key == key) {
            return if existing.ordering == ordering { Ok(()) } else { Err(()) };
        }
        self.last_id += 1;
        let available_at = self.now + Millis::from(delay);
        let row = Row {
            id: self.last_id,
            status: Status::Pending,
            attempts: 0,
            deliveries: 0,
            replays: 0,
            available_at,
            failed_attempts: 0,
        };
        self.items.push(ModelItem { row, key, ordering, claim: None, blocks: false });
        Ok(())
    }

    fn expire(&mut self) {
        let now = self.now;
        for item in self.items.iter_mut().filter(|item| item.claim.is_some_and(|(_, until)| until <= now)) {
            item.claim = None;
            item.row.status = Status::Pending;
            item.row.available_at = now;
            item.row.failed_attempts += 1;
        }
    }

    /// The ids that a claim gives out.
    fn claim(&mut self, limit: u32) -> Vec<ItemId> {
        self.expire();
        let mut claimed = Vec::new();
        while claimed.len() < limit as usize {
            let Some(index) = self.first_ready() else { break };
            let (now, claims) = (self.now, self.claims);
            let item = &mut self.items[index];
            if item.row.attempts > MAX_RETRIES {
                item.row.status = Status::Dlq;
                item.blocks = item.ordering.is_some();
                continue;
            }
            item.row.status = Status::Claimed;
            item.row.attempts += 1;
            item.row.deliveries += 1;
            item.claim = Some((claims, now + LEASE));
            claimed.push(item.row.id);
            self.claims += 1;
        }
        claimed
    }

    fn first_ready(&self) -> Option<usize> {
        let ready = |item: &ModelItem| {
            item.row.status == Status::Pending && item.row.available_at <= self.now && !self.is_held(item)
        };
        let candidates = self.items.iter().enumerate().filter(|(_, item)| ready(item));
        candidates.min_by_key(|(_, item)| (item.row.available_at, item.row.id)).map(|(index, _)| index)
    }

    fn is_held(&self, item: &ModelItem) -> bool {
        let unfinished = |head: &ModelItem| matches!(head.row.status, Status::Pending | Status::Claimed) || head.blocks;
        item.ordering.is_some()
            && self
                .items
                .iter()
                .any(|head| head.ordering == item.ordering && head.row.id < item.row.id && unfinished(head))
    }

    fn settle(&mut self, claim: usize, how: How) -> Result<(), ()> {
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
            How::Retry | How::GiveBack => item.row.available_at = now + 1_000,
            How::Release => item.row.available_at = now,
            _ => {}
        }
        item.row.attempts -= u32::from(matches!(how, How::GiveBack | How::Release));
        Ok(())
    }

    fn replay(&mut self, id: ItemId) {
        let now = self.now;
        let finished =
            |item: &&mut ModelItem| item.row.id == id && matches!(item.row.status, Status::Done | Status::Dlq);
        if let Some(item) = self.items.iter_mut().find(finished) {
            let row = &mut item.row;
            (row.status, row.attempts, row.replays, row.available_at) = (Status::Pending, 0, row.replays + 1, now);
            item.blocks = false;
        }
    }

    fn purge(&mut self, id: ItemId) {
        self.items.retain(|item| item.row.id != id || matches!(item.row.status, Status::Pending | Status::Claimed));
    }
}

fn settlement(how: How) -> Settled {
    let failure = || Failure::new(Class::Deferred, "code", "message");
    match how {
        How::Done => done(),
        How::Retry => retry(Duration::from_secs(1)),
        How::GiveBack => settled(Settlement::GiveBack { failure: failure(), delay: Duration::from_secs(1) }),
        How::Release => settled(Settlement::Release),
        How::Block => settled(Settlement::Dead { failure: failure(), on_dead: OnDead::Block }),
        How::Skip => settled(Settlement::Dead { failure: failure(), on_dead: OnDead::Skip }),
    }
}

fn order(action: Action, id: ItemId) -> Order {
    Order { action, selection: Selection::Ids(vec![id]), actor: "model".into(), reason: None, run: Run::Real }
}

async fn rows(f: &Fixture) -> Vec<Row> {
    let mut rows = Vec::new();
    for item in all(&*f.store).await.into_iter().rev() {
        let failed_attempts = f.store.show(item.id).await.unwrap().unwrap().failed_attempts.len();
        rows.push(Row {
            id: item.id,
            status: item.status,
            attempts: item.attempts,
            deliveries: item.deliveries,
            replays: item.replays,
            available_at: item.available_at,
            failed_attempts,
        });
    }
    rows
}

async fn apply(f: &Fixture, model: &mut Model, claims: &mut Vec<Claim>, command: Command) {
    match command {
        Command::Enqueue { key, ordering, delay } => {
            let mut new = item(&format!("key-{key}"));
            new.ordering_key = ordering.map(|key| format!("order-{key}"));
            new.delay = Duration::from_millis(delay.into());
            let result =
                f.store.enqueue(vec![NewItem { cid: Some("c".into()), ..new }], outbox::store::Write::Each).await;
            assert_eq!(result.is_ok(), model.enqueue(key, ordering, delay).is_ok());
        }
        Command::Claim { limit } => {
            let claimed = f.store.claim(&request(&["mail"], limit)).await.unwrap().claims;
            let ids: Vec<_> = claimed.iter().map(|claim| claim.item.id).collect();
            assert_eq!(ids, model.claim(limit));
            claims.extend(claimed);
        }
        Command::Settle { which, how } if !claims.is_empty() => {
            let number = which.index(claims.len());
            let result = f.store.settle(&claims[number].reference(), settlement(how)).await;
            match model.settle(number, how) {
                Ok(()) => result.unwrap(),
                Err(()) => assert!(matches!(result, Err(StoreError::ClaimLost))),
            }
        }
        Command::Settle { .. } => {}
        Command::Advance { seconds } => {
            f.clock.advance(Duration::from_secs(seconds.into()));
            model.now += Millis::from(seconds) * 1_000;
        }
        Command::Expire => {
            f.store.expire().await.unwrap();
            model.expire();
        }
        Command::Replay { id } => {
            f.store.operate(&order(Action::Replay { keys: EffectKeys::Same }, id)).await.unwrap();
            model.replay(id);
        }
        Command::Purge { id } => {
            f.store.operate(&order(Action::Purge, id)).await.unwrap();
            model.purge(id);
        }
    }
}

/// How many histories are tried: more under `OUTBOX_SOAK`.
fn cases() -> u32 {
    if is_soak() { 4_000 } else { 100 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_as_the_model_says(commands in prop::collection::vec(command(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let f = Fixture::sqlite();
            let mut model = Model { now: START, ..Model::default() };
            let mut claims = Vec::new();
            for command in commands {
                apply(&f, &mut model, &mut claims, command).await;
                let expected: Vec<_> = model.items.iter().map(|item| item.row.clone()).collect();
                assert_eq!(rows(&f).await, expected);
            }
        });
    }
}
