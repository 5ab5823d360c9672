//! What operators' actions make of the order within a key, and what unblocks a key.

use std::time::Duration;

use outbox::core::Settlement;
use outbox::item::{ItemId, Status};
use outbox::store::StoreError;

use super::REPLAY;
use super::orders::{CAREFUL, keyed, operate, unblock};
use crate::support::{Backend, Fixture, dead, done, request, retry, settled};

promises! {
    a_dead_head_is_unblocked_and_audited
    a_replayed_item_takes_its_old_place_and_waits_for_the_one_that_is_claimed
    items_inserted_behind_a_head_by_any_process_are_held
    an_unblocked_key_goes_on_after_the_item_that_is_claimed
    an_item_that_is_replayed_waits_for_no_dead_item_behind_it
    a_key_goes_on_after_each_of_several_dead_items_that_block_it
    an_unblock_frees_a_key_of_all_its_dead_items_at_once
    an_item_whose_lane_was_removed_by_hand_keeps_its_key_and_its_place_when_it_comes_back
    an_item_whose_lane_another_item_got_keeps_its_key_and_its_place_when_it_comes_back
}

/// Items of one key: 1, 3 and 5 wait, and 2 and 4 are dead and block it.
async fn with_two_dead(f: &Fixture) -> [ItemId; 5] {
    let mut ids = [ItemId::new(0); 5];
    for (place, id) in ids.iter_mut().enumerate() {
        *id = f.enqueue(keyed(&place.to_string(), "o")).await;
    }
    for dead in [ids[3], ids[1]] {
        operate(f, CAREFUL, dead).await.unwrap();
    }
    assert_eq!(f.store.blocking("o", 9).await.unwrap(), [ids[1], ids[3]]);
    ids
}

/// Claims and completes this item, which is the only one that can be claimed.
async fn goes_on_with(f: &Fixture, id: ItemId) {
    let claims = f.claim("mail", 9).await;
    assert_eq!(claims.iter().map(|claim| claim.item.id).collect::<Vec<_>>(), [id]);
    f.store.settle(&claims[0].reference(), done()).await.unwrap();
}

mod promise {
    use super::*;

    pub(super) async fn a_dead_head_is_unblocked_and_audited(f: Fixture) {
        let head = f.enqueue(keyed("1", "o")).await;
        let behind = f.enqueue(keyed("2", "o")).await;
        operate(&f, CAREFUL, head).await.unwrap();
        assert!(f.claim("mail", 10).await.is_empty());
        assert_eq!(f.store.overview().await.unwrap().blocked_keys, 1);
        assert_eq!(f.store.blocking("o", 9).await.unwrap(), [head]);
        assert!(
            f.store.blocking("o", 0).await.unwrap().is_empty() && f.store.blocking("p", 9).await.unwrap().is_empty()
        );
        let unblocked = f.store.control(&unblock("o")).await.unwrap();
        assert_eq!((unblocked.changed, unblocked.items), (true, vec![head]));
        assert!(f.store.blocking("o", 9).await.unwrap().is_empty());
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

    pub(super) async fn a_key_goes_on_after_each_of_several_dead_items_that_block_it(f: Fixture) {
        let [first, dead, third, last_dead, fifth] = with_two_dead(&f).await;
        goes_on_with(&f, first).await;
        assert!(f.claim("mail", 9).await.is_empty(), "the second is dead and blocks the third");
        operate(&f, REPLAY, dead).await.unwrap();
        goes_on_with(&f, dead).await;
        goes_on_with(&f, third).await;
        assert!(f.claim("mail", 9).await.is_empty(), "the fourth is dead as well");
        assert_eq!(f.store.blocking("o", 9).await.unwrap(), [last_dead]);
        f.store.control(&unblock("o")).await.unwrap();
        goes_on_with(&f, fifth).await;
    }

    pub(super) async fn an_unblock_frees_a_key_of_all_its_dead_items_at_once(f: Fixture) {
        let [first, dead, third, last_dead, fifth] = with_two_dead(&f).await;
        goes_on_with(&f, first).await;
        let unblocked = f.store.control(&unblock("o")).await.unwrap();
        assert_eq!((unblocked.changed, unblocked.items), (true, vec![dead, last_dead]));
        assert!(f.store.blocking("o", 9).await.unwrap().is_empty());
        goes_on_with(&f, third).await;
        operate(&f, REPLAY, last_dead).await.unwrap();
        goes_on_with(&f, last_dead).await;
        goes_on_with(&f, fifth).await;
        assert_eq!(f.status(dead).await, Status::Dlq);
    }

    pub(super) async fn an_item_whose_lane_was_removed_by_hand_keeps_its_key_and_its_place_when_it_comes_back(
        f: Fixture,
    ) {
        let [first, second] = [f.enqueue(keyed("1", "o")).await, f.enqueue(keyed("2", "o")).await];
        let claim = f.claim_one("mail").await;
        f.sql("DELETE FROM outbox_lanes").unwrap();
        let unordered = f.store.settle(&claim.reference(), retry(Duration::from_secs(1))).await;
        assert!(matches!(unordered, Err(StoreError::OutOfTurn)), "whose turn it is is unknown: {unordered:?}");
        f.store.settle(&claim.reference(), settled(Settlement::Release)).await.unwrap();
        assert_eq!(f.claim("mail", 9).await.iter().map(|claim| claim.item.id).collect::<Vec<_>>(), [first]);
        f.sql("DELETE FROM outbox_lanes").unwrap();
        f.clock.advance(Duration::from_mins(2));
        assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 1);
        goes_on_with(&f, first).await;
        goes_on_with(&f, second).await;
    }

    pub(super) async fn an_item_whose_lane_another_item_got_keeps_its_key_and_its_place_when_it_comes_back(f: Fixture) {
        let [first, second] = [f.enqueue(keyed("1", "o")).await, f.enqueue(keyed("2", "o")).await];
        let claim = f.claim_one("mail").await;
        let find_front = match f.backend() {
            Backend::Sqlite => "INSERT INTO outbox_fronts (ordering_key) VALUES ('o')",
            Backend::Postgres => "SELECT outbox_find_front('{o}')",
        };
        f.sql(&format!("DELETE FROM outbox_lanes; {find_front}")).unwrap();
        let beside = f.claim_one("mail").await;
        assert_eq!(beside.item.id, second);
        let unordered = f.store.settle(&claim.reference(), retry(Duration::from_secs(1))).await;
        assert!(matches!(unordered, Err(StoreError::OutOfTurn)), "{unordered:?}");
        f.store.settle(&claim.reference(), settled(Settlement::Release)).await.unwrap();
        assert!(f.claim("mail", 9).await.is_empty(), "the item waits for the one that has its lane");
        f.store.settle(&beside.reference(), retry(Duration::from_secs(1))).await.unwrap();
        f.clock.advance(Duration::from_secs(2));
        goes_on_with(&f, first).await;
        goes_on_with(&f, second).await;
    }
}
