//! Random histories, run on a real store and on a small model of it, and compared after every step.

use std::time::Duration;

use outbox::core::{Failure, FailureClass, OnDead, Settlement};
use outbox::item::{ItemId, Millis, NewItem, Status};
use outbox::store::{
    Action, Claim, Control, ControlRequest, EffectKeys, Execution, Filter, LeasePolicy, LeaseState, OperateRequest,
    Renewal, RenewedLease, Selection, SettleRequest, StoreError,
};
use proptest::prelude::*;

use crate::support::{Backend, Fixture, START, all, done, is_soak, item, request, retry, settled};

/// The retries and the lease in the claims of `support::request`.
const MAX_RETRIES: u32 = 2;
const LEASE: Duration = Duration::from_mins(1);

#[derive(Clone, Debug)]
enum Command {
    Enqueue { key: u8, ordering: Option<u8>, delay: u16 },
    Claim { limit: u32 },
    Settle { which: prop::sample::Index, how: How },
    Renew { which: prop::sample::Index },
    Abandon { which: prop::sample::Index },
    Advance { seconds: u8 },
    Expire,
    Replay { id: ItemId },
    ReplayDead,
    Purge { id: ItemId },
    Dead { id: ItemId, on_dead: OnDead, lease: LeasePolicy },
    Restore { id: ItemId },
    Reschedule { id: ItemId, seconds: u8 },
    Release { id: ItemId, lease: LeasePolicy },
    Unblock { ordering: u8 },
    Pause,
    Resume,
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

fn an_id() -> impl Strategy<Value = ItemId> {
    (1i64..14).prop_map(ItemId::new)
}

fn command() -> impl Strategy<Value = Command> {
    let how = prop_oneof![
        3 => Just(How::Done), 2 => Just(How::Retry), 1 => Just(How::GiveBack), 1 => Just(How::Release),
        1 => Just(How::Block), 1 => Just(How::Skip)
    ];
    let on_dead = prop_oneof![Just(OnDead::Block), Just(OnDead::Skip)];
    let lease = prop_oneof![Just(LeasePolicy::Respect), Just(LeasePolicy::Break)];
    prop_oneof![
        4 => (0u8..12, prop::option::of(0u8..3), 0u16..3_000)
            .prop_map(|(key, ordering, delay)| Command::Enqueue { key, ordering, delay }),
        4 => (1u32..5).prop_map(|limit| Command::Claim { limit }),
        5 => (any::<prop::sample::Index>(), how).prop_map(|(which, how)| Command::Settle { which, how }),
        2 => any::<prop::sample::Index>().prop_map(|which| Command::Renew { which }),
        1 => any::<prop::sample::Index>().prop_map(|which| Command::Abandon { which }),
        2 => (0u8..90).prop_map(|seconds| Command::Advance { seconds }),
        1 => Just(Command::Expire),
        1 => an_id().prop_map(|id| Command::Replay { id }),
        1 => Just(Command::ReplayDead),
        1 => an_id().prop_map(|id| Command::Purge { id }),
        2 => (an_id(), on_dead, lease.clone()).prop_map(|(id, on_dead, lease)| Command::Dead { id, on_dead, lease }),
        2 => an_id().prop_map(|id| Command::Restore { id }),
        1 => (an_id(), 0u8..9).prop_map(|(id, seconds)| Command::Reschedule { id, seconds }),
        1 => (an_id(), lease).prop_map(|(id, lease)| Command::Release { id, lease }),
        1 => (0u8..3).prop_map(|ordering| Command::Unblock { ordering }),
        1 => Just(Command::Pause),
        2 => Just(Command::Resume),
    ]
}

/// The model's data of an item; the fields have the order of [`row`].
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
    /// The number of the claim on the item, and the end of its lease.
    claim: Option<(usize, Millis)>,
    blocks: bool,
    dead_by_operator: bool,
}

#[derive(Default)]
struct Model {
    now: Millis,
    paused: bool,
    items: Vec<ModelItem>,
    last_id: i64,
    /// For each claim, the number of its lease.
    leases: Vec<usize>,
}

impl Model {
    fn enqueue(&mut self, key: u8, ordering: Option<u8>, delay: u16) -> Result<(), ()> {
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
            replays: 0,
            available_at,
            failed_attempts: 0,
        };
        self.items.push(ModelItem { row, key, ordering, claim: None, blocks: false, dead_by_operator: false });
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

    /// The items in the lease of a claim.
    fn leased_with(&mut self, claim: usize) -> impl Iterator<Item = &mut ModelItem> {
        let (leases, lease) = (&self.leases, self.leases[claim]);
        self.items.iter_mut().filter(move |item| item.claim.is_some_and(|(number, _)| leases[number] == lease))
    }

    /// The ids of the items that are left in the lease of a claim.
    fn renew(&mut self, claim: usize) -> Vec<ItemId> {
        let until = self.now.saturating_add(LEASE);
        let renew = |item: &mut ModelItem| {
            item.claim = item.claim.map(|(number, _)| (number, until));
            item.row.id
        };
        self.leased_with(claim).map(renew).collect()
    }

    /// How many items an abandoned claim gives back.
    fn abandon(&mut self, claim: usize) -> usize {
        let abandoned: Vec<_> = self.leased_with(claim).filter_map(|item| item.claim).collect();
        let released = abandoned.iter().filter(|(number, _)| self.settle(*number, How::Release).is_ok());
        released.count()
    }

    /// The ids of the items that a claim returns.
    fn claim(&mut self, limit: u32) -> Vec<ItemId> {
        let lease = self.leases.last().map_or(0, |lease| lease + 1);
        let mut claimed = Vec::new();
        while !self.paused && claimed.len() < limit as usize {
            let Some(index) = self.first_ready() else { break };
            let (now, claims) = (self.now, self.leases.len());
            let item = &mut self.items[index];
            if item.row.attempts > MAX_RETRIES {
                item.row.status = Status::Dlq;
                item.blocks = item.ordering.is_some();
                continue;
            }
            item.row.status = Status::Claimed;
            item.row.attempts += 1;
            item.row.deliveries += 1;
            item.claim = Some((claims, now.saturating_add(LEASE)));
            claimed.push(item.row.id);
            self.leases.push(lease);
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

    /// Whether an earlier item with the same ordering key is not finished, or any item of this key is claimed.
    fn is_held(&self, item: &ModelItem) -> bool {
        let same = |other: &&ModelItem| other.ordering == item.ordering && other.row.id != item.row.id;
        let holds = |other: &ModelItem| match other.row.status {
            Status::Claimed => true,
            Status::Pending => other.row.id < item.row.id,
            Status::Done | Status::Dlq => other.blocks && other.row.id < item.row.id,
        };
        item.ordering.is_some() && self.items.iter().filter(same).any(holds)
    }

    fn find(&mut self, id: ItemId, fits: impl Fn(&ModelItem) -> bool) -> Option<&mut ModelItem> {
        self.items.iter_mut().find(|item| item.row.id == id && fits(item))
    }

    fn dead(&mut self, id: ItemId, on_dead: OnDead, lease: LeasePolicy) {
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

    fn restore(&mut self, id: ItemId) {
        let Some(item) = self.find(id, |item| item.row.status == Status::Dlq && item.dead_by_operator) else { return };
        item.row.status = Status::Pending;
        (item.blocks, item.dead_by_operator) = (false, false);
    }

    fn reschedule(&mut self, id: ItemId, at: Millis) {
        if let Some(item) = self.find(id, |item| item.row.status == Status::Pending) {
            item.row.available_at = at;
        }
    }

    fn release(&mut self, id: ItemId, lease: LeasePolicy) {
        let now = self.now;
        let free = |(_, until)| lease == LeasePolicy::Break || until <= now;
        let Some(item) = self.find(id, |item| item.claim.is_some_and(free)) else { return };
        item.claim = None;
        (item.row.status, item.row.available_at) = (Status::Pending, now);
        item.row.failed_attempts += 1;
    }

    fn unblock(&mut self, ordering: u8) {
        for item in self.items.iter_mut().filter(|item| item.ordering == Some(ordering)) {
            item.blocks = false;
        }
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
            How::Retry | How::GiveBack => item.row.available_at = now.saturating_add(Duration::from_secs(1)),
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
            (item.blocks, item.dead_by_operator) = (false, false);
        }
    }

    fn replay_dead(&mut self) {
        let dead = self.items.iter().filter(|item| item.row.status == Status::Dlq);
        for id in dead.map(|item| item.row.id).collect::<Vec<_>>() {
            self.replay(id);
        }
    }

    fn purge(&mut self, id: ItemId) {
        self.items.retain(|item| item.row.id != id || matches!(item.row.status, Status::Pending | Status::Claimed));
    }
}

fn settlement(how: How) -> SettleRequest {
    let failure = || Failure::new(FailureClass::Deferred, "code", "message");
    match how {
        How::Done => done(),
        How::Retry => retry(Duration::from_secs(1)),
        How::GiveBack => settled(Settlement::GiveBack { failure: failure(), delay: Duration::from_secs(1) }),
        How::Release => settled(Settlement::Release),
        How::Block => settled(Settlement::Dead { failure: failure(), on_dead: OnDead::Block }),
        How::Skip => settled(Settlement::Dead { failure: failure(), on_dead: OnDead::Skip }),
    }
}

const REPLAY: Action = Action::Replay { keys: EffectKeys::Same };

async fn operate(f: &Fixture, action: Action, selection: Selection) {
    let request =
        OperateRequest { action, selection, actor: "model".into(), reason: None, execution: Execution::Apply };
    f.store.operate(&request).await.unwrap();
}

async fn operate_on(f: &Fixture, action: Action, id: ItemId) {
    operate(f, action, Selection::Ids(vec![id])).await;
}

async fn say(f: &Fixture, control: Control) {
    let word = ControlRequest { control, actor: "model".into(), reason: None, execution: Execution::Apply };
    f.store.control(&word).await.unwrap();
}

async fn rows(f: &Fixture) -> Vec<Row> {
    let mut rows = Vec::new();
    for item in all(&*f.store).await.into_iter().rev() {
        let failed_attempts = f.store.get(item.id).await.unwrap().unwrap().failed_attempts.len();
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
            let result = f
                .store
                .enqueue(vec![NewItem { cid: Some("c".into()), ..new }], outbox::store::BatchMode::PerItem)
                .await;
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
        Command::Renew { which } if !claims.is_empty() => {
            let number = which.index(claims.len());
            let renewal = Renewal { token: claims[number].token, lease: LEASE };
            let renewed = f.store.renew(&[renewal]).await.unwrap().remove(0);
            let left = model.renew(number);
            let state = if left.is_empty() { LeaseState::Gone } else { LeaseState::Held { ids: left } };
            assert_eq!(renewed, RenewedLease { token: renewal.token, state });
        }
        Command::Abandon { which } if !claims.is_empty() => {
            let number = which.index(claims.len());
            let given_back = f.store.abandon(&[claims[number].token]).await.unwrap();
            assert_eq!(given_back as usize, model.abandon(number));
        }
        Command::Settle { .. } | Command::Renew { .. } | Command::Abandon { .. } => {}
        Command::Advance { seconds } => {
            f.clock.advance(Duration::from_secs(seconds.into()));
            model.now = model.now.saturating_add(Duration::from_secs(seconds.into()));
        }
        Command::Expire => {
            f.store.expire_leases(&[]).await.unwrap();
            model.expire();
        }
        Command::Replay { id } => {
            operate_on(f, REPLAY, id).await;
            model.replay(id);
        }
        Command::ReplayDead => {
            let filter = Filter { status: vec![Status::Dlq], ..Filter::default() };
            operate(f, REPLAY, Selection::Filter(filter)).await;
            model.replay_dead();
        }
        Command::Purge { id } => {
            operate_on(f, Action::Purge, id).await;
            model.purge(id);
        }
        intervention => intervene(f, model, intervention).await,
    }
}

/// Applies a command that is an operator's action.
async fn intervene(f: &Fixture, model: &mut Model, command: Command) {
    match command {
        Command::Dead { id, on_dead, lease } => {
            operate_on(f, Action::Dead { on_dead, lease }, id).await;
            model.dead(id, on_dead, lease);
        }
        Command::Restore { id } => {
            operate_on(f, Action::Restore, id).await;
            model.restore(id);
        }
        Command::Reschedule { id, seconds } => {
            let at = model.now.saturating_add(Duration::from_secs(seconds.into()));
            operate_on(f, Action::Reschedule { at }, id).await;
            model.reschedule(id, at);
        }
        Command::Release { id, lease } => {
            operate_on(f, Action::Release { lease }, id).await;
            model.release(id, lease);
        }
        Command::Unblock { ordering } => {
            say(f, Control::Unblock { ordering_key: format!("order-{ordering}") }).await;
            model.unblock(ordering);
        }
        Command::Pause | Command::Resume => {
            let (item_type, paused) = ("mail".into(), matches!(command, Command::Pause));
            say(f, if paused { Control::Pause { item_type } } else { Control::Resume { item_type } }).await;
            model.paused = paused;
        }
        _ => unreachable!("applied by `apply`"),
    }
}

fn check(backend: Backend, commands: Vec<Command>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let f = Fixture::new(backend).await;
        let mut model = Model { now: START, ..Model::default() };
        let mut claims = Vec::new();
        for command in commands {
            apply(&f, &mut model, &mut claims, command).await;
            let expected: Vec<_> = model.items.iter().map(|item| item.row.clone()).collect();
            assert_eq!(rows(&f).await, expected);
        }
    });
}

/// The same command without an ordering key.
fn unordered(command: Command) -> Command {
    match command {
        Command::Enqueue { key, delay, .. } => Command::Enqueue { key, ordering: None, delay },
        command => command,
    }
}

/// The number of histories to try: more under `OUTBOX_SOAK`, fewer on PostgreSQL, where each needs a new database.
fn cases(backend: Backend, is_soak: bool) -> u32 {
    match (backend, is_soak) {
        (Backend::Sqlite, false) => 100,
        (Backend::Sqlite, true) => 4_000,
        (Backend::Postgres, false) => 20,
        (Backend::Postgres, true) => 400,
    }
}

/// Tries random histories on one engine.
macro_rules! histories {
    ($module:ident $backend:ident) => {
        mod $module {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig {
                    cases: cases(Backend::$backend, is_soak()),
                    failure_persistence: None,
                    ..ProptestConfig::default()
                })]

                #[test]
                fn every_history_ends_as_the_model_says(commands in prop::collection::vec(command(), 1..60)) {
                    check(Backend::$backend, commands);
                }

                #[test]
                fn every_history_without_ordering_ends_as_the_model_says(
                    commands in prop::collection::vec(command(), 1..60)
                ) {
                    check(Backend::$backend, commands.into_iter().map(unordered).collect());
                }
            }
        }
    };
}

histories!(sqlite Sqlite);
histories!(postgres Postgres);
