//! Chapter 10: inspection, replay and other actions of operators.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox::core::OnDead;
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{
    Action, AuditQuery, Control, ControlRequest, Execution, Filter, LeasePolicy, OperateRequest, Selection,
    SettleRequest, StoreError, StuckKind, StuckQuery,
};
use serde_json::{Value, json};

use super::{REPLAY, cli, every, http, http_json, item_in, keyed, operate, operate_request, retry_because};
use crate::support::guests::root;
use crate::support::{Fixture, START, after_start, all, dead, done, item, request};

requirements! {
    x1_x2_items_are_listed_filtered_and_shown_by_every_face
    x3_inspection_changes_nothing
    x4_x5_x7_a_replay_begins_a_new_life_of_what_is_dead_or_done
    l7_x11_what_a_replay_changes_is_what_the_manual_says
    x6_x12_actions_keep_to_the_transitions
    x8_x10_x14_duplicates_are_announced_and_nothing_is_lost
    x9_x15_a_bulk_replay_keeps_the_order_of_every_key
    x13_what_is_stuck_is_found_explained_and_freed
    x16_metrics_tell_states_outcomes_retries_and_waiting
    x17_every_action_is_audited_for_good
    x18_no_action_breaks_a_guarantee
}

const ACTIONS: [(&str, Action); 6] = [
    ("replay", REPLAY),
    ("dead", Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Break }),
    ("restore", Action::Restore),
    ("reschedule", Action::Reschedule { at: after_start(9_000) }),
    ("release", Action::Release { lease: LeasePolicy::Break }),
    ("purge", Action::Purge),
];

/// Enqueues one item for each status. The status is part of the item's type.
async fn one_of_each(f: &Fixture) {
    for status in Status::ALL {
        item_in(f, status, NewItem::new(&status.as_str().to_lowercase(), status.as_str(), "{}")).await;
    }
}

mod requirement {
    use super::*;

    pub(super) async fn x1_x2_items_are_listed_filtered_and_shown_by_every_face(f: Fixture) {
        let full = NewItem {
            headers: [("tenant".to_owned(), "ada".to_owned())].into(),
            metadata: json!({ "note": 1 }).as_object().unwrap().clone(),
            ..item("old")
        };
        let old = item_in(&f, Status::Dlq, full).await;
        f.clock.advance(Duration::from_hours(1));
        let new = item_in(&f, Status::Dlq, item("new")).await;
        f.enqueue(item("pending")).await;
        let middle = after_start(1_800_000).to_string();
        let ids = |items: &Value| {
            items.as_array().unwrap().iter().map(|item| ItemId::new(item["id"].as_i64().unwrap())).collect()
        };
        for (query, args, expected) in [
            ("status=DLQ", vec!["DLQ"], vec![new, old]),
            (&format!("status=DLQ&created_to={middle}"), vec!["DLQ", "--until", &middle], vec![old]),
            (&format!("status=DLQ&finished_from={middle}"), vec!["DLQ", "--finished-since", &middle], vec![new]),
        ] {
            let listed: Vec<ItemId> = ids(&http_json(&f, "GET", &format!("/items?{query}"), "").await["items"]);
            assert_eq!(listed, expected, "{query}");
            let printed = cli(&f, &[&["list", "--json"], args.as_slice()].concat()).stdout;
            assert_eq!(ids(&serde_json::from_slice(&printed).unwrap()), expected, "{args:?}");
        }
        let printed = cli(&f, &["show", &old.to_string(), "--json"]).stdout;
        for shown in
            [http_json(&f, "GET", &format!("/items/{old}"), "").await, serde_json::from_slice(&printed).unwrap()]
        {
            assert_eq!((&shown["payload"], &shown["headers"]), (&json!({ "to": "a" }), &json!({ "tenant": "ada" })));
            assert_eq!((&shown["metadata"], &shown["attempts"]), (&json!({ "note": 1 }), &json!(1)));
            assert_eq!(shown["last_error"], "the receiver is down");
        }
    }

    pub(super) async fn x3_inspection_changes_nothing(f: Fixture) {
        one_of_each(&f).await;
        f.clock.advance(Duration::from_mins(2));
        let before = f.dump();
        for path in [
            "/items",
            "/items/1",
            "/items?status=DLQ",
            "/signals",
            "/status/cockpit",
            "/metrics",
            "/metrics/store",
            "/history",
            "/healthz",
            "/readyz",
            "/jobs",
            "/stuck",
            "/failures",
            "/audit",
            "/pauses",
        ] {
            assert_eq!(http(&f, "GET", path, "").await.0, 200, "{path}");
        }
        for verb in ["list", "show 1", "stats", "stats --last 1h", "signals", "stuck", "failures", "audit", "jobs"] {
            cli(&f, &verb.split(' ').collect::<Vec<_>>());
        }
        for verb in ["replay", "restore", "purge"] {
            let body = r#"{"filter": {"status": ["DLQ"]}, "dry_run": true}"#;
            http_json(&f, "POST", &format!("/items:{verb}"), body).await;
        }
        assert!(before == f.dump(), "something was changed");
    }

    pub(super) async fn x4_x5_x7_a_replay_begins_a_new_life_of_what_is_dead_or_done(f: Fixture) {
        for status in [Status::Dlq, Status::Done] {
            let id = item_in(&f, status, item(status.as_str())).await;
            f.clock.advance(Duration::from_secs(5));
            operate(&f, REPLAY, id).await.unwrap();
            let life = f.item(id).await;
            assert_eq!((life.status, life.attempts, life.replays), (Status::Pending, 0, 1));
            assert_eq!((life.available_at, life.done_at, life.dead_at), (f.store.now().await.unwrap(), None, None));
            for attempt in 1..=3 {
                let claim = f.claim_one("mail").await;
                assert_eq!((claim.item.id, claim.item.attempts), (id, attempt), "every retry is there again");
                f.store.settle(&claim.reference(), retry_because("no", Duration::ZERO)).await.unwrap();
                f.clock.advance(Duration::from_secs(1));
            }
            assert!(f.claim("mail", 1).await.is_empty());
        }
    }

    pub(super) async fn l7_x11_what_a_replay_changes_is_what_the_manual_says(f: Fixture) {
        let blocking = item_in(&f, Status::Dlq, keyed("a", "o")).await;
        let finished = item_in(&f, Status::Done, item("b")).await;
        f.clock.advance(Duration::from_secs(5));
        for id in [blocking, finished] {
            operate(&f, Action::Replay { keys: outbox::store::EffectKeys::New }, id).await.unwrap();
        }
        let audit = f.store.audit(&AuditQuery::default()).await.unwrap();
        let changed = audit.iter().flat_map(|entry| entry.changes[0]["after"].as_object().unwrap().keys());
        let changed: BTreeSet<_> = changed.map(String::as_str).collect();
        let manual = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
        let row = manual.lines().find(|line| line.starts_with("| `replay`")).unwrap();
        let quoted: BTreeSet<_> = row.split('`').skip(1).step_by(2).collect();
        for field in &changed {
            assert!(quoted.contains(field), "{field} is changed and not documented: {row}");
        }
        for field in ["status", "attempts", "replays", "available_at", "blocks_key", "effects"] {
            assert!(changed.contains(field), "{field}");
        }
        assert_eq!(f.item(blocking).await.last_error.as_deref(), Some("the receiver is down"), "kept, as it says");
    }

    pub(super) async fn x6_x12_actions_keep_to_the_transitions(f: Fixture) {
        let allowed = [
            ("replay", "DONE DLQ"),
            ("dead", "PENDING CLAIMED"),
            ("restore", ""),
            ("reschedule", "PENDING"),
            ("release", "CLAIMED"),
            ("purge", "DONE DLQ"),
        ];
        for ((word, action), (_, statuses)) in ACTIONS.into_iter().zip(allowed) {
            for status in Status::ALL {
                let item_type = format!("{word}.{}", status.as_str().to_lowercase());
                let id = item_in(&f, status, NewItem::new(&item_type, &item_type, "{}")).await;
                let before = f.item(id).await;
                let outcome = operate(&f, action, id).await;
                assert_eq!(outcome.is_ok(), statuses.split(' ').any(|word| word == status.as_str()), "{item_type}");
                if let Err(reason) = outcome {
                    // `restore` only undoes an operator's dead-lettering; an item that failed by itself is replayed.
                    assert!(reason.contains(status.as_str()) || reason.contains("replay it"), "{reason}");
                    assert_eq!(f.item(id).await, before, "{item_type}");
                }
            }
        }
    }

    pub(super) async fn x8_x10_x14_duplicates_are_announced_and_nothing_is_lost(f: Fixture) {
        one_of_each(&f).await;
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), SettleRequest { maybe_executed: true, ..dead() }).await.unwrap();
        operate(&f, REPLAY, id).await.unwrap();
        assert!(f.claim_one("mail").await.item.maybe_executed, "the handler is told");
        let help = String::from_utf8(cli(&f, &["replay", "--help"]).stdout).unwrap();
        let words: Vec<_> = help.split_whitespace().collect();
        assert!(words.join(" ").contains("Effects may happen twice"), "the operator is told: {help}");
        let told = cli(&f, &["release", &id.to_string(), "--force"]).stderr;
        assert!(String::from_utf8(told).unwrap().contains("may still be acting"));
        for (_, action) in ACTIONS.into_iter().filter(|(word, _)| *word != "purge") {
            for status in Status::ALL {
                f.store.operate(&operate_request(action, every(status))).await.unwrap();
            }
        }
        assert_eq!(all(&*f.store).await.len(), 5);
    }

    pub(super) async fn x9_x15_a_bulk_replay_keeps_the_order_of_every_key(f: Fixture) {
        for n in 0..12 {
            f.enqueue(keyed(&n.to_string(), &format!("key-{}", n % 3))).await;
        }
        let skip = Action::Dead { on_dead: OnDead::Skip, lease: LeasePolicy::Respect };
        assert_eq!(f.store.operate(&operate_request(skip, every(Status::Pending))).await.unwrap().changed, 12);
        let from = Filter { status: vec![Status::Dlq], created_from: Some(START), ..Filter::default() };
        assert_eq!(f.store.operate(&operate_request(REPLAY, Selection::Filter(from))).await.unwrap().changed, 12);
        let mut last = std::collections::BTreeMap::new();
        for round in 0..4 {
            let claims = f.claim("mail", 12).await;
            assert_eq!(claims.len(), 3, "one of each key in round {round}");
            for claim in claims {
                let before = last.insert(claim.item.ordering_key.clone(), claim.item.id).unwrap_or(ItemId::new(0));
                assert!(before < claim.item.id, "{:?}", claim.item.ordering_key);
                f.store.settle(&claim.reference(), done()).await.unwrap();
            }
        }
    }

    pub(super) async fn x13_what_is_stuck_is_found_explained_and_freed(f: Fixture) {
        let lost = f.enqueue(item("lost")).await;
        let old = f.claim_one("mail").await;
        let failing = f.enqueue(item("failing")).await;
        for _ in 0..3 {
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), retry_because("again", Duration::ZERO)).await.unwrap();
            f.clock.advance(Duration::from_millis(1));
        }
        f.clock.advance(Duration::from_mins(2));
        let stuck = f.store.stuck(&StuckQuery::default()).await.unwrap();
        let found = |kind| stuck.iter().find(|stuck| stuck.kind == kind).unwrap();
        assert_eq!(found(StuckKind::ExpiredClaim).item, Some(lost));
        assert_eq!(found(StuckKind::Failing).item, Some(failing));
        assert!(found(StuckKind::Failing).why.contains("again"));
        assert_eq!(found(StuckKind::ExpiredClaim).command, format!("outbox release {lost}"));
        http_json(&f, "POST", &format!("/items/{lost}/release"), "").await;
        assert_eq!(f.status(lost).await, Status::Pending);
        assert!(matches!(f.store.settle(&old.reference(), done()).await, Err(StoreError::ClaimLost)));
    }

    pub(super) async fn x16_metrics_tell_states_outcomes_retries_and_waiting(f: Fixture) {
        one_of_each(&f).await;
        let claim = f.claim_one("pending").await;
        f.store.settle(&claim.reference(), retry_because("no", Duration::ZERO)).await.unwrap();
        f.clock.advance(Duration::from_secs(7));
        let (_, metrics) = http(&f, "GET", "/metrics/store", "").await;
        for sample in [
            r#"outbox_items{status="PENDING",type="pending"} 1"#,
            r#"outbox_items{status="CLAIMED",type="claimed"} 1"#,
            r#"outbox_items{status="DONE",type="done"} 1"#,
            r#"outbox_items{status="DLQ",type="dlq"} 1"#,
            r#"outbox_attempts_total{type="done",outcome="done"} 1"#,
            r#"outbox_attempts_total{type="pending",outcome="retryable"} 1"#,
            r#"outbox_oldest_pending_seconds{type="pending"} 6.999"#,
        ] {
            assert!(metrics.lines().any(|line| line == sample), "{sample} is not in {metrics}");
        }
    }

    pub(super) async fn x17_every_action_is_audited_for_good(f: Fixture) {
        for (word, action) in ACTIONS {
            let status = if action.applies_to(Status::Dlq) { Status::Dlq } else { Status::Claimed };
            let status = if word == "reschedule" { Status::Pending } else { status };
            let id = item_in(&f, status, NewItem::new(word, word, "{}")).await;
            if word == "restore" {
                operate(&f, REPLAY, id).await.unwrap();
                operate(&f, ACTIONS[1].1, id).await.unwrap();
            }
            operate(&f, action, id).await.unwrap();
            let query = AuditQuery { item: Some(id), limit: 1, ..AuditQuery::default() };
            let entry = f.store.audit(&query).await.unwrap().remove(0);
            assert_eq!((entry.action.as_str(), entry.count, entry.actor.as_str()), (word, 1, "ada@host"));
            assert_eq!((entry.reason.as_deref(), entry.at), (Some("repaired"), START));
            assert_eq!((&entry.selection, &entry.changes[0]["id"]), (&json!({ "ids": [id] }), &json!(id)));
            assert!(entry.changes[0]["before"] != entry.changes[0]["after"], "{entry:?}");
        }
        let pause = Control::Pause { item_type: "mail".into() };
        f.store
            .control(&ControlRequest { control: pause, actor: "eve".into(), reason: None, execution: Execution::Apply })
            .await
            .unwrap();
        assert_eq!(f.store.audit(&AuditQuery::default()).await.unwrap()[0].actor, "eve");
        for statement in ["UPDATE outbox_audit SET actor = 'z'", "DELETE FROM outbox_audit"] {
            assert!(f.sql(statement).unwrap_err().contains("append-only"));
        }
        let dry = OperateRequest { execution: Execution::DryRun, ..operate_request(REPLAY, every(Status::Dlq)) };
        let before = f.store.audit(&AuditQuery::default()).await.unwrap().len();
        f.store.operate(&dry).await.unwrap();
        assert_eq!(f.store.audit(&AuditQuery::default()).await.unwrap().len(), before, "nothing was done");
    }

    pub(super) async fn x18_no_action_breaks_a_guarantee(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let first = f.item(id).await;
        let mut claims = Vec::new();
        for (word, action) in ACTIONS.into_iter().filter(|(word, _)| *word != "purge") {
            claims.extend(f.claim("mail", 1).await);
            // The store may accept or refuse the action; the assertions below hold in both cases.
            drop(operate(&f, action, id).await);
            assert!(super::super::is_the_same(&f, &first).await, "{word}");
            assert!(f.store.claim(&request(&["mail"], 9)).await.unwrap().claims.len() <= 1, "{word}");
            f.clock.advance(Duration::from_mins(2));
        }
        for old in claims {
            let settled = f.store.settle(&old.reference(), done()).await;
            assert!(matches!(settled, Err(StoreError::ClaimLost)), "a claim that was taken can settle nothing");
        }
        let item = f.item(id).await;
        assert!(item.deliveries >= 2 && item.maybe_executed, "what happened is not forgotten");
    }
}
