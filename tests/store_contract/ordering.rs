//! The order of items that share an ordering key.

use std::time::Duration;

use outbox::core::{OnDead, Settlement};
use outbox::item::{NewItem, Status};
use outbox::store::Action;

use super::{by_status, operate_request};
use crate::support::{Fixture, done, failure, item, retry, settled};

promises! {
    items_of_one_ordering_key_are_handled_one_at_a_time_in_order
    a_dead_head_blocks_its_ordering_key_or_is_skipped
}

mod promise {
    use super::*;

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
}
