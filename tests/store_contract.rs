//! The promises of every store, one test for each promise.

use std::time::Duration;

use outbox::core::{
    Failure, FailureClass, HostWrites, OnDead, PluginState, PluginStatus, RecordedBody, RecordedExchange,
    RecordedResponse, Recording, Settlement, StateChange, StateKeyChange,
};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{
    Action, AuditQuery, BatchMode, EffectKeys, Execution, Filter, OperateRequest, Page, Pod, Selection, SignalSeq,
    StoreError,
};
use serde_json::json;

use crate::support::{Fixture, START, after_start, all, dead, done, failure, item, request, retry, settled};

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

mod leases;
mod operations;
mod places;
mod replay;
mod retention;
mod state;
mod together;
mod transfer;

promises! {
    an_item_lives_from_pending_through_claimed_to_done
    the_same_key_with_the_same_content_returns_the_first_id
    the_same_key_with_other_content_is_a_conflict_and_stores_nothing
    a_write_of_several_items_is_created_whole_or_not_at_all
    a_batch_keeps_what_exists_and_creates_the_rest
    an_invalid_item_refuses_the_batch_and_is_named
    an_item_that_nobody_has_correlated_is_found_by_its_own_key
    an_item_is_claimed_by_one_worker_only
    a_delayed_item_is_not_claimed_before_its_time
    only_the_types_asked_for_are_claimed
    no_type_starves_another
    a_claim_never_exceeds_its_limit_or_the_types_concurrency
    a_rate_limits_claims_per_second
    an_expired_claim_is_claimable_and_the_old_claim_cannot_complete
    a_settlement_is_accepted_after_the_lease_while_nobody_took_over
    a_retry_waits_counts_and_has_a_history_row
    a_give_back_waits_but_does_not_count
    a_release_leaves_no_trace
    an_item_that_is_lost_too_often_is_dead_lettered_by_the_claim_that_finds_it
    items_of_one_ordering_key_are_handled_one_at_a_time_in_order
    a_dead_head_blocks_its_ordering_key_or_is_skipped
    a_replay_starts_a_new_life_and_keeps_the_history
    what_a_failed_attempt_sent_and_was_answered_is_in_its_history
    an_order_is_refused_where_the_status_forbids_it_and_a_dry_run_changes_nothing
    a_purge_takes_finished_items_and_their_history_only
    saga_signals_begin_and_end_once_per_run
    totals_follow_every_transition
    the_plugins_of_a_pod_of_another_version_are_read_as_far_as_possible
    state_and_followups_commit_with_done_or_not_at_all
    a_component_is_quarantined_for_every_process_until_somebody_releases_it
    inspection_changes_nothing
    another_process_sees_the_same_outbox
}

fn operate_request(action: Action, selection: Selection) -> OperateRequest {
    OperateRequest {
        action,
        selection,
        actor: "ada@host".into(),
        reason: Some("repaired".into()),
        execution: Execution::Apply,
    }
}

const REPLAY: Action = Action::Replay { keys: EffectKeys::Same };

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

    pub(super) async fn the_same_key_with_the_same_content_returns_the_first_id(f: Fixture) {
        let first = f.enqueue(item("k")).await;
        let mut again = item("k");
        again.cid = Some("another".into());
        again.headers.insert("tenant".into(), "b".into());
        assert_eq!(f.enqueue(again).await, first);
        assert_eq!(all(&*f.store).await.len(), 1);
    }

    pub(super) async fn the_same_key_with_other_content_is_a_conflict_and_stores_nothing(f: Fixture) {
        let first = f.enqueue(item("k")).await;
        for change in [
            |i: &mut NewItem| i.payload = b"{}".to_vec(),
            |i: &mut NewItem| i.item_type = "sms".into(),
            |i: &mut NewItem| i.content_type = "text/plain".into(),
            |i: &mut NewItem| i.saga = Some("S".into()),
            |i: &mut NewItem| i.ordering_key = Some("o".into()),
        ] {
            let mut other = item("k");
            change(&mut other);
            let err = f.store.enqueue(vec![item("new"), other], BatchMode::PerItem).await.unwrap_err();
            assert!(matches!(err, StoreError::Conflict { index: 1, first: id, .. } if id == first), "{err}");
        }
        assert_eq!(all(&*f.store).await.len(), 1);
    }

    pub(super) async fn a_write_of_several_items_is_created_whole_or_not_at_all(f: Fixture) {
        let write = vec![item("k:a"), item("k:b")];
        let first = f.store.enqueue(write.clone(), BatchMode::AllOrNothing).await.unwrap();
        assert_eq!(first.created, 2);
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        f.store.operate(&operate_request(Action::Purge, by_status(Status::Done))).await.unwrap();
        let again = f.store.enqueue(write, BatchMode::AllOrNothing).await.unwrap();
        assert_eq!((again.created, again.ids), (0, vec![None, first.ids[1]]));
    }

    pub(super) async fn a_batch_keeps_what_exists_and_creates_the_rest(f: Fixture) {
        let first = f.enqueue(item("a")).await;
        let batch = f.store.enqueue(vec![item("a"), item("b"), item("b")], BatchMode::PerItem).await.unwrap();
        assert_eq!((batch.created, batch.ids[0], batch.ids[1] == batch.ids[2]), (1, Some(first), true));
        let seventh = f.enqueue(item("m7")).await;
        let many = (0..40).map(|n| item(&format!("m{}", n % 30))).collect();
        let batch = f.store.enqueue(many, BatchMode::PerItem).await.unwrap();
        assert_eq!((batch.created, batch.ids[7]), (29, Some(seventh)));
        assert_eq!(batch.ids[30..], batch.ids[..10]);
        for (n, id) in batch.ids.iter().enumerate() {
            assert_eq!(f.item(id.unwrap()).await.idem_key, format!("m{}", n % 30));
        }
    }

    pub(super) async fn an_invalid_item_refuses_the_batch_and_is_named(f: Fixture) {
        let err = f.store.enqueue(vec![item("a"), item("")], BatchMode::PerItem).await.unwrap_err();
        assert!(matches!(err, StoreError::Invalid(at) if at.index == 1 && at.source.field == "idem_key"));
        assert!(all(&*f.store).await.is_empty());
    }

    pub(super) async fn an_item_is_claimed_by_one_worker_only(f: Fixture) {
        for n in 0..50 {
            f.enqueue(item(&n.to_string())).await;
        }
        let other = f.second().await;
        let request = request(&["mail"], 50);
        let (mine, theirs) = tokio::join!(f.store.claim(&request), other.claim(&request));
        let mut ids: Vec<_> =
            [mine.unwrap().claims, theirs.unwrap().claims].concat().iter().map(|c| c.item.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 50);
    }

    pub(super) async fn a_delayed_item_is_not_claimed_before_its_time(f: Fixture) {
        let mut late = item("k");
        late.delay = Duration::from_secs(5);
        f.enqueue(late).await;
        let early = f.store.claim(&request(&["mail"], 1)).await.unwrap();
        assert_eq!((early.claims.len(), early.next_available_in), (0, Some(Duration::from_secs(5))));
        f.clock.advance(Duration::from_secs(5));
        assert_eq!(f.claim("mail", 1).await.len(), 1);
    }

    pub(super) async fn only_the_types_asked_for_are_claimed(f: Fixture) {
        f.enqueue(NewItem::new("sms", "s", "{}")).await;
        assert!(f.claim("mail", 10).await.is_empty());
        assert_eq!(f.claim("sms", 10).await.len(), 1);
    }

    pub(super) async fn no_type_starves_another(f: Fixture) {
        for n in 0..20 {
            f.enqueue(item(&n.to_string())).await;
        }
        f.enqueue(NewItem::new("sms", "s", "{}")).await;
        let claims = f.store.claim(&request(&["mail", "sms"], 10)).await.unwrap().claims;
        assert_eq!(claims.len(), 10);
        assert_eq!(claims.iter().filter(|claim| claim.item.item_type == "sms").count(), 1);
    }

    pub(super) async fn a_claim_never_exceeds_its_limit_or_the_types_concurrency(f: Fixture) {
        for n in 0..10 {
            f.enqueue(item(&n.to_string())).await;
        }
        assert_eq!(f.claim("mail", 3).await.len(), 3);
        let capped = || {
            let mut capped = request(&["mail"], 10);
            capped.types[0].concurrency = Some(5);
            capped
        };
        assert_eq!(f.store.claim(&capped()).await.unwrap().claims.len(), 2);
        assert_eq!(f.second().await.claim(&capped()).await.unwrap().claims.len(), 0);
    }

    pub(super) async fn a_rate_limits_claims_per_second(f: Fixture) {
        for n in 0..10 {
            f.enqueue(item(&n.to_string())).await;
        }
        let limited = || {
            let mut limited = request(&["mail"], 10);
            limited.types[0].rate = Some(2.0);
            limited
        };
        let first = f.store.claim(&limited()).await.unwrap();
        assert_eq!((first.claims.len(), first.next_available_in), (2, Some(Duration::from_millis(500))));
        assert_eq!(f.store.claim(&limited()).await.unwrap().claims.len(), 0);
        f.clock.advance(Duration::from_millis(500));
        assert_eq!(f.store.claim(&limited()).await.unwrap().claims.len(), 1);
        f.clock.advance(Duration::from_mins(1));
        assert_eq!(f.store.claim(&limited()).await.unwrap().claims.len(), 2);
    }

    pub(super) async fn an_expired_claim_is_claimable_and_the_old_claim_cannot_complete(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let old = f.claim_one("mail").await;
        f.clock.advance(Duration::from_mins(1));
        let new = f.claim_one("mail").await;
        assert_eq!((new.item.attempts, new.item.maybe_executed), (2, true));
        let late = f.store.settle(&old.reference(), done()).await.unwrap_err();
        assert!(matches!(late, StoreError::ClaimLost));
        assert_eq!(f.status(id).await, Status::Claimed);
        f.store.settle(&new.reference(), done()).await.unwrap();
        let twice = f.store.settle(&new.reference(), done()).await.unwrap_err();
        assert!(matches!(twice, StoreError::ClaimLost));
        let history = f.store.get(id).await.unwrap().unwrap().failed_attempts;
        assert_eq!(history.len(), 1);
        assert_eq!((history[0].class, history[0].attempt, history[0].pod.as_str()), (FailureClass::Lost, 1, "pod-1"));
    }

    pub(super) async fn a_settlement_is_accepted_after_the_lease_while_nobody_took_over(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.clock.advance(Duration::from_secs(61));
        f.store.settle(&claim.reference(), done()).await.unwrap();
        assert_eq!(f.status(id).await, Status::Done);
    }

    pub(super) async fn a_retry_waits_counts_and_has_a_history_row(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        let mut settled = retry(Duration::from_secs(2));
        settled.stderr = Some("it broke".into());
        settled.maybe_executed = true;
        f.store.settle(&claim.reference(), settled).await.unwrap();
        assert!(f.claim("mail", 1).await.is_empty());
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.item.maybe_executed), (Status::Pending, 1, true));
        assert_eq!(shown.item.available_at, after_start(2_000));
        assert_eq!(shown.item.last_error.as_deref(), Some("the receiver is down"));
        let row = &shown.failed_attempts[0];
        assert_eq!(
            (row.class, row.code.as_str(), row.stderr.as_deref()),
            (FailureClass::Retryable, "upstream.503", Some("it broke"))
        );
        f.clock.advance(Duration::from_secs(2));
        assert_eq!(f.claim_one("mail").await.item.attempts, 2);
    }

    pub(super) async fn a_give_back_waits_but_does_not_count(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for round in 1..=5 {
            let claim = f.claim_one("mail").await;
            assert_eq!((claim.item.attempts, claim.item.deliveries), (1, round));
            let failure = Failure::new(FailureClass::Deferred, "not.now", "later");
            let back = settled(Settlement::GiveBack { failure, delay: Duration::from_secs(1) });
            f.store.settle(&claim.reference(), back).await.unwrap();
            f.clock.advance(Duration::from_secs(1));
        }
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.attempts, shown.failed_attempts.len()), (0, 5));
        assert_eq!(shown.item.given_back_since, Some(START));
    }

    pub(super) async fn a_release_leaves_no_trace(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), settled(Settlement::Release)).await.unwrap();
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.item.deliveries), (Status::Pending, 0, 1));
        assert!(shown.failed_attempts.is_empty());
        assert_eq!(f.claim("mail", 1).await.len(), 1);
    }

    pub(super) async fn an_item_that_is_lost_too_often_is_dead_lettered_by_the_claim_that_finds_it(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for attempt in 1..=3 {
            assert_eq!(f.claim_one("mail").await.item.attempts, attempt);
            f.clock.advance(Duration::from_mins(1));
        }
        assert!(f.claim("mail", 1).await.is_empty());
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.failed_attempts.len()), (Status::Dlq, 3, 3));
        assert!(shown.item.last_error.unwrap().contains("lease"));
    }

    fn keyed(key: &str, ordering_key: &str) -> NewItem {
        NewItem { ordering_key: Some(ordering_key.into()), ..item(key) }
    }

    pub(super) async fn items_of_one_ordering_key_are_handled_one_at_a_time_in_order(f: Fixture) {
        let first = f.enqueue(keyed("1", "o")).await;
        let second = f.enqueue(keyed("2", "o")).await;
        let other = f.enqueue(keyed("3", "p")).await;
        let claims = f.claim("mail", 10).await;
        assert_eq!(claims.iter().map(|claim| claim.item.id).collect::<Vec<_>>(), [first, other]);
        f.store.settle(&claims[0].reference(), retry(Duration::from_secs(1))).await.unwrap();
        assert!(f.claim("mail", 10).await.is_empty(), "a head that retries holds what is behind it");
        f.clock.advance(Duration::from_secs(1));
        let head = f.claim_one("mail").await;
        assert_eq!(head.item.id, first);
        f.store.settle(&head.reference(), done()).await.unwrap();
        assert_eq!(f.claim_one("mail").await.item.id, second);
    }

    pub(super) async fn a_dead_head_blocks_its_ordering_key_or_is_skipped(f: Fixture) {
        for (policy, behind) in [(OnDead::Block, 0), (OnDead::Skip, 1)] {
            let key = format!("{policy:?}");
            f.enqueue(keyed(&format!("{key}1"), &key)).await;
            f.enqueue(keyed(&format!("{key}2"), &key)).await;
            let claim = f.claim_one("mail").await;
            let dead = settled(Settlement::Dead { failure: failure(), on_dead: policy });
            f.store.settle(&claim.reference(), dead).await.unwrap();
            assert_eq!(f.claim("mail", 10).await.len(), behind, "{policy:?}");
        }
        f.store.operate(&operate_request(Action::Purge, by_status(Status::Dlq))).await.unwrap();
        assert_eq!(f.claim("mail", 10).await.len(), 1, "a purged head blocks nothing");
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

    pub(super) async fn what_a_failed_attempt_sent_and_was_answered_is_in_its_history(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let answer = RecordedResponse::Response {
            status: 503,
            headers: vec![("a".into(), "b".into())],
            body: RecordedBody::whole(vec![0xff]),
        };
        let (method, url) = ("POST".to_owned(), "http://a/b".to_owned());
        let exchange = RecordedExchange {
            method,
            url,
            effect: None,
            headers: vec![],
            body: RecordedBody::whole("{}"),
            answer: Some(answer),
        };
        let recording = Recording { exchanges: vec![exchange], omitted: 3 };
        for kept in [recording, Recording::default()] {
            let claim = f.claim_one("mail").await;
            let settled = outbox::store::SettleRequest { exchanges: kept.compress(), ..retry(Duration::ZERO) };
            f.store.settle(&claim.reference(), settled).await.unwrap();
            let shown = f.store.get(id).await.unwrap().unwrap();
            assert_eq!(shown.failed_attempts.last().unwrap().recording, kept);
            f.clock.advance(Duration::from_secs(1));
        }
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
        let pod =
            Pod { instance: "now".into(), role: None, ready: true, heartbeat_at: START, plugins: vec![plugin.clone()] };
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

    pub(super) async fn state_and_followups_commit_with_done_or_not_at_all(f: Fixture) {
        let writes = |read_version, value: &str| HostWrites {
            plugin: "p".into(),
            state: vec![StateKeyChange { key: "n".into(), read_version, change: StateChange::Put(value.into()) }],
            state_quota: 1 << 20,
            followups: vec![NewItem::new("sms", "k/sms/1", "{}")],
        };
        let finish = |writes| settled(Settlement::Done { result: None, writes });
        for key in ["a", "b"] {
            f.enqueue(item(key)).await;
        }
        let claims = f.claim("mail", 2).await;
        f.store.settle(&claims[0].reference(), finish(writes(None, "1"))).await.unwrap();
        let (value, version) = f.store.read_state("p", "n").await.unwrap();
        assert_eq!(value.as_deref(), Some(&b"1"[..]));
        let stale = f.store.settle(&claims[1].reference(), finish(writes(None, "2"))).await.unwrap_err();
        assert!(matches!(stale, StoreError::StateConflict { ref key, .. } if key == "n"), "{stale}");
        assert_eq!(f.status(claims[1].item.id).await, Status::Claimed, "the claim still holds");
        f.store.settle(&claims[1].reference(), finish(writes(version, "2"))).await.unwrap();
        assert_eq!(f.store.read_state("p", "n").await.unwrap().0.as_deref(), Some(&b"2"[..]));
        assert_eq!(f.claim("sms", 9).await.len(), 1, "a follow-up that exists is kept");
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

    pub(super) async fn an_item_that_nobody_has_correlated_is_found_by_its_own_key(f: Fixture) {
        let correlated = |key: &str, cid: &str| NewItem { cid: Some(cid.into()), ..item(key) };
        let alone = f.enqueue(item("k")).await;
        let caused = f.enqueue(correlated("l", "k")).await;
        let step = f.enqueue(NewItem { saga: Some("S".into()), ..item("m") }).await;
        f.enqueue(correlated("n", "l")).await;
        assert_eq!(f.item(alone).await.cid, "k");
        for (cid, expected) in [("k", vec![caused, alone]), ("m", vec![step]), ("o", vec![])] {
            let filter = Filter { cid: Some(cid.into()), ..Filter::default() };
            let found = f.store.list(&filter, &Page { limit: 9, before: None }).await.unwrap();
            assert_eq!(found.iter().map(|item| item.id).collect::<Vec<_>>(), expected, "{cid}");
        }
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
        let page = other.list(&Filter::default(), &Page { limit: 1, before: Some(id) }).await.unwrap();
        assert!(page.is_empty());
    }
}
