//! The promises of every store about the numbers of waiting items.

use std::time::Duration;

use outbox::item::NewItem;
use outbox::store::Retention;

use crate::support::{Fixture, item, retry};

promises! {
    items_that_wait_for_another_attempt_are_counted_apart
    a_long_queue_is_counted_by_the_upkeep_and_not_by_those_who_ask
    without_upkeep_a_long_queue_is_counted_by_those_who_ask
    the_oldest_item_of_each_type_is_known_whatever_else_waits
    an_item_keeps_its_fairness_key_in_the_queue
    retries_of_the_next_hour_are_known_by_the_minute
}

/// A statement that enqueues as many items of the type `mail`.
fn many(prefix: &str, items: u32) -> String {
    format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {items})
         INSERT INTO outbox_items (type, idem_key, payload) SELECT 'mail', '{prefix}' || n, '{{}}' FROM numbers"
    )
}

/// More than a store counts when somebody asks.
const LONG: u32 = 12_000;

mod promise {
    use super::*;

    pub(super) async fn retries_of_the_next_hour_are_known_by_the_minute(f: Fixture) {
        for (key, minutes) in [("a", 2), ("b", 2), ("c", 59), ("d", 61)] {
            f.enqueue(item(key)).await;
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), retry(Duration::from_secs(minutes * 60 + 30))).await.unwrap();
        }
        f.enqueue(NewItem { delay: Duration::from_mins(2), ..item("never claimed") }).await;
        let ahead = f.store.retries_ahead().await.unwrap();
        let due: Vec<_> = ahead.minutes.iter().enumerate().filter(|(_, items)| **items > 0).collect();
        assert_eq!((ahead.minutes.len(), due, ahead.is_whole), (60, vec![(2, &2), (59, &1)], true));
    }

    pub(super) async fn items_that_wait_for_another_attempt_are_counted_apart(f: Fixture) {
        for key in ["a", "b", "c"] {
            f.enqueue(item(key)).await;
        }
        f.enqueue(NewItem::new("sms", "d", "{}")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), retry(Duration::from_hours(1))).await.unwrap();
        let overview = f.store.overview().await.unwrap();
        assert_eq!((overview.by_type["mail"]["PENDING"], overview.by_type["sms"]["PENDING"]), (3, 1));
        assert_eq!(overview.retrying, [("mail".to_owned(), 1)].into());
    }

    pub(super) async fn a_long_queue_is_counted_by_the_upkeep_and_not_by_those_who_ask(f: Fixture) {
        f.sql(&many("a", LONG)).unwrap();
        f.enqueue(NewItem::new("sms", "d", "{}")).await;
        let upkeep = async || f.store.run_maintenance(&Retention::default()).await.unwrap();
        let pending = async || f.store.overview().await.unwrap().by_type["mail"]["PENDING"];
        upkeep().await;
        f.sql(&many("b", 5)).unwrap();
        assert_eq!(pending().await, u64::from(LONG), "the numbers of the upkeep");
        assert_eq!(f.store.overview().await.unwrap().by_type["sms"]["PENDING"], 1);
        upkeep().await;
        assert_eq!(pending().await, u64::from(LONG), "the next count is not due");
        f.clock.advance(Duration::from_mins(1));
        upkeep().await;
        assert_eq!(pending().await, u64::from(LONG) + 5);
    }

    pub(super) async fn without_upkeep_a_long_queue_is_counted_by_those_who_ask(f: Fixture) {
        f.sql(&many("a", LONG)).unwrap();
        let pending = async || f.store.overview().await.unwrap().by_status["PENDING"];
        assert_eq!(pending().await, u64::from(LONG));
        f.store.run_maintenance(&Retention::default()).await.unwrap();
        f.enqueue(item("k")).await;
        f.clock.advance(Duration::from_hours(1));
        assert_eq!(pending().await, u64::from(LONG) + 1, "no host has counted for an hour");
    }

    pub(super) async fn an_item_keeps_its_fairness_key_in_the_queue(f: Fixture) {
        let insert = "INSERT INTO outbox_items (type, idem_key, payload, ordering_key, fairness_key) VALUES ('mail', ";
        f.sql(&format!("{insert} 'a', '{{}}', NULL, 'tenant'); {insert} 'b', '{{}}', 'k', 'tenant')")).unwrap();
        let kept = || f.sql("SELECT count(*) FROM outbox_queue WHERE fairness_key = 'tenant'").unwrap();
        assert_eq!(kept(), "2");
        let claims = f.claim("mail", 9).await;
        assert_eq!(claims.len(), 2);
        for claim in claims {
            f.store.settle(&claim.reference(), retry(Duration::ZERO)).await.unwrap();
        }
        assert_eq!(kept(), "2");
        f.clock.advance(Duration::from_secs(1));
        assert_eq!(f.claim("mail", 9).await.len(), 2);
    }

    pub(super) async fn the_oldest_item_of_each_type_is_known_whatever_else_waits(f: Fixture) {
        f.clock.advance(Duration::from_secs(5));
        f.enqueue(NewItem::new("call", "c", "{}")).await;
        f.clock.advance(Duration::from_secs(2));
        let columns = "type, idem_key, payload, fairness_key, available_at";
        let now = f.clock.now();
        f.sql(&format!("INSERT INTO outbox_items ({columns}) VALUES ('fax', 'f', '{{}}', 'tenant', {now})")).unwrap();
        f.enqueue(NewItem { delay: Duration::from_hours(1), ..NewItem::new("sms", "s", "{}") }).await;
        f.clock.advance(Duration::from_secs(3));
        let overview = f.store.overview().await.unwrap();
        let enqueued = overview.oldest_enqueued_ms;
        assert_eq!((enqueued["call"], enqueued["sms"]), (5_000, 3_000), "also one that waits for its time");
        let oldest = overview.oldest_pending_ms;
        assert_eq!(oldest, [("call".to_owned(), 5_000), ("fax".to_owned(), 3_000), ("sms".to_owned(), 0)].into());
    }
}
