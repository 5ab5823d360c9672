//! The promises of every store about the audit trail, and about orders that are only tried.

use outbox::core::FailureClass;
use outbox::item::{ItemId, Status};
use outbox::store::{
    AUDIT_VALUE_MAX, Action, AnewRequest, AuditQuery, ControlRequest, Execution, Filter, JobId, LeasePolicy,
    OperateRequest, Selection, SignalSeq, StuckQuery,
};

use super::orders::{CAREFUL, FORCED, dead_items, keyed, operate, unblock};
use super::{REPLAY, by_status, operate_request};
use crate::support::{Fixture, START, after_start, item};

promises! {
    an_item_that_a_request_names_twice_is_changed_and_audited
    a_long_audit_entry_has_its_size_in_the_trail_and_the_part_of_an_item_in_that_of_the_item
    every_action_is_audited_with_before_and_after
    an_item_that_is_enqueued_anew_is_audited_once_for_both_items
    a_dry_run_of_anything_changes_nothing
    what_is_stored_and_cannot_be_read_is_shown_as_its_text
}

mod promise {
    use super::*;

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

    pub(super) async fn an_item_that_is_enqueued_anew_is_audited_once_for_both_items(f: Fixture) {
        let old = dead_items(&f, 0..1).await[0];
        let anew = AnewRequest { old, item: item("anew"), actor: "ada".into(), reason: Some("wrong total".into()) };
        let first = f.store.enqueue_anew(&anew).await.unwrap();
        let again = f.store.enqueue_anew(&anew).await.unwrap();
        assert_eq!((first.created, again.created, &again.ids), (1, 0, &first.ids));
        for id in [old, first.ids[0].unwrap()] {
            let query = AuditQuery { item: Some(id), action: Some("anew".into()), ..AuditQuery::default() };
            let trail = f.store.audit(&query).await.unwrap();
            let told: Vec<_> = trail.iter().map(|entry| (entry.actor.as_str(), entry.reason.as_deref())).collect();
            assert_eq!(told, [("ada", Some("wrong total"))], "{id}");
        }
        assert_eq!(f.status(old).await, Status::Dlq);
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
        let gone = &entries[0].changes[0]["before"];
        assert_eq!((&gone["type"], &gone["idem_key"]), (&"mail".into(), &"0".into()), "an item that is gone is named");
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
