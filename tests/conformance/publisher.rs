//! Chapter 7: the publisher. In this host it is the handler together with the receiver that it calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outbox::core::{Attempt, FailureClass};
use outbox::item::Status;
use tokio::sync::Barrier;

use crate::support::stage::{Deployment, becomes};
use crate::support::{Fixture, item};
use crate::worker::{self, Running, Scripted, failed};

requirements! {
    p1_p7_an_attempt_has_an_outcome_with_words_for_last_error
    p2_one_claim_is_one_attempt
    p4_p6_e15_the_receiver_gets_the_payload_the_headers_and_a_stable_key
    p8_attempts_run_at_the_same_time
}

const SOON: Duration = Duration::from_secs(20);

mod requirement {
    use super::*;

    pub(super) async fn p1_p7_an_attempt_has_an_outcome_with_words_for_last_error(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let worker = Running::start(&f, &Scripted::new(async |_| failed(FailureClass::Permanent)), SOON);
        worker::becomes(&f, id, Status::Dlq).await;
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!(shown.item.last_error.as_deref(), Some("scripted"));
        assert_eq!(
            (shown.failed_attempts[0].class, shown.failed_attempts[0].code.as_str()),
            (FailureClass::Permanent, "scripted")
        );
        worker.stop().await;
    }

    pub(super) async fn p2_one_claim_is_one_attempt(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let handler = Scripted::new(move |attempt: Attempt| {
            let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
            assert_eq!((attempt.item.attempts, attempt.item.deliveries), (call, call));
            async move { if call < 3 { failed(FailureClass::Retryable) } else { worker::done() } }
        });
        let worker = Running::start(&f, &handler, SOON);
        worker::becomes(&f, id, Status::Done).await;
        assert_eq!((calls.load(Ordering::SeqCst), f.item(id).await.deliveries), (3, 3));
        worker.stop().await;
    }

    pub(super) async fn p4_p6_e15_the_receiver_gets_the_payload_the_headers_and_a_stable_key(f: Fixture) {
        let deployment = Deployment::new().await;
        let plan = deployment.plan.clone().set("OUTBOX_DB", &f.test_db.address());
        let host = plan.start("serve").await;
        let item = r#"{"type":"webhook","idem_key":"k","payload":{"b":1.50, "a":"ü"},"cid":"c-7","headers":{"x-tenant":"ada"}}"#;
        deployment.vector.ledger.answer_with(503, None);
        let headers = [("content-type", "application/json")];
        let id = host.send("POST", "/items", &headers, item).await.json()["outbox_ids"][0].as_i64().unwrap();
        crate::support::eventually("the first attempt", Duration::from_mins(1), async || {
            !deployment.vector.ledger.received().is_empty()
        })
        .await;
        deployment.vector.ledger.answer_with(200, None);
        becomes(&host, id, "DONE").await;
        let received = deployment.vector.ledger.received();
        assert!(received.len() >= 2);
        for request in &received {
            assert_eq!(request.body, r#"{"b":1.50, "a":"ü"}"#);
            assert_eq!((request.header("x-tenant"), request.header("x-correlation-id")), ("ada", "c-7"));
            assert!(request.header("idempotency-key").starts_with("k/"));
            assert_eq!(request.header("idempotency-key"), received[0].header("idempotency-key"));
        }
    }

    pub(super) async fn p8_attempts_run_at_the_same_time(f: Fixture) {
        let mut ids = Vec::new();
        for n in 0..4 {
            ids.push(f.enqueue(item(&n.to_string())).await);
        }
        // No attempt continues before all four have reached the barrier.
        let barrier = Arc::new(Barrier::new(4));
        let handler = Scripted::new(move |_| {
            let barrier = Arc::clone(&barrier);
            async move {
                barrier.wait().await;
                worker::done()
            }
        });
        let worker = Running::start(&f, &handler, SOON);
        for id in ids {
            worker::becomes(&f, id, Status::Done).await;
        }
        worker.stop().await;
    }
}
