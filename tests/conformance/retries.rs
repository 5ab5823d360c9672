//! Chapter 8: retries and failures.

use std::time::Duration;

use outbox::core::{FailureClass, RetryPolicy};
use outbox::item::Status;
use outbox::store::BatchMode;
use serde_json::json;

use super::{cli, http_json, item_in, plan, retry_because};
use crate::support::{Fixture, item, request};
use crate::worker::{Running, Scripted, becomes, failed};

requirements! {
    r1_l10_a_failed_item_is_claimed_again_while_its_policy_allows
    r2_r7_delays_grow_up_to_a_cap_and_are_never_nothing
    r3_the_policy_is_a_setting_and_has_a_default
    r4_a_failure_that_will_not_pass_is_not_tried_again
    r5_the_dlq_is_left_by_an_operator_only
    r6_operators_inspect_replay_and_override
    r8_what_is_known_of_a_retry_is_shown
    r10_a_retry_outlives_the_process
}

const SOON: Duration = Duration::from_secs(20);

mod requirement {
    use super::*;

    pub(super) async fn r1_l10_a_failed_item_is_claimed_again_while_its_policy_allows(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for attempt in 1..=3 {
            let claim = f.claim_one("mail").await;
            assert_eq!((claim.item.id, claim.item.attempts), (id, attempt));
            f.store.settle(&claim.reference(), retry_because("no", Duration::ZERO)).await.unwrap();
            f.clock.advance(Duration::from_secs(1));
        }
        assert!(f.claim("mail", 1).await.is_empty());
        assert_eq!(f.status(id).await, Status::Dlq);
    }

    pub(super) async fn r2_r7_delays_grow_up_to_a_cap_and_are_never_nothing(_: Fixture) {
        let policy = RetryPolicy::default();
        let delays: Vec<_> = (1..=12).map(|attempt| policy.backoff(attempt, 0.0)).collect();
        assert!(delays.is_sorted() && delays[0] >= policy.base / 2, "{delays:?}");
        assert!(delays[5] > delays[0] * 16 && policy.backoff(99, 1.0) == policy.cap, "{delays:?}");
    }

    pub(super) async fn r3_the_policy_is_a_setting_and_has_a_default(f: Fixture) {
        for setting in ["OUTBOX_MAX_RETRIES", "OUTBOX_BACKOFF_BASE_MS", "OUTBOX_BACKOFF_CAP_MS"] {
            let refused = plan(&f).set(setting, "often").run(&["stats"]);
            let told = String::from_utf8(refused.stderr).unwrap();
            assert!(refused.status.code() == Some(2) && told.contains(setting), "{told}");
        }
        let policy = RetryPolicy::default();
        assert!(policy.allows_another(8) && !policy.allows_another(9));
    }

    pub(super) async fn r4_a_failure_that_will_not_pass_is_not_tried_again(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let worker = Running::start(&f, &Scripted::new(async |_| failed(FailureClass::Permanent)), SOON);
        becomes(&f, id, Status::Dlq).await;
        assert_eq!(f.item(id).await.attempts, 1);
        worker.stop().await;
    }

    pub(super) async fn r5_the_dlq_is_left_by_an_operator_only(f: Fixture) {
        let id = item_in(&f, Status::Dlq, item("k")).await;
        assert_eq!(f.enqueue(item("k")).await, id, "the same write again changes nothing");
        f.clock.advance(Duration::from_hours(24 * 365));
        assert!(f.claim("mail", 1).await.is_empty());
        http_json(&f, "POST", &format!("/items/{id}/replay"), "").await;
        assert_eq!(f.claim_one("mail").await.item.id, id);
    }

    pub(super) async fn r6_operators_inspect_replay_and_override(f: Fixture) {
        let id = item_in(&f, Status::Dlq, item("k")).await;
        let path = |verb: &str| format!("/items/{id}{verb}");
        assert_eq!(http_json(&f, "GET", &path(""), "").await["status"], "DLQ");
        http_json(&f, "POST", &path("/replay"), "").await;
        http_json(&f, "POST", &path("/reschedule"), &json!({ "delay_ms": 3_600_000 }).to_string()).await;
        assert!(f.claim("mail", 1).await.is_empty());
        http_json(&f, "POST", &path("/dead"), "").await;
        http_json(&f, "POST", &path("/restore"), "").await;
        assert_eq!(f.status(id).await, Status::Pending);
    }

    pub(super) async fn r8_what_is_known_of_a_retry_is_shown(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.store
            .settle(&claim.reference(), retry_because("the receiver is down", Duration::from_secs(2)))
            .await
            .unwrap();
        f.clock.advance(Duration::from_secs(2));
        let claim = f.claim_one("mail").await;
        let shown: serde_json::Value =
            serde_json::from_slice(&cli(&f, &["show", &id.to_string(), "--json"]).stdout).unwrap();
        assert_eq!((&shown["last_error"], &shown["attempts"]), (&json!("the receiver is down"), &json!(2)));
        assert_eq!(shown["claimed_at"], json!(claim.item.claimed_at));
        assert_eq!(shown["available_at"], json!(claim.item.available_at));
        assert_eq!(shown["failed_attempts"][0]["class"], FailureClass::Retryable.as_str());
    }

    pub(super) async fn r10_a_retry_outlives_the_process(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), retry_because("no", Duration::from_secs(2))).await.unwrap();
        let other = f.second().await;
        assert_eq!(other.enqueue(vec![item("k")], BatchMode::PerItem).await.unwrap().ids, [Some(id)]);
        assert!(other.claim(&request(&["mail"], 1)).await.unwrap().claims.is_empty());
        f.clock.advance(Duration::from_secs(2));
        let again = other.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
        assert_eq!((again.item.id, again.item.attempts), (id, 2));
        assert_eq!(other.get(id).await.unwrap().unwrap().failed_attempts.len(), 1);
    }
}
