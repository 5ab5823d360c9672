//! Chapter 9: ordering.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outbox::core::{Attempt, FailureClass, OnDead, Settlement};
use outbox::item::{ItemId, Status};

use super::{http_json, keyed, retry_because};
use crate::support::guests::root;
use crate::support::{Fixture, done, eventually, failure, item, settled};
use crate::worker::{self, Running, Scripted, failed};

requirements! {
    o1_items_without_a_key_do_not_wait_for_each_other
    o2_o3_e14_s13_items_of_a_key_are_handled_one_at_a_time_in_order_by_all_workers
    o5_an_item_that_is_retried_keeps_its_place
    o6_a_dead_item_holds_its_key_or_lets_it_go_on_as_documented
}

/// What the handlers received: for each ordering key the items in the order of their attempts, and the item that is
/// being handled now.
#[derive(Default)]
struct Seen {
    attempts: BTreeMap<String, Vec<ItemId>>,
    busy: BTreeMap<String, ItemId>,
}

impl Seen {
    fn begin(&mut self, key: &str, id: ItemId) {
        assert_eq!(self.busy.insert(key.to_owned(), id), None, "{key} is handled twice at a time");
        self.attempts.entry(key.to_owned()).or_default().push(id);
    }
}

/// Fails the first attempt of every third item. Each attempt yields once, so other attempts could overtake it.
fn unreliable(seen: &Arc<Mutex<Seen>>) -> Arc<Scripted> {
    let seen = Arc::clone(seen);
    Scripted::new(move |attempt: Attempt| {
        let seen = Arc::clone(&seen);
        async move {
            let key = attempt.item.ordering_key.clone().unwrap();
            let look = || seen.lock().unwrap_or_else(PoisonError::into_inner);
            look().begin(&key, attempt.item.id);
            tokio::task::yield_now().await;
            look().busy.remove(&key);
            if attempt.item.id.get() % 3 == 0 && attempt.item.attempts == 1 {
                failed(FailureClass::Retryable)
            } else {
                worker::done()
            }
        }
    })
}

mod requirement {
    use super::*;

    pub(super) async fn o1_items_without_a_key_do_not_wait_for_each_other(f: Fixture) {
        for key in ["a", "b"] {
            f.enqueue(item(key)).await;
        }
        let first = f.claim_one("mail").await;
        let second = f.claim_one("mail").await;
        f.store.settle(&second.reference(), done()).await.unwrap();
        assert_eq!(f.status(first.item.id).await, Status::Claimed);
    }

    pub(super) async fn o2_o3_e14_s13_items_of_a_key_are_handled_one_at_a_time_in_order_by_all_workers(f: Fixture) {
        for n in 0..40 {
            f.enqueue(keyed(&n.to_string(), &format!("key-{}", n % 5))).await;
        }
        let seen = Arc::default();
        let other = f.another().await;
        let workers = [&f, &other].map(|f| Running::start(f, &unreliable(&seen), Duration::from_secs(20)));
        eventually("all are done", Duration::from_mins(1), async || {
            f.clock.advance(Duration::from_millis(5));
            f.store.overview().await.unwrap().by_status["DONE"] == 40
        })
        .await;
        for worker in workers {
            worker.stop().await;
        }
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(seen.attempts.values().map(Vec::len).sum::<usize>(), 40 + 13, "13 of them were tried twice");
        for (key, ids) in &seen.attempts {
            assert!(ids.is_sorted(), "{key}: {ids:?}");
        }
    }

    pub(super) async fn o5_an_item_that_is_retried_keeps_its_place(f: Fixture) {
        let ids = [f.enqueue(keyed("1", "o")).await, f.enqueue(keyed("2", "o")).await];
        for _ in 0..2 {
            let claim = f.claim_one("mail").await;
            assert_eq!(claim.item.id, ids[0]);
            f.store.settle(&claim.reference(), retry_because("no", Duration::from_secs(1))).await.unwrap();
            assert!(f.claim("mail", 9).await.is_empty());
            f.clock.advance(Duration::from_secs(1));
        }
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        assert_eq!(f.claim_one("mail").await.item.id, ids[1]);
    }

    pub(super) async fn o6_a_dead_item_holds_its_key_or_lets_it_go_on_as_documented(f: Fixture) {
        for (on_dead, behind) in [(OnDead::Block, 0), (OnDead::Skip, 1)] {
            let key = format!("{on_dead:?}");
            f.enqueue(keyed(&format!("{key}-1"), &key)).await;
            f.enqueue(keyed(&format!("{key}-2"), &key)).await;
            let claim = f.claim_one("mail").await;
            let dead = settled(Settlement::Dead { failure: failure(), on_dead });
            f.store.settle(&claim.reference(), dead).await.unwrap();
            assert_eq!(f.claim("mail", 9).await.len(), behind, "{key}");
        }
        http_json(&f, "POST", "/keys/Block/unblock", "").await;
        assert_eq!(f.claim("mail", 9).await.len(), 1);
        let manual = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
        assert!(manual.contains("on_dead = \"skip\""), "the choice is documented");
    }
}
