//! Random histories, run on a real store and on a small model of it, and compared after every step.

use std::time::Duration;

use outbox::core::{Failure, FailureClass, OnDead, Settlement};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{
    Action, Claim, Control, ControlRequest, EffectKeys, Execution, Filter, LeasePolicy, LeaseState, OperateRequest,
    Renewal, RenewedLease, Selection, SettleRequest, StoreError,
};
use proptest::prelude::*;

use self::model::{Model, Row};
use crate::support::{Backend, Fixture, START, all, done, is_soak, item, request, retry, settled};

mod model;

/// The retries, the crash budget and the lease in the claims of `support::request`.
const MAX_RETRIES: u32 = 2;
const MAX_CRASHES: u32 = 5;
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

fn settlement(how: How, claim: &Claim) -> SettleRequest {
    let failure = || Failure::new(FailureClass::Deferred, "code", "message");
    match how {
        How::Done => done(),
        How::Retry => retry(Duration::from_secs(1)),
        // Equal give-backs in a row would share a row of the history, which the model does not know.
        How::GiveBack => {
            let failure = Failure { message: format!("delivery {}", claim.item.deliveries), ..failure() };
            settled(Settlement::GiveBack { failure, delay: Duration::from_secs(1) })
        }
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
            losses: item.losses,
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
            let result = f.store.settle(&claims[number].reference(), settlement(how, &claims[number])).await;
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
