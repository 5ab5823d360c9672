//! Chapters 1 and 4: enqueueing in one commit, and delivery at least once.

use std::time::Duration;

use outbox::core::{Attempt, FailureClass, HostWrites, Settlement};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::StoreError;
use serde_json::json;

use super::http_json;
use crate::support::guests::root;
use crate::support::{Fixture, all, done, item, settled};
use crate::worker::{self, Running, Scripted, becomes, failed};

requirements! {
    i1_an_item_and_the_applications_change_commit_together_or_not_at_all
    i2_enqueueing_does_not_wait_for_the_effect
    d1_a_failed_item_is_attempted_again_until_it_is_done
    d2_p3_done_means_that_the_handler_said_so
    d4_p9_what_is_promised_beyond_at_least_once_is_written_down_and_kept
    d5_l9_a_claim_that_was_lost_is_followed_by_another_which_is_told_so
}

const SOON: Duration = Duration::from_secs(20);

mod requirement {
    use super::*;

    pub(super) async fn i1_an_item_and_the_applications_change_commit_together_or_not_at_all(f: Fixture) {
        f.sql("CREATE TABLE orders (id INTEGER)").unwrap();
        let insert = "INSERT INTO outbox_items (type, idem_key, payload) VALUES";
        for (order, end) in [(1, "COMMIT"), (2, "ROLLBACK")] {
            let change = format!("INSERT INTO orders VALUES ({order}); {insert} ('mail', 'order-{order}', '{{}}')");
            f.sql(&format!("BEGIN; {change}; {end}")).unwrap();
        }
        let orders = f.sql("SELECT id FROM orders").unwrap();
        let keys: Vec<_> = all(&*f.store).await.into_iter().map(|item| item.idem_key).collect();
        assert_eq!((orders.as_str(), keys), ("1", vec!["order-1".to_owned()]));
    }

    pub(super) async fn i2_enqueueing_does_not_wait_for_the_effect(f: Fixture) {
        let body = json!({ "type": "mail", "payload": {} }).to_string();
        let id = http_json(&f, "POST", "/items", &body).await["outbox_ids"][0].as_i64().map(ItemId::new).unwrap();
        let stored = f.item(id).await;
        assert_eq!((stored.status, stored.deliveries), (Status::Pending, 0), "answered before any attempt");
    }

    pub(super) async fn d1_a_failed_item_is_attempted_again_until_it_is_done(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let handler =
            Scripted::new(
                async |attempt: Attempt| {
                    if attempt.item.attempts < 3 { failed(FailureClass::Retryable) } else { worker::done() }
                },
            );
        let worker = Running::start(&f, &handler, SOON);
        becomes(&f, id, Status::Done).await;
        assert_eq!(f.item(id).await.attempts, 3);
        worker.stop().await;
    }

    pub(super) async fn d2_p3_done_means_that_the_handler_said_so(f: Fixture) {
        let good = f.enqueue(item("good")).await;
        let mut others = Vec::new();
        for class in ["permanent", "retryable", "panic"] {
            others.push(f.enqueue(item(class)).await);
        }
        let handler = Scripted::new(async |attempt: Attempt| match attempt.item.idem_key.as_str() {
            "permanent" => failed(FailureClass::Permanent),
            "retryable" => failed(FailureClass::Retryable),
            "panic" => panic!("scripted panic"),
            _ => worker::done(),
        });
        let worker = Running::start(&f, &handler, SOON);
        becomes(&f, good, Status::Done).await;
        for id in others {
            becomes(&f, id, Status::Dlq).await;
        }
        worker.stop().await;
    }

    pub(super) async fn d4_p9_what_is_promised_beyond_at_least_once_is_written_down_and_kept(f: Fixture) {
        let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
        let promise = "at-least-once delivery; host-owned effects exactly once; \
                       outside effects effectively once where the receiver honours the idempotency key";
        assert!(readme.contains(promise));
        f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        let writes = HostWrites { followups: vec![NewItem::new("sms", "k/sms", "{}")], ..HostWrites::default() };
        let finish = settled(Settlement::Done { result: None, writes });
        f.store.settle(&claim.reference(), finish.clone()).await.unwrap();
        assert!(matches!(f.store.settle(&claim.reference(), finish).await, Err(StoreError::ClaimLost)));
        assert_eq!(f.claim("sms", 9).await.len(), 1);
    }

    pub(super) async fn d5_l9_a_claim_that_was_lost_is_followed_by_another_which_is_told_so(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let old = f.claim_one("mail").await;
        assert!(!old.item.maybe_executed);
        // The store cannot know whether the worker died before or after the effect, or is only slow.
        f.clock.advance(Duration::from_mins(1));
        let new = f.claim_one("mail").await;
        assert_eq!((new.item.id, new.item.idem_key == old.item.idem_key, new.item.maybe_executed), (id, true, true));
        assert_ne!(old.token, new.token, "a token is never used again");
        f.store.settle(&new.reference(), done()).await.unwrap();
        assert!(matches!(f.store.settle(&old.reference(), done()).await, Err(StoreError::ClaimLost)));
        assert_eq!(f.status(id).await, Status::Done);
    }
}
