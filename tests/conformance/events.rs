//! Chapter 3: the item.

use std::time::Duration;

use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{BatchMode, StoreError};
use serde_json::json;

use super::{REPLAY, http, http_json, is_the_same, item_in, operate, retry_because};
use crate::support::{Fixture, START, done, item};

requirements! {
    e1_a_key_is_unique_and_never_changes
    e2_a_key_that_nobody_gave_is_a_uuid
    e3_e4_a_type_is_a_stable_word_and_no_address
    e5_e6_a_payload_is_any_bytes_and_stays_as_it_is
    e7_created_at_is_set_at_creation_and_never_changes
    e8_e12_an_item_has_one_of_the_four_statuses_under_every_known_name
    e9_attempts_rise_within_a_life_and_deliveries_and_replays_never_fall
    e10_nothing_is_claimed_before_its_time
    e11_e18_e20_a_claim_is_on_the_row_while_it_is_claimed_and_only_then
    e16_last_error_is_that_of_the_last_failure
    e17_what_never_changes_is_guarded_and_what_may_change_is_not
    e19_done_at_is_set_while_done_and_only_then
    e21_a_retry_lies_in_the_future
    e22_further_fields_change_nothing_of_the_rules
}

/// The words of SQLite and of PostgreSQL for a column that must have a value.
const NEVER_NULL: [&str; 2] = ["NOT NULL constraint failed", "violates not-null constraint"];
/// The words of SQLite and of PostgreSQL for a column that the table does not have.
const NO_COLUMN: [&str; 2] = ["no such column", "of relation \"items\" does not exist"];

/// Asserts that a statement is refused in the words of one of the engines.
fn refused(f: &Fixture, statement: &str, words: [&str; 2]) {
    let refusal = f.sql(statement).unwrap_err();
    assert!(words.iter().any(|words| refusal.contains(words)), "{statement}: {refusal}");
}

mod requirement {
    use super::*;

    pub(super) async fn e1_a_key_is_unique_and_never_changes(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let other = NewItem { payload: b"other".to_vec(), ..item("k") };
        let refused = f.store.enqueue(vec![other], BatchMode::PerItem).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict { first, .. } if first == id), "{refused}");
        let insert = "INSERT INTO outbox_items (type, idem_key, payload) VALUES ('mail', 'k', 'other')";
        assert!(f.sql(insert).unwrap_err().contains("already used"));
        assert!(f.sql("UPDATE outbox_items SET idem_key = 'z'").unwrap_err().contains("never changes"));
        assert_eq!(f.item(id).await.idem_key, "k");
    }

    pub(super) async fn e2_a_key_that_nobody_gave_is_a_uuid(f: Fixture) {
        let body = json!({ "type": "mail", "payload": {} }).to_string();
        let written = http_json(&f, "POST", "/items", &body).await;
        let key = f.item(written["outbox_ids"][0].as_i64().map(ItemId::new).unwrap()).await.idem_key;
        assert_eq!(uuid::Uuid::parse_str(&key).unwrap().get_version_num(), 7, "{key}");
    }

    pub(super) async fn e3_e4_a_type_is_a_stable_word_and_no_address(f: Fixture) {
        for good in ["mail", "order.placed.v2", "vector_upsert"] {
            f.enqueue(NewItem::new(good, good, "{}")).await;
        }
        for bad in ["https://a.example/b", "topic/mail", "amqp:mail", "Mail", "mail sent", ""] {
            let refused = f.store.enqueue(vec![NewItem::new(bad, "k", "{}")], BatchMode::PerItem).await.unwrap_err();
            assert!(matches!(&refused, StoreError::Invalid(at) if at.source.field == "type"), "{refused}");
            let insert = format!("INSERT INTO outbox_items (type, idem_key, payload) VALUES ('{bad}', 'k', '')");
            assert!(f.sql(&insert).is_err(), "{bad}");
        }
        assert!(f.sql("UPDATE outbox_items SET type = 'z'").unwrap_err().contains("never changes"));
    }

    pub(super) async fn e5_e6_a_payload_is_any_bytes_and_stays_as_it_is(f: Fixture) {
        let bytes: Vec<u8> = (0..=255).chain([0, b'{', 0xff]).collect();
        let id = f.enqueue(NewItem { payload: bytes.clone(), ..item("k") }).await;
        let claim = f.claim_one("mail").await;
        assert_eq!(claim.item.payload, bytes);
        f.store.settle(&claim.reference(), done()).await.unwrap();
        assert_eq!(f.item(id).await.payload, bytes);
        assert!(f.sql("UPDATE outbox_items SET payload = 'z'").unwrap_err().contains("never changes"));
    }

    pub(super) async fn e7_created_at_is_set_at_creation_and_never_changes(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        assert_eq!(f.item(id).await.created_at, START);
        f.clock.advance(Duration::from_hours(1));
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        operate(&f, REPLAY, id).await.unwrap();
        assert_eq!(f.item(id).await.created_at, START);
        assert!(f.sql("UPDATE outbox_items SET created_at = 1").unwrap_err().contains("never changes"));
    }

    pub(super) async fn e8_e12_an_item_has_one_of_the_four_statuses_under_every_known_name(f: Fixture) {
        for status in Status::ALL {
            item_in(&f, status, NewItem::new(&status.as_str().to_lowercase(), status.as_str(), "{}")).await;
        }
        for (names, key) in [
            (["PENDING", "pending"], "PENDING"),
            (["CLAIMED", "DELIVERING"], "CLAIMED"),
            (["PUBLISHED", "DELIVERED"], "DONE"),
            (["DEAD", "DLQ"], "DLQ"),
        ] {
            for name in names {
                let found = http_json(&f, "GET", &format!("/items?status={name}"), "").await;
                let keys: Vec<_> = found["items"].as_array().unwrap().iter().map(|item| &item["idem_key"]).collect();
                assert_eq!(keys, [key], "{name}");
            }
        }
        let insert = "INSERT INTO outbox_items (type, idem_key, payload, status) VALUES ('mail', 'z', '', 'LOST')";
        assert!(f.sql(insert).is_err());
    }

    pub(super) async fn e9_attempts_rise_within_a_life_and_deliveries_and_replays_never_fall(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let mut counts = Vec::new();
        for _ in 0..2 {
            for _ in 0..2 {
                let claim = f.claim_one("mail").await;
                f.store.settle(&claim.reference(), retry_because("no", Duration::ZERO)).await.unwrap();
                f.clock.advance(Duration::from_secs(1));
                let item = f.item(id).await;
                counts.push((item.attempts, item.deliveries, item.replays));
            }
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), done()).await.unwrap();
            operate(&f, REPLAY, id).await.unwrap();
        }
        assert_eq!(counts, [(1, 1, 0), (2, 2, 0), (1, 4, 1), (2, 5, 1)]);
    }

    pub(super) async fn e10_nothing_is_claimed_before_its_time(f: Fixture) {
        f.enqueue(NewItem { delay: Duration::from_secs(5), ..item("k") }).await;
        f.clock.advance(Duration::from_millis(4_999));
        assert!(f.claim("mail", 1).await.is_empty());
        f.clock.advance(Duration::from_millis(1));
        assert_eq!(f.claim("mail", 1).await.len(), 1);
    }

    pub(super) async fn e11_e18_e20_a_claim_is_on_the_row_while_it_is_claimed_and_only_then(f: Fixture) {
        for status in Status::ALL {
            let id = item_in(&f, status, item(status.as_str())).await;
            let item = f.item(id).await;
            let columns = [item.claimed_at.is_some(), item.claimed_by.is_some(), item.lease_until.is_some()];
            assert_eq!(columns, [status == Status::Claimed; 3], "{status}");
            let shown = format!(
                "SELECT count(*) FROM outbox_status WHERE id = {id} AND claimed_at IS NOT NULL
                 AND claimed_by IS NOT NULL AND lease_until IS NOT NULL AND claim_token IS NOT NULL"
            );
            assert_eq!(f.sql(&shown).unwrap(), u8::from(status == Status::Claimed).to_string(), "{status}");
            for (of_lease, of_item) in [("pod = NULL", "claimed_by = 'me'"), ("claimed_at = NULL", "claimed_at = 1")] {
                if status == Status::Claimed {
                    refused(&f, &format!("UPDATE outbox_leases SET {of_lease}"), NEVER_NULL);
                } else {
                    refused(&f, &format!("UPDATE outbox_items SET {of_item} WHERE id = {id}"), NO_COLUMN);
                }
            }
            // Claims the item so that the next iteration does not receive it.
            f.claim("mail", 9).await;
        }
    }

    pub(super) async fn e16_last_error_is_that_of_the_last_failure(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for message in ["first", "second"] {
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), retry_because(message, Duration::ZERO)).await.unwrap();
            assert_eq!(f.item(id).await.last_error.as_deref(), Some(message));
            f.clock.advance(Duration::from_secs(1));
        }
    }

    pub(super) async fn e17_what_never_changes_is_guarded_and_what_may_change_is_not(f: Fixture) {
        let some = |word: &str| Some(word.to_owned());
        let (saga, ordering_key, fairness_key) = (some("S"), some("o"), some("acme"));
        let full = NewItem { saga, cid: some("c"), ordering_key, fairness_key, ..item("k") };
        let id = f.enqueue(full).await;
        let first = f.item(id).await;
        let texts = ["idem_key", "type", "payload", "content_type", "cid", "saga", "ordering_key", "fairness_key"];
        let numbers = ["id", "created_at", "available_at"];
        let nulls = ["saga", "ordering_key", "fairness_key"].map(|column| (column, "NULL"));
        let changes = texts.map(|column| (column, "'z'")).into_iter().chain(numbers.map(|column| (column, "7")));
        for (column, value) in changes.chain(nulls) {
            let refused = f.sql(&format!("UPDATE outbox_items SET {column} = {value}"));
            assert!(refused.unwrap_err().contains("never changes"), "{column}");
        }
        assert!(f.sql("UPDATE outbox_items SET headers = '{\"a\":\"b\"}'").unwrap_err().contains("never changes"));
        f.sql("UPDATE outbox_items SET metadata = '{\"seen\": true}'").unwrap();
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        operate(&f, REPLAY, id).await.unwrap();
        assert!(is_the_same(&f, &first).await);
        assert_eq!(f.item(id).await.metadata["seen"], true);
    }

    pub(super) async fn e19_done_at_is_set_while_done_and_only_then(f: Fixture) {
        for status in Status::ALL {
            let id = item_in(&f, status, NewItem::new(&status.as_str().to_lowercase(), status.as_str(), "{}")).await;
            assert_eq!(f.item(id).await.done_at.is_some(), status == Status::Done, "{status}");
            if status == Status::Done {
                refused(&f, &format!("UPDATE outbox_done SET done_at = NULL WHERE id = {id}"), NEVER_NULL);
            } else {
                refused(&f, &format!("UPDATE outbox_items SET done_at = 1 WHERE id = {id}"), NO_COLUMN);
            }
        }
    }

    pub(super) async fn e21_a_retry_lies_in_the_future(f: Fixture) {
        for delay in [Duration::ZERO, Duration::from_secs(3)] {
            let id = f.enqueue(item(&format!("{delay:?}"))).await;
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), retry_because("no", delay)).await.unwrap();
            let item = f.item(id).await;
            assert_eq!(item.status, Status::Pending);
            assert!(item.available_at > START, "after {delay:?}");
        }
        assert!(f.claim("mail", 9).await.is_empty());
    }

    pub(super) async fn e22_further_fields_change_nothing_of_the_rules(f: Fixture) {
        let full = NewItem {
            content_type: "text/plain".into(),
            metadata: json!({ "tenant_id": 7 }).as_object().unwrap().clone(),
            cid: Some("c".into()),
            saga: Some("S".into()),
            ordering_key: Some("o".into()),
            ..item("full")
        };
        for new in [item("bare"), full] {
            let key = new.idem_key.clone();
            let id = item_in(&f, Status::Dlq, new.clone()).await;
            assert_eq!(f.enqueue(new).await, id, "{key}");
            operate(&f, REPLAY, id).await.unwrap();
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), done()).await.unwrap();
            let (status, refused) = http(&f, "POST", &format!("/items/{id}/dead"), "").await;
            assert!(status == 409 && refused.contains("DONE"), "{key}: {refused}");
        }
    }
}
