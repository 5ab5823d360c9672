//! The promises of every store about operators' actions.

use std::time::Duration;

use outbox::core::{FailureClass, OnDead, Settlement};
use outbox::item::{ItemId, Millis, NewItem, Status};
use outbox::store::{
    AUDIT_VALUE_MAX, Action, AuditQuery, Control, ControlRequest, Execution, Filter, JobId, JobState, LeasePolicy,
    MisplacedItem, OperateRequest, Selection, SignalSeq, Store, StuckKind, StuckQuery,
};

use super::{REPLAY, by_status, operate_request};
use crate::support::{Fixture, START, after_start, dead, done, item, request, retry, settled};

promises! {
    an_operators_dead_takes_pending_items_and_ended_claims_and_a_running_one_by_force_only
    a_restore_undoes_an_operators_dead_and_nothing_else
    a_reschedule_moves_pending_items_only
    an_item_that_a_request_names_twice_is_changed_and_audited
    a_long_audit_entry_has_its_size_in_the_trail_and_the_part_of_an_item_in_that_of_the_item
    a_release_by_an_operator_counts_and_says_that_the_attempt_may_be_acting
    done_is_never_dead_lettered
    a_dead_head_is_unblocked_and_audited
    a_replayed_item_takes_its_old_place_and_waits_for_the_one_that_is_claimed
    items_inserted_behind_a_head_by_any_process_are_held
    a_paused_type_is_not_claimed_until_it_is_resumed
    a_job_takes_what_was_in_the_state_when_it_began_and_each_item_once
    a_job_takes_items_that_were_claimed_before_it_began_and_none_that_were_claimed_later
    an_unblocked_key_goes_on_after_the_item_that_is_claimed
    an_item_that_is_replayed_waits_for_no_dead_item_behind_it
    a_job_is_resumed_by_another_process_and_its_count_is_true
    two_processes_that_work_on_one_job_make_each_batch_once
    a_job_keeps_to_its_rate
    a_cancelled_job_changes_nothing_more
    failures_are_grouped_by_what_they_have_in_common_and_a_group_is_replayed
    what_is_stuck_is_explained_with_the_command_that_helps
    an_item_without_a_status_is_reported_and_a_restore_takes_it_back
    every_action_is_audited_with_before_and_after
    a_dry_run_of_anything_changes_nothing
    what_is_stored_and_cannot_be_read_is_shown_as_its_text
}

const FORCED: Action = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Break };
const CAREFUL: Action = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Respect };

fn keyed(key: &str, ordering_key: &str) -> NewItem {
    NewItem { ordering_key: Some(ordering_key.into()), ..item(key) }
}

fn command(control: Control) -> ControlRequest {
    ControlRequest { control, actor: "ada@host".into(), reason: Some("night".into()), execution: Execution::Apply }
}

fn unblock(key: &str) -> ControlRequest {
    command(Control::Unblock { ordering_key: key.into() })
}

fn of_status(status: Status) -> Filter {
    Filter { status: vec![status], ..Filter::default() }
}

/// Performs the action on one item; the error is the reason of a refusal.
async fn operate(f: &Fixture, action: Action, id: ItemId) -> Result<(), String> {
    let mut report = f.store.operate(&operate_request(action, Selection::Ids(vec![id]))).await.unwrap();
    report.refused.pop().map_or(Ok(()), |refusal| Err(refusal.reason.to_string()))
}

/// Enqueues items and dead-letters them.
async fn dead_items(f: &Fixture, keys: std::ops::Range<u32>) -> Vec<ItemId> {
    let mut ids = Vec::new();
    for key in keys {
        ids.push(f.enqueue(item(&key.to_string())).await);
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
    }
    ids
}

mod promise {
    use super::*;

    pub(super) async fn an_operators_dead_takes_pending_items_and_ended_claims_and_a_running_one_by_force_only(
        f: Fixture,
    ) {
        let pending = f.enqueue(item("a")).await;
        operate(&f, CAREFUL, pending).await.unwrap();
        let shown = f.store.get(pending).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.item.deliveries), (Status::Dlq, 0, 1));
        assert_eq!((shown.failed_attempts[0].class, shown.item.maybe_executed), (FailureClass::Operator, false));
        assert!(shown.item.last_error.unwrap().contains("repaired"), "the reason is in the history");

        let claimed = f.enqueue(item("b")).await;
        let claim = f.claim_one("mail").await;
        assert!(operate(&f, CAREFUL, claimed).await.unwrap_err().contains("still be acting"));
        operate(&f, FORCED, claimed).await.unwrap();
        assert!(f.store.settle(&claim.reference(), done()).await.is_err(), "the claim was taken");
        let taken = f.item(claimed).await;
        assert_eq!((taken.status, taken.attempts, taken.deliveries, taken.maybe_executed), (Status::Dlq, 1, 1, true));

        let ended = f.enqueue(item("c")).await;
        f.claim_one("mail").await;
        f.clock.advance(Duration::from_mins(1));
        operate(&f, CAREFUL, ended).await.unwrap();
        assert_eq!(f.status(ended).await, Status::Dlq);
    }

    pub(super) async fn a_restore_undoes_an_operators_dead_and_nothing_else(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), retry(Duration::from_secs(30))).await.unwrap();
        let before = f.item(id).await;
        operate(&f, CAREFUL, id).await.unwrap();
        operate(&f, Action::Restore, id).await.unwrap();
        let after = f.item(id).await;
        assert_eq!(after, outbox::item::Item { deliveries: before.deliveries + 1, ..before });
        f.clock.advance(Duration::from_secs(30));
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        assert!(operate(&f, Action::Restore, id).await.unwrap_err().contains("replay"));
    }

    pub(super) async fn a_reschedule_moves_pending_items_only(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        operate(&f, Action::Reschedule { at: after_start(5_000) }, id).await.unwrap();
        assert!(f.claim("mail", 1).await.is_empty());
        operate(&f, Action::Reschedule { at: Millis::new(0) }, id).await.unwrap();
        assert_eq!(f.item(id).await.available_at, START, "a moment that has passed means now");
        assert_eq!(f.claim("mail", 1).await.len(), 1);
        assert!(operate(&f, Action::Reschedule { at: Millis::new(0) }, id).await.unwrap_err().contains("CLAIMED"));
    }

    pub(super) async fn an_item_that_a_request_names_twice_is_changed_and_audited(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let action = Action::Reschedule { at: after_start(60_000) };
        let report = f.store.operate(&operate_request(action, Selection::Ids(vec![id, id]))).await.unwrap();
        assert!(report.refused.is_empty(), "{report:?}");
        assert_eq!(f.item(id).await.available_at, after_start(60_000));
        let trail = f.store.audit(&AuditQuery { item: Some(id), ..AuditQuery::default() }).await.unwrap();
        assert_eq!(trail.len(), 1);
    }

    pub(super) async fn a_long_audit_entry_has_its_size_in_the_trail_and_the_part_of_an_item_in_that_of_the_item(
        f: Fixture,
    ) {
        let (first, last) = (f.enqueue(item("first")).await, f.enqueue(item("last")).await);
        let change = |id: ItemId| format!(r#"{{"id":{id},"after":"{}"}}"#, "x".repeat(AUDIT_VALUE_MAX as usize / 2));
        f.sql(&format!(
            "INSERT INTO outbox_audit (at, actor, action, selection, count, changes)
             VALUES (1, 'ada', 'reschedule', '{{}}', 2, '[{}, {}]');
             INSERT INTO outbox_audit_items (item_id, seq) SELECT {last}, max(seq) FROM outbox_audit",
            change(first),
            change(last)
        ))
        .unwrap();
        let all = f.store.audit(&AuditQuery::default()).await.unwrap().remove(0);
        assert!(all.changes["bytes"].as_u64().unwrap() > u64::from(AUDIT_VALUE_MAX), "{}", all.changes);
        let of_one = f.store.audit(&AuditQuery { item: Some(last), ..AuditQuery::default() }).await.unwrap().remove(0);
        assert_eq!(of_one.changes.as_array().unwrap().len(), 1, "{}", of_one.changes);
    }

    pub(super) async fn a_release_by_an_operator_counts_and_says_that_the_attempt_may_be_acting(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        let old = f.claim_one("mail").await;
        let careful = Action::Release { lease: LeasePolicy::Respect };
        assert!(operate(&f, careful, id).await.unwrap_err().contains("still be acting"));
        operate(&f, Action::Release { lease: LeasePolicy::Break }, id).await.unwrap();
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.item.maybe_executed), (Status::Pending, 1, true));
        assert_eq!(shown.failed_attempts[0].code, "operator.release");
        assert_eq!(f.claim_one("mail").await.item.attempts, 2);
        assert!(f.store.settle(&old.reference(), done()).await.is_err());
        assert!(operate(&f, careful, ItemId::new(99)).await.unwrap_err().contains("no such item"));
    }

    pub(super) async fn done_is_never_dead_lettered(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        for action in [FORCED, Action::Restore, Action::Release { lease: LeasePolicy::Break }] {
            assert!(operate(&f, action, id).await.unwrap_err().contains("it is DONE"), "{action:?}");
        }
    }

    pub(super) async fn a_dead_head_is_unblocked_and_audited(f: Fixture) {
        let head = f.enqueue(keyed("1", "o")).await;
        let behind = f.enqueue(keyed("2", "o")).await;
        operate(&f, CAREFUL, head).await.unwrap();
        assert!(f.claim("mail", 10).await.is_empty());
        assert_eq!(f.store.overview().await.unwrap().blocked_keys, 1);
        let unblocked = f.store.control(&unblock("o")).await.unwrap();
        assert_eq!((unblocked.changed, unblocked.items), (true, vec![head]));
        assert_eq!(f.claim_one("mail").await.item.id, behind);
        assert_eq!(f.status(head).await, Status::Dlq);
        assert!(!f.store.control(&unblock("o")).await.unwrap().changed);
        let entry = f.store.get(head).await.unwrap().unwrap().audit.pop().unwrap();
        assert_eq!((entry.action.as_str(), entry.reason.as_deref()), ("unblock", Some("night")));
        assert_eq!(entry.changes[0]["before"]["blocks_key"], true);
    }

    pub(super) async fn a_replayed_item_takes_its_old_place_and_waits_for_the_one_that_is_claimed(f: Fixture) {
        let ids =
            [f.enqueue(keyed("1", "o")).await, f.enqueue(keyed("2", "o")).await, f.enqueue(keyed("3", "o")).await];
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        let second = f.claim_one("mail").await;
        operate(&f, REPLAY, ids[0]).await.unwrap();
        assert!(f.claim("mail", 10).await.is_empty(), "one at a time, whatever was replayed meanwhile");
        f.store.settle(&second.reference(), retry(Duration::from_millis(1))).await.unwrap();
        f.clock.advance(Duration::from_secs(1));
        for id in ids {
            let claim = f.claim_one("mail").await;
            assert_eq!(claim.item.id, id);
            assert!(f.claim("mail", 10).await.is_empty());
            f.store.settle(&claim.reference(), done()).await.unwrap();
        }
    }

    pub(super) async fn items_inserted_behind_a_head_by_any_process_are_held(f: Fixture) {
        let other = f.second().await;
        let first = f.enqueue(keyed("1", "o")).await;
        other.enqueue(vec![keyed("2", "o"), keyed("3", "p")], outbox::store::BatchMode::PerItem).await.unwrap();
        let claims = other.claim(&request(&["mail"], 10)).await.unwrap().claims;
        assert_eq!(claims.iter().map(|claim| claim.item.id).collect::<Vec<_>>(), [first, ItemId::new(3)]);
        f.store.settle(&claims[0].reference(), done()).await.unwrap();
        assert_eq!(other.claim(&request(&["mail"], 10)).await.unwrap().claims[0].item.id, 2);
    }

    pub(super) async fn a_paused_type_is_not_claimed_until_it_is_resumed(f: Fixture) {
        f.enqueue(item("a")).await;
        let late = NewItem { delay: Duration::from_secs(5), ..item("b") };
        f.enqueue(late).await;
        let pause = command(Control::Pause { item_type: "mail".into() });
        assert!(f.store.control(&pause).await.unwrap().changed);
        assert!(!f.store.control(&pause).await.unwrap().changed, "it was paused already");
        let nothing = f.second().await.claim(&request(&["mail"], 10)).await.unwrap();
        assert_eq!((nothing.claims.len(), nothing.next_available_in), (0, None));
        let pauses = f.store.pauses().await.unwrap();
        assert_eq!((pauses[0].r#type.as_str(), pauses[0].actor.as_str()), ("mail", "ada@host"));
        f.store.control(&command(Control::Resume { item_type: "mail".into() })).await.unwrap();
        assert_eq!(f.claim("mail", 10).await.len(), 1);
        assert!(f.store.control(&command(Control::Pause { item_type: "No".into() })).await.is_err());
    }

    pub(super) async fn a_job_takes_what_was_in_the_state_when_it_began_and_each_item_once(f: Fixture) {
        let ids = dead_items(&f, 0..3).await;
        let job = f.store.start_job(&operate_request(REPLAY, by_status(Status::Dlq)), Some(1)).await.unwrap().unwrap();
        assert_eq!((job.state, job.matched), (JobState::Running, 3));
        f.store.run_job_batch(job.id).await.unwrap();
        assert_eq!(f.status(ids[0]).await, Status::Pending);
        // The first item is dead-lettered again, the last is replayed and dead-lettered again, and a new item is
        // dead-lettered.
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        operate(&f, REPLAY, ids[2]).await.unwrap();
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        let late = dead_items(&f, 10..11).await;
        let ended = drive(&f, &*f.store, job.id).await;
        assert_eq!((ended.state, ended.changed, ended.sample), (JobState::Done, 2, ids[..2].to_vec()));
        assert_eq!((f.status(ids[0]).await, f.item(ids[0]).await.replays), (Status::Dlq, 1));
        assert_eq!((f.status(ids[2]).await, f.item(ids[2]).await.replays), (Status::Dlq, 1));
        assert_eq!(f.status(late[0]).await, Status::Dlq);
    }

    pub(super) async fn a_job_takes_items_that_were_claimed_before_it_began_and_none_that_were_claimed_later(
        f: Fixture,
    ) {
        let [before, later] = [f.enqueue(item("before")).await, f.enqueue(item("later")).await];
        f.claim("mail", 1).await;
        let release = Action::Release { lease: LeasePolicy::Break };
        let job =
            f.store.start_job(&operate_request(release, by_status(Status::Claimed)), Some(1)).await.unwrap().unwrap();
        let claim = f.claim_one("mail").await;
        assert_eq!(claim.item.id, later);
        let ended = drive(&f, &*f.store, job.id).await;
        assert_eq!((ended.changed, ended.sample), (1, vec![before]));
        assert_eq!((f.status(before).await, f.status(later).await), (Status::Pending, Status::Claimed));
    }

    pub(super) async fn an_unblocked_key_goes_on_after_the_item_that_is_claimed(f: Fixture) {
        let [first, second] = [f.enqueue(keyed("1", "o")).await, f.enqueue(keyed("2", "o")).await];
        f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
        operate(&f, REPLAY, first).await.unwrap();
        let claim = f.claim_one("mail").await;
        assert_eq!(claim.item.id, first);
        f.store.control(&unblock("o")).await.unwrap();
        assert!(f.claim("mail", 9).await.is_empty(), "one at a time");
        f.store.settle(&claim.reference(), retry(Duration::from_secs(1))).await.unwrap();
        assert!(f.claim("mail", 9).await.is_empty(), "the first item keeps its place");
        f.clock.advance(Duration::from_secs(1));
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        assert_eq!(f.claim_one("mail").await.item.id, second);
    }

    pub(super) async fn an_item_that_is_replayed_waits_for_no_dead_item_behind_it(f: Fixture) {
        let [first, second] = [f.enqueue(keyed("1", "o")).await, f.enqueue(keyed("2", "o")).await];
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
        let third = f.enqueue(keyed("3", "o")).await;
        operate(&f, REPLAY, first).await.unwrap();
        let claim = f.claim_one("mail").await;
        assert_eq!(claim.item.id, first);
        f.store.settle(&claim.reference(), done()).await.unwrap();
        assert!(f.claim("mail", 9).await.is_empty(), "the dead item blocks what is behind it");
        operate(&f, REPLAY, second).await.unwrap();
        for id in [second, third] {
            let claim = f.claim_one("mail").await;
            assert_eq!(claim.item.id, id);
            f.store.settle(&claim.reference(), done()).await.unwrap();
        }
    }

    /// Runs the batches of a job to its end, one each second of the test's clock.
    async fn drive(f: &Fixture, store: &dyn Store, id: JobId) -> outbox::store::Job {
        loop {
            let job = store.run_job_batch(id).await.unwrap().unwrap();
            if job.state != JobState::Running {
                return job;
            }
            f.clock.advance(Duration::from_secs(1));
        }
    }

    pub(super) async fn a_job_is_resumed_by_another_process_and_its_count_is_true(f: Fixture) {
        dead_items(&f, 0..450).await;
        let job = f.store.start_job(&operate_request(REPLAY, by_status(Status::Dlq)), None).await.unwrap().unwrap();
        let some = f.store.run_job_batch(job.id).await.unwrap().unwrap();
        assert!((1..450).contains(&some.changed), "a batch is a part: {}", some.changed);
        let other = f.second().await;
        other.run_maintenance(&outbox::store::Retention::default()).await.unwrap();
        let ended = other.jobs(Some(job.id), 1).await.unwrap().remove(0);
        assert_eq!((ended.state, ended.changed, ended.refused), (JobState::Done, 450, 0));
        let query = AuditQuery { job: Some(job.id), ..AuditQuery::default() };
        let entries = other.audit(&query).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.count).sum::<u64>(), 450);
        assert_eq!(other.overview().await.unwrap().by_status["PENDING"], 450);
    }

    pub(super) async fn two_processes_that_work_on_one_job_make_each_batch_once(f: Fixture) {
        dead_items(&f, 0..300).await;
        let job = f.store.start_job(&operate_request(REPLAY, by_status(Status::Dlq)), None).await.unwrap().unwrap();
        let other = f.second().await;
        for _ in 0..3 {
            let (mine, theirs) = tokio::join!(f.store.run_job_batch(job.id), other.run_job_batch(job.id));
            mine.unwrap();
            theirs.unwrap();
        }
        let ended = f.store.jobs(Some(job.id), 1).await.unwrap().remove(0);
        assert_eq!((ended.state, ended.changed), (JobState::Done, 300));
        let total: u64 = f.store.audit(&AuditQuery::default()).await.unwrap().iter().map(|entry| entry.count).sum();
        assert_eq!(total, 300);
    }

    pub(super) async fn a_job_keeps_to_its_rate(f: Fixture) {
        dead_items(&f, 0..7).await;
        let job = f.store.start_job(&operate_request(REPLAY, by_status(Status::Dlq)), Some(3)).await.unwrap().unwrap();
        for (second, changed) in [(0, 3), (0, 3), (1, 6), (2, 7)] {
            let now = after_start(second * 1000);
            let behind = u64::try_from(now.get() - f.store.now().await.unwrap().get()).unwrap();
            f.clock.advance(Duration::from_millis(behind));
            assert_eq!(f.store.run_job_batch(job.id).await.unwrap().unwrap().changed, changed, "in second {second}");
        }
        assert!(f.store.run_job_batch(JobId::new(99)).await.unwrap().is_none());
    }

    pub(super) async fn a_cancelled_job_changes_nothing_more(f: Fixture) {
        dead_items(&f, 0..2).await;
        let job = f.store.start_job(&operate_request(REPLAY, by_status(Status::Dlq)), Some(1)).await.unwrap().unwrap();
        f.store.run_job_batch(job.id).await.unwrap();
        f.store.control(&command(Control::Cancel { job: job.id })).await.unwrap();
        f.clock.advance(Duration::from_secs(5));
        let ended = f.store.run_job_batch(job.id).await.unwrap().unwrap();
        assert_eq!((ended.state, ended.changed), (JobState::Cancelled, 1));
        assert!(!f.store.control(&command(Control::Cancel { job: job.id })).await.unwrap().changed);
    }

    pub(super) async fn failures_are_grouped_by_what_they_have_in_common_and_a_group_is_replayed(f: Fixture) {
        for (key, message) in [("a", "no user 17"), ("b", "no user 4711"), ("c", "no money")] {
            f.enqueue(item(key)).await;
            let claim = f.claim_one("mail").await;
            let failure = outbox::core::Failure::new(FailureClass::Permanent, "refused", message);
            let dead = settled(Settlement::Dead { failure, on_dead: OnDead::Block });
            f.store.settle(&claim.reference(), dead).await.unwrap();
            f.clock.advance(Duration::from_secs(1));
        }
        let groups = f.store.failures(&Filter::default(), 10).await.unwrap();
        let counts: Vec<_> = groups.iter().map(|group| (group.count, group.message.as_deref())).collect();
        assert_eq!(counts, [(2, Some("no user 4711")), (1, Some("no money"))]);
        assert_eq!(
            (groups[0].first_at, groups[0].last_at, groups[0].code.as_deref()),
            (START, after_start(1_000), Some("refused"))
        );
        let group = Filter { fingerprint: Some(groups[0].fingerprint.clone()), ..of_status(Status::Dlq) };
        assert_eq!(f.store.operate(&operate_request(REPLAY, Selection::Filter(group))).await.unwrap().changed, 2);
        assert_eq!(f.store.failures(&Filter::default(), 10).await.unwrap().len(), 1);
    }

    pub(super) async fn what_is_stuck_is_explained_with_the_command_that_helps(f: Fixture) {
        let blocked = f.enqueue(keyed("1", "o")).await;
        f.enqueue(keyed("2", "o")).await;
        operate(&f, CAREFUL, blocked).await.unwrap();
        let late = f.enqueue(NewItem { delay: Duration::from_hours(9), ..keyed("3", "p") }).await;
        f.enqueue(keyed("4", "p")).await;
        let lost = f.enqueue(item("5")).await;
        f.claim_one("mail").await;
        for (key, item_type) in [("6", "sms"), ("7", "fax"), ("8", "push")] {
            f.enqueue(NewItem::new(item_type, key, "{}")).await;
        }
        f.store.control(&command(Control::Pause { item_type: "sms".into() })).await.unwrap();
        f.clock.advance(Duration::from_mins(10));
        let served = Some(vec!["mail".into(), "sms".into(), "push".into()]);
        let query = StuckQuery { served, attempts: 1, ..StuckQuery::default() };
        let stuck = f.store.stuck(&query).await.unwrap();
        let found = |kind| stuck.iter().find(|stuck| stuck.kind == kind).map(|stuck| stuck.command.clone());
        assert_eq!(found(StuckKind::ExpiredClaim), Some(format!("outbox release {lost}")));
        assert_eq!(found(StuckKind::Failing), Some(format!("outbox show {lost}")));
        assert_eq!(found(StuckKind::HeldKey), Some(format!("outbox reschedule {late} --in 0s")));
        assert_eq!(found(StuckKind::Paused).as_deref(), Some("outbox resume sms"));
        assert!(found(StuckKind::BlockedKey).unwrap().contains("outbox unblock 'o'"));
        let of = |kind| stuck.iter().find(|stuck| stuck.kind == kind).and_then(|stuck| stuck.r#type.as_deref());
        assert_eq!((of(StuckKind::Unhandled), of(StuckKind::Old)), (Some("fax"), Some("push")));
        assert!(stuck.iter().all(|stuck| !stuck.why.is_empty() && stuck.waiting >= 1), "{stuck:?}");
    }

    pub(super) async fn an_item_without_a_status_is_reported_and_a_restore_takes_it_back(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        f.enqueue(item("b")).await;
        assert!(f.store.misplaced(9).await.unwrap().is_empty());
        f.sql(&format!("DELETE FROM outbox_queue WHERE id = {id}")).unwrap();
        assert_eq!(f.store.misplaced(9).await.unwrap(), [MisplacedItem { id, places: 0 }]);
        let stuck = f.store.stuck(&StuckQuery::default()).await.unwrap();
        assert_eq!((stuck[0].kind, stuck[0].command.clone()), (StuckKind::Lost, format!("outbox restore {id}")));
        assert!(operate(&f, REPLAY, id).await.unwrap_err().contains("no such item"));
        operate(&f, Action::Restore, id).await.unwrap();
        assert!(f.store.misplaced(9).await.unwrap().is_empty());
        let restored = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((restored.item.status, restored.item.maybe_executed), (Status::Pending, true));
        assert_eq!(restored.audit.len(), 1);
        assert_eq!(f.claim("mail", 9).await.len(), 2);
    }

    pub(super) async fn every_action_is_audited_with_before_and_after(f: Fixture) {
        let id = dead_items(&f, 0..1).await[0];
        operate(&f, REPLAY, id).await.unwrap();
        operate(&f, Action::Reschedule { at: after_start(9_000) }, id).await.unwrap();
        operate(&f, CAREFUL, id).await.unwrap();
        f.store.operate(&operate_request(Action::Purge, by_status(Status::Dlq))).await.unwrap();
        let query = AuditQuery { item: Some(id), ..AuditQuery::default() };
        let entries = f.store.audit(&query).await.unwrap();
        let actions: Vec<_> = entries.iter().rev().map(|entry| (entry.action.as_str(), entry.count)).collect();
        assert_eq!(actions, [("replay", 1), ("reschedule", 1), ("dead", 1), ("purge", 1)]);
        assert!(entries.iter().all(|entry| entry.actor == "ada@host" && entry.reason.as_deref() == Some("repaired")));
        let replay = &entries[3].changes[0];
        assert_eq!((&replay["before"]["status"], &replay["after"]["status"]), (&"DLQ".into(), &"PENDING".into()));
        assert_eq!((&replay["before"]["attempts"], &replay["after"]["attempts"]), (&1.into(), &0.into()));
        assert_eq!(entries[2].changes[0]["after"], serde_json::json!({ "available_at": after_start(9_000) }));
        assert_eq!((entries[0].job, &entries[0].changes[0]["after"]), (Some(JobId::new(1)), &serde_json::Value::Null));
        let nobody = AuditQuery { actor: Some("eve".into()), ..AuditQuery::default() };
        assert!(f.store.audit(&nobody).await.unwrap().is_empty());
    }

    pub(super) async fn a_dry_run_of_anything_changes_nothing(f: Fixture) {
        dead_items(&f, 0..2).await;
        let head = f.enqueue(keyed("a", "o")).await;
        operate(&f, CAREFUL, head).await.unwrap();
        let claimed = f.enqueue(item("b")).await;
        f.claim_one("mail").await;
        let before = f.dump();
        for (action, selection, changed) in [
            (REPLAY, by_status(Status::Dlq), 3),
            (Action::Restore, by_status(Status::Dlq), 1),
            (Action::Release { lease: LeasePolicy::Respect }, Selection::Ids(vec![claimed]), 0),
            (FORCED, by_status(Status::Claimed), 1),
            (Action::Purge, by_status(Status::Dlq), 3),
        ] {
            let dry = OperateRequest { execution: Execution::DryRun, ..operate_request(action, selection) };
            assert_eq!(f.store.operate(&dry).await.unwrap().changed, changed, "{action:?}");
        }
        assert!(
            f.store.control(&ControlRequest { execution: Execution::DryRun, ..unblock("o") }).await.unwrap().changed
        );
        f.store.stuck(&StuckQuery::default()).await.unwrap();
        f.store.failures(&Filter::default(), 9).await.unwrap();
        f.store.audit(&AuditQuery::default()).await.unwrap();
        f.store.jobs(None, 9).await.unwrap();
        assert_eq!(before, f.dump());
    }

    pub(super) async fn what_is_stored_and_cannot_be_read_is_shown_as_its_text(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        // The JSON is valid, but no program can represent its number.
        f.sql(&format!(
            "INSERT INTO outbox_audit (at, actor, action, selection, count, changes) VALUES (1, 'a', 'b', '{{}}', 0, '1e999');
             INSERT INTO outbox_signals (pod, signal, ts, data) VALUES ('p', 's', 1, '1e999');
             INSERT INTO outbox_pods (instance, ready, heartbeat_at, plugins) VALUES ('p', (1 = 1), {START}, '1e999');
             INSERT INTO outbox_attempts (item_id, delivery, attempt, started_at, ended_at, pod, class, code, message,
                                          maybe_executed)
             VALUES ({id}, 1, 1, 1, 1, 'p', 'odd', 'c', 'm', (1 = 0))"
        ))
        .unwrap();
        let audit = f.store.audit(&AuditQuery::default()).await.unwrap();
        assert_eq!(audit[0].changes, "1e999");
        let signals = f.store.signals(SignalSeq::START, 9).await.unwrap();
        assert_eq!(signals[0].data, "1e999");
        let details = f.store.get(id).await.unwrap().unwrap();
        let attempt = &details.failed_attempts[0];
        assert_eq!((attempt.class, attempt.code.as_str()), (FailureClass::Undecodable, "c"));
        let pods = f.store.overview().await.unwrap().pods;
        assert!(pods.len() == 1 && pods[0].plugins.is_empty(), "what a process shows must not hide the totals");
    }
}
