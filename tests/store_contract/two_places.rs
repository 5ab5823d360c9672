//! An item that somebody has put into two places at once: it stops neither the claims of its type nor its own end.

use std::time::Duration;

use outbox::item::ItemId;
use outbox::store::{ClaimRequest, StoreError};

use crate::support::{Fixture, dead, done, item, request, retry};

promises! {
    an_item_that_waits_and_is_finished_stops_no_claim_of_its_type
    an_item_without_an_attempt_left_that_is_dead_already_is_dead_once
    a_claimed_item_that_is_in_another_place_as_well_can_be_settled
    a_claimed_item_that_is_in_another_place_as_well_holds_up_no_expiry
}

/// Rows that put the item into a further place.
fn rows(id: ItemId) -> [String; 3] {
    [
        format!(
            "INSERT INTO outbox_dead (id, dead_at, epoch, type, fingerprint, last_error)
             VALUES ({id}, 1, 0, 'mail', '', '')"
        ),
        format!("INSERT INTO outbox_done (id, done_at, epoch) VALUES ({id}, 1, 0)"),
        format!("INSERT INTO outbox_queue (id, type, available_at) VALUES ({id}, 'mail', 1)"),
    ]
}

/// A claim that dead-letters what was attempted once.
fn last_attempts() -> ClaimRequest {
    let mut request = request(&["mail"], 9);
    request.types.iter_mut().for_each(|terms| terms.max_retries = 0);
    request
}

/// Leaves the item in the DLQ only, as the check at the end of the test expects.
fn tidy(f: &Fixture, id: ItemId) {
    f.sql(&format!(
        "DELETE FROM outbox_queue WHERE id = {id}; DELETE FROM outbox_done WHERE id = {id};
         DELETE FROM outbox_dead WHERE id = {id}; DELETE FROM outbox_past WHERE id = {id};
         DELETE FROM outbox_leases WHERE type = 'mail';
         INSERT INTO outbox_dead (id, dead_at, epoch, type, fingerprint, last_error)
         VALUES ({id}, 1, 0, 'mail', '', '')"
    ))
    .unwrap();
}

/// Claims and completes a new item.
async fn serves_others(f: &Fixture, key: &str) {
    let id = f.enqueue(item(key)).await;
    let claims = f.store.claim(&last_attempts()).await.unwrap().claims;
    let other = claims.iter().find(|claim| claim.item.id == id).expect("the other item is claimed");
    f.store.settle(&other.reference(), done()).await.unwrap();
}

mod promise {
    use super::*;

    pub(super) async fn an_item_that_waits_and_is_finished_stops_no_claim_of_its_type(f: Fixture) {
        for (place, number) in [(0, 0), (1, 1)] {
            let id = f.enqueue(item(&format!("double-{number}"))).await;
            f.sql(&rows(id)[place]).unwrap();
            serves_others(&f, &format!("other-{number}")).await;
            tidy(&f, id);
        }
    }

    pub(super) async fn an_item_without_an_attempt_left_that_is_dead_already_is_dead_once(f: Fixture) {
        let id = f.enqueue(item("double")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::from_millis(1))).await.unwrap();
        f.sql(&rows(id)[0]).unwrap();
        f.clock.advance(Duration::from_secs(1));
        serves_others(&f, "other").await;
        assert_eq!(f.sql("SELECT count(*) FROM outbox_queue").unwrap(), "0");
        assert_eq!(f.item(id).await.last_error.as_deref(), Some("the receiver is down"));
    }

    pub(super) async fn a_claimed_item_that_is_in_another_place_as_well_can_be_settled(f: Fixture) {
        for (number, end) in [retry(Duration::from_secs(9)), dead(), done()].into_iter().enumerate() {
            for (place, row) in rows(ItemId::new(0)).iter().enumerate() {
                let id = f.enqueue(item(&format!("double-{number}-{place}"))).await;
                let claim = f.claim_one("mail").await;
                f.sql(&row.replace("(0,", &format!("({id},"))).unwrap();
                let settled = f.store.settle(&claim.reference(), end.clone()).await;
                assert!(matches!(settled, Ok(()) | Err(StoreError::ClaimLost)), "{place}: {settled:?}");
                serves_others(&f, &format!("other-{number}-{place}")).await;
                tidy(&f, id);
            }
        }
    }

    pub(super) async fn a_claimed_item_that_is_in_another_place_as_well_holds_up_no_expiry(f: Fixture) {
        for (place, row) in rows(ItemId::new(0)).iter().enumerate() {
            let id = f.enqueue(item(&format!("double-{place}"))).await;
            f.claim_one("mail").await;
            f.sql(&row.replace("(0,", &format!("({id},"))).unwrap();
            f.clock.advance(Duration::from_mins(2));
            assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 1, "{place}");
            assert_eq!(f.sql("SELECT count(*) FROM outbox_leases").unwrap(), "0");
            tidy(&f, id);
        }
    }
}
