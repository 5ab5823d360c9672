//! The promises of every store, one test for each promise.

use std::time::Duration;

use outbox::core::{
    BreakerState, BreakerStatus, Failure, FailureClass, HostWrites, PluginState, PluginStatus, Settlement,
};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{
    Action, AuditQuery, BatchMode, Control, ControlRequest, EffectKeys, Execution, FailureGroup, Filter,
    OperateRequest, Page, Pod, Selection, SignalSeq, StuckEntry, StuckKind, StuckQuery,
};
use serde_json::json;

use crate::support::{Fixture, START, after_start, all, dead, done, item, retry, settled};

/// Runs each promise on every store.
macro_rules! promises {
    ($($name:ident)*) => {
        promises!(@on sqlite Sqlite $($name)*);
        promises!(@on postgres Postgres $($name)*);
    };
    (@on $module:ident $backend:ident $($name:ident)*) => {
        mod $module { $(
            #[tokio::test]
            async fn $name() {
                super::promise::$name(crate::support::Fixture::new(crate::support::Backend::$backend).await).await;
            }
        )* }
    };
}

mod audit;
mod backlog;
mod blocked_keys;
mod claims;
mod enqueue;
mod fairness;
mod filters;
mod history;
mod job_pace;
mod jobs;
mod leases;
mod operations;
mod ordering;
pub(crate) mod orders;
mod owners;
mod places;
mod replay;
mod retention;
mod settlements;
mod state;
mod streaks;
mod suspects;
mod together;
mod transfer;
mod two_places;

promises! {
    an_item_lives_from_pending_through_claimed_to_done
    a_replay_starts_a_new_life_and_keeps_the_history
    an_order_is_refused_where_the_status_forbids_it_and_a_dry_run_changes_nothing
    a_purge_takes_finished_items_and_their_history_only
    saga_signals_begin_and_end_once_per_run
    totals_follow_every_transition
    the_plugins_of_a_pod_of_another_version_are_read_as_far_as_possible
    failures_of_items_that_wait_are_grouped_like_those_of_dead_ones
    open_breakers_of_processes_are_stuck_types_until_they_close
    a_component_is_quarantined_for_every_process_until_somebody_releases_it
    a_rollback_by_an_operator_quarantines_the_component_and_is_audited
    inspection_changes_nothing
    another_process_sees_the_same_outbox
}

pub(crate) fn operate_request(action: Action, selection: Selection) -> OperateRequest {
    OperateRequest {
        action,
        selection,
        actor: "ada@host".into(),
        reason: Some("repaired".into()),
        execution: Execution::Apply,
    }
}

pub(crate) const REPLAY: Action = Action::Replay { keys: EffectKeys::Same };

fn by_status(status: Status) -> Selection {
    Selection::Filter(Filter { status: vec![status], ..Filter::default() })
}

mod promise {
    use super::*;

    pub(super) async fn an_item_lives_from_pending_through_claimed_to_done(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let stored = f.item(id).await;
        assert_eq!(
            (stored.status, stored.created_at, stored.payload.as_slice()),
            (Status::Pending, START, &br#"{"to":"a"}"#[..])
        );
        let claim = f.claim_one("mail").await;
        assert_eq!((claim.item.status, claim.item.attempts, claim.item.deliveries), (Status::Claimed, 1, 1));
        assert_eq!(claim.item.lease_until, Some(after_start(60_000)));
        assert_eq!(claim.item.claimed_by.as_deref(), Some("pod-1"));
        let writes = HostWrites::default();
        let answer = settled(Settlement::Done { result: Some(b"ok".to_vec()), writes });
        f.store.settle(&claim.reference(), answer).await.unwrap();
        let finished = f.item(id).await;
        assert_eq!((finished.status, finished.done_at, finished.claimed_at), (Status::Done, Some(START), None));
        assert_eq!(finished.result.as_deref(), Some(&b"ok"[..]));
    }

    pub(super) async fn a_replay_starts_a_new_life_and_keeps_the_history(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        let settled = outbox::store::SettleRequest { maybe_executed: true, ..dead() };
        f.store.settle(&claim.reference(), settled).await.unwrap();
        f.clock.advance(Duration::from_secs(9));
        let report = f.store.operate(&operate_request(REPLAY, Selection::Ids(vec![id]))).await.unwrap();
        assert_eq!((report.matched, report.changed, report.sample), (1, 1, vec![id]));
        let shown = f.store.get(id).await.unwrap().unwrap();
        let life = &shown.item;
        assert_eq!((life.status, life.attempts, life.deliveries, life.replays), (Status::Pending, 0, 1, 1));
        assert_eq!((life.available_at, life.dead_at, life.maybe_executed), (after_start(9_000), None, true));
        assert_eq!((life.last_error.as_deref(), life.effect_generation), (Some("the receiver is down"), 0));
        assert_eq!(shown.failed_attempts.len(), 1);
        let again = f.claim_one("mail").await;
        f.store.settle(&again.reference(), done()).await.unwrap();
        let fresh = operate_request(Action::Replay { keys: EffectKeys::New }, by_status(Status::Done));
        f.store.operate(&fresh).await.unwrap();
        assert_eq!((f.item(id).await.replays, f.item(id).await.effect_generation), (2, 1));
    }

    pub(super) async fn an_order_is_refused_where_the_status_forbids_it_and_a_dry_run_changes_nothing(f: Fixture) {
        let pending = f.enqueue(item("a")).await;
        let report =
            f.store.operate(&operate_request(REPLAY, Selection::Ids(vec![pending, ItemId::new(99)]))).await.unwrap();
        assert_eq!((report.changed, report.refused.len()), (0, 2));
        assert!(report.refused[0].reason.to_string().contains("PENDING"), "{}", report.refused[0].reason);
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        let dry = OperateRequest { execution: Execution::DryRun, ..operate_request(REPLAY, by_status(Status::Dlq)) };
        let report = f.store.operate(&dry).await.unwrap();
        assert_eq!((report.changed, report.sample), (1, vec![pending]));
        assert_eq!(f.status(pending).await, Status::Dlq);
    }

    pub(super) async fn a_purge_takes_finished_items_and_their_history_only(f: Fixture) {
        let (kept, gone) = (f.enqueue(NewItem::new("sms", "s", "{}")).await, f.enqueue(item("k")).await);
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), retry(Duration::ZERO)).await.unwrap();
        f.clock.advance(Duration::from_secs(1));
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        let young = Filter { finished_to: Some(START), ..Filter::default() };
        let report = f.store.operate(&operate_request(Action::Purge, Selection::Filter(young))).await.unwrap();
        assert_eq!(report.changed, 0);
        f.store.operate(&operate_request(Action::Purge, Selection::Filter(Filter::default()))).await.unwrap();
        assert!(f.store.get(gone).await.unwrap().is_none());
        assert_eq!(f.status(kept).await, Status::Pending);
        assert_eq!(f.store.overview().await.unwrap().by_status["DONE"], 0);
        let reborn = f.enqueue(item("k")).await;
        assert!(reborn > gone, "an id is never given twice");
        assert!(f.store.get(reborn).await.unwrap().unwrap().failed_attempts.is_empty());
    }

    pub(super) async fn saga_signals_begin_and_end_once_per_run(f: Fixture) {
        let step = |key: &str| NewItem { saga: Some("S".into()), cid: Some("c".into()), ..item(key) };
        f.store.enqueue(vec![step("a"), step("b")], BatchMode::AllOrNothing).await.unwrap();
        let claims = f.claim("mail", 2).await;
        f.store.settle(&claims[0].reference(), done()).await.unwrap();
        f.store.settle(&claims[1].reference(), dead()).await.unwrap();
        f.store.operate(&operate_request(REPLAY, by_status(Status::Dlq))).await.unwrap();
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        let signals = f.store.signals(SignalSeq::START, 100).await.unwrap();
        let names: Vec<_> = signals.iter().map(|s| s.signal.as_str()).collect();
        let run = ["saga_begin.S", "saga_step.S.mail", "saga_step.S.mail", "saga_end.S"];
        let again = ["saga_begin.S", "saga_step.S.mail", "saga_end.S"];
        assert_eq!(names, [&run[..], &again[..]].concat());
        let outcomes: Vec<_> = signals.iter().filter_map(|s| s.data["outcome"].as_str()).collect();
        assert_eq!(outcomes, ["ok", "dead", "error", "ok", "ok"]);
        assert_eq!((&signals[0].data["replay"], &signals[4].data["replay"]), (&false.into(), &true.into()));
        assert_eq!((signals[0].pod.as_str(), signals[0].data["cid"].as_str()), ("pod-1", Some("c")));
        let saga = f.store.overview().await.unwrap().sagas.remove("S").unwrap();
        assert_eq!((saga.began, saga.ended_ok, saga.ended_err), (2, 1, 1));
        assert_eq!((saga.steps["mail"]["ok"], saga.steps["mail"]["dead"]), (2, 1));
    }

    pub(super) async fn totals_follow_every_transition(f: Fixture) {
        for key in ["a", "b", "c", "d"] {
            f.enqueue(item(key)).await;
        }
        let claims = f.claim("mail", 3).await;
        f.store.settle(&claims[0].reference(), done()).await.unwrap();
        f.store.settle(&claims[1].reference(), dead()).await.unwrap();
        f.clock.advance(Duration::from_secs(3));
        let overview = f.store.overview().await.unwrap();
        let count = |status: &str| overview.by_status[status];
        assert_eq!([count("PENDING"), count("CLAIMED"), count("DONE"), count("DLQ")], [1; 4]);
        assert_eq!(overview.by_type["mail"]["DONE"], 1);
        assert_eq!(overview.oldest_pending_ms["mail"], 3_000);
        assert_eq!((overview.attempts["mail"]["done"], overview.attempts["mail"]["retryable"]), (1, 1));
        f.store.operate(&operate_request(REPLAY, by_status(Status::Done))).await.unwrap();
        assert_eq!(f.store.overview().await.unwrap().by_status["DONE"], 0);
    }

    pub(super) async fn the_plugins_of_a_pod_of_another_version_are_read_as_far_as_possible(f: Fixture) {
        let plugin = PluginStatus {
            name: "webhook".into(),
            file: "/plugins/webhook.wasm".into(),
            generation: Some(3),
            state: PluginState::Active,
            types: vec!["mail".into()],
            ..PluginStatus::default()
        };
        let pod = Pod {
            instance: "now".into(),
            role: None,
            ready: true,
            heartbeat_at: START,
            plugins: vec![plugin.clone()],
            breakers: vec![],
        };
        f.store.heartbeat(&pod).await.unwrap();
        for (instance, plugins) in [
            ("older", r#"[{"name": "webhook", "types": ["fax"]}]"#),
            ("newer", r#"[{"name": "webhook", "state": "resting", "cost": 1}, {"name": ["webhook"]}]"#),
            ("strange", r#"{"webhook": true}"#),
        ] {
            f.sql(&format!("INSERT INTO outbox_pods VALUES ('{instance}', NULL, true, {START}, '{plugins}')")).unwrap();
        }
        let overview = f.store.overview().await.unwrap();
        let listed: Vec<_> = overview.pods.iter().map(|pod| (pod.instance.as_str(), pod.plugins.clone())).collect();
        let named = PluginStatus { name: "webhook".into(), ..PluginStatus::default() };
        let older = PluginStatus { types: vec!["fax".into()], ..named.clone() };
        let expected = [("newer", vec![named]), ("now", vec![plugin]), ("older", vec![older]), ("strange", vec![])];
        assert_eq!(listed, expected);
        assert_eq!(overview.served_types(&[]), ["fax", "mail"]);
    }

    pub(super) async fn failures_of_items_that_wait_are_grouped_like_those_of_dead_ones(f: Fixture) {
        for (key, message) in [("a", "no answer for 17"), ("b", "no answer for 18"), ("c", "the address is wrong")] {
            f.enqueue(item(key)).await;
            let claim = f.claim_one("mail").await;
            let failure = Failure::new(FailureClass::Retryable, "http", message);
            let settlement = Settlement::Retry { failure, delay: Duration::from_hours(1) };
            f.store.settle(&claim.reference(), settled(settlement)).await.unwrap();
            f.clock.advance(Duration::from_secs(1));
        }
        let waiting = f.enqueue(item("fresh")).await;
        let retrying = async |filter: Filter| f.store.retrying_failures(&filter, 10).await.unwrap();
        let groups = retrying(Filter::default()).await;
        let about = |group: &FailureGroup| (group.count, group.first_at, group.message.clone().unwrap());
        let [many, one] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!(about(many), (2, START, "no answer for 18".to_owned()));
        assert_eq!(about(one), (1, after_start(2_000), "the address is wrong".to_owned()));
        let of_type = |word: &str| Filter { r#type: Some(word.into()), ..Filter::default() };
        assert_eq!((retrying(of_type("mail")).await.len(), retrying(of_type("sms")).await.len()), (2, 0));
        assert_eq!(f.store.failures(&Filter::default(), 10).await.unwrap(), []);
        assert!(groups.iter().all(|group| group.sample != waiting));
    }

    pub(super) async fn open_breakers_of_processes_are_stuck_types_until_they_close(f: Fixture) {
        for key in ["a", "b", "c"] {
            f.enqueue(item(key)).await;
        }
        let open_for = |open_for_ms, state| BreakerStatus {
            cause: "connection refused".into(),
            items: 20,
            open_for_ms,
            origin: Some("https://a".into()),
            state,
            types: vec!["mail".into(), "sms".into()],
        };
        let pod = |instance: &str, breakers| Pod {
            instance: instance.into(),
            role: None,
            ready: true,
            heartbeat_at: START,
            plugins: vec![],
            breakers,
        };
        f.store.heartbeat(&pod("pod-1", vec![open_for(30_000, BreakerState::Open)])).await.unwrap();
        f.store.heartbeat(&pod("pod-2", vec![open_for(10_000, BreakerState::Open)])).await.unwrap();
        f.store.heartbeat(&pod("pod-3", vec![open_for(99_000, BreakerState::Closing)])).await.unwrap();
        let breakers = f.store.overview().await.unwrap().pods.into_iter().map(|pod| pod.breakers.len());
        assert_eq!(breakers.collect::<Vec<_>>(), [1, 1, 1]);
        let stuck = || async { f.store.stuck(&StuckQuery::default()).await.unwrap() };
        let found: Vec<_> = stuck().await.into_iter().filter(|entry| entry.kind == StuckKind::Breaker).collect();
        let about = |entry: &StuckEntry| (entry.r#type.clone().unwrap(), entry.waiting, entry.since);
        let since = START.saturating_sub(Duration::from_secs(30));
        assert_eq!(found.iter().map(about).collect::<Vec<_>>(), [("mail".into(), 3, since), ("sms".into(), 0, since)]);
        let why = &found[0].why;
        assert!(
            why.contains("https://a") && why.contains("2 processes") && why.ends_with("connection refused"),
            "{why}"
        );
        for instance in ["pod-1", "pod-2"] {
            f.store.heartbeat(&pod(instance, vec![])).await.unwrap();
        }
        assert!(!stuck().await.iter().any(|entry| entry.kind == StuckKind::Breaker));
    }

    pub(super) async fn a_component_is_quarantined_for_every_process_until_somebody_releases_it(f: Fixture) {
        f.store.quarantine("abc", "mail", "it traps").await.unwrap();
        f.clock.advance(Duration::from_secs(1));
        f.store.quarantine("abc", "mail", "another reason").await.unwrap();
        f.store.quarantine("def", "sms", "it eats memory").await.unwrap();
        let found = f.second().await.list_quarantine().await.unwrap();
        let found: Vec<_> =
            found.iter().map(|e| (e.digest.as_str(), e.reason.as_str(), e.at, e.pod.as_str())).collect();
        assert_eq!(found, [("def", "it eats memory", after_start(1000), "pod-1"), ("abc", "it traps", START, "pod-1")]);
        assert!(f.second().await.lift_quarantine("abc", "ada@host", Some("rebuilt")).await.unwrap());
        assert!(!f.store.lift_quarantine("abc", "ada@host", None).await.unwrap(), "it is released already");
        assert_eq!(f.store.list_quarantine().await.unwrap().len(), 1);
        let audit = f.store.audit(&AuditQuery::default()).await.unwrap().remove(0);
        assert_eq!((audit.actor.as_str(), audit.action.as_str()), ("ada@host", "release-plugin"));
        assert_eq!((audit.reason.as_deref(), &audit.selection), (Some("rebuilt"), &json!({ "digest": "abc" })));
        assert_eq!(audit.changes[0]["reason"], "it traps");
    }

    pub(super) async fn a_rollback_by_an_operator_quarantines_the_component_and_is_audited(f: Fixture) {
        let roll_back = ControlRequest {
            control: Control::RollBack { plugin: "mail".into(), digest: "abc".into() },
            actor: "ada@host".into(),
            reason: Some("night".into()),
            execution: Execution::Apply,
        };
        let preview = ControlRequest { execution: Execution::DryRun, ..roll_back.clone() };
        assert!(f.store.control(&preview).await.unwrap().changed);
        assert!(f.store.list_quarantine().await.unwrap().is_empty());
        assert!(f.store.control(&roll_back).await.unwrap().changed);
        assert!(!f.store.control(&roll_back).await.unwrap().changed, "it is quarantined already");
        let entry = f.second().await.list_quarantine().await.unwrap().remove(0);
        assert_eq!((entry.digest.as_str(), entry.plugin.as_str()), ("abc", "mail"));
        assert_eq!(entry.reason, "rolled back by ada@host: night");
        let audit = f.store.audit(&AuditQuery::default()).await.unwrap();
        assert_eq!((audit.len(), audit[0].action.as_str(), audit[0].actor.as_str()), (1, "rollback", "ada@host"));
    }

    pub(super) async fn inspection_changes_nothing(f: Fixture) {
        f.enqueue(item("k")).await;
        let before = f.dump();
        all(&*f.store).await;
        f.store.get(ItemId::new(1)).await.unwrap();
        f.store.signals(SignalSeq::START, 10).await.unwrap();
        f.store.overview().await.unwrap();
        assert_eq!(before, f.dump());
    }

    pub(super) async fn another_process_sees_the_same_outbox(f: Fixture) {
        let other = f.second().await;
        let mut changes = other.subscribe();
        changes.mark_unchanged();
        let id = f.enqueue(item("k")).await;
        tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
        assert_eq!(other.get(id).await.unwrap().unwrap().item.idem_key, "k");
        let page = other.list(&Filter::default(), &Page { limit: 1, before: Some(id) }).await.unwrap().items;
        assert!(page.is_empty());
    }
}
