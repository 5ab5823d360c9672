//! The promises of every store about leases: how they are renewed, spared, and given back.

use std::time::Duration;

use outbox::item::Status;
use outbox::store::{Action, BatchMode, Claim, ClaimToken, LeasePolicy, LeaseState, Renewal, Selection, StoreError};

use super::operate_request;
use crate::support::{Fixture, done, item, request};

promises! {
    a_claim_has_the_token_that_its_request_named
    a_renewed_lease_holds_for_its_length_from_the_renewal
    a_lease_that_has_run_out_is_renewed_while_nobody_has_ended_it
    a_renewal_tells_which_items_are_left_in_each_lease
    a_lease_that_this_process_has_in_hand_is_not_ended
    what_an_unanswered_claim_took_is_given_back_at_once_without_counting
}

const LEASE: Duration = Duration::from_mins(1);

/// Enqueues this many items and claims them together.
async fn claim(f: &Fixture, count: u32) -> Vec<Claim> {
    let items = (0..count).map(|n| item(&format!("k{n}"))).collect();
    f.store.enqueue(items, BatchMode::PerItem).await.unwrap();
    f.claim("mail", count).await
}

async fn renew(f: &Fixture, token: ClaimToken) -> LeaseState {
    let mut renewed = f.store.renew(&[Renewal { token, lease: LEASE }]).await.unwrap();
    assert_eq!((renewed.len(), renewed[0].token), (1, token));
    renewed.remove(0).state
}

fn held(claims: &[Claim]) -> LeaseState {
    LeaseState::Held { ids: claims.iter().map(|claim| claim.item.id).collect() }
}

mod promise {
    use super::*;

    pub(super) async fn a_claim_has_the_token_that_its_request_named(f: Fixture) {
        f.enqueue(item("k")).await;
        let request = request(&["mail"], 1);
        let claim = f.store.claim(&request).await.unwrap().claims.remove(0);
        assert_eq!(claim.token, request.types[0].token);
    }

    pub(super) async fn a_renewed_lease_holds_for_its_length_from_the_renewal(f: Fixture) {
        let claims = claim(&f, 1).await;
        f.clock.advance(LEASE / 3);
        assert_eq!(renew(&f, claims[0].token).await, held(&claims));
        assert_eq!(
            f.item(claims[0].item.id).await.lease_until,
            Some(f.store.now().await.unwrap().saturating_add(LEASE))
        );
        f.clock.advance(LEASE.saturating_sub(Duration::from_millis(1)));
        assert_eq!(f.second().await.expire_leases(&[]).await.unwrap(), 0);
        f.clock.advance(Duration::from_millis(1));
        assert_eq!(f.second().await.expire_leases(&[]).await.unwrap(), 1);
        assert_eq!(renew(&f, claims[0].token).await, LeaseState::Gone);
    }

    pub(super) async fn a_lease_that_has_run_out_is_renewed_while_nobody_has_ended_it(f: Fixture) {
        let claims = claim(&f, 2).await;
        f.clock.advance(2 * LEASE);
        assert_eq!(renew(&f, claims[0].token).await, held(&claims));
        assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 0);
        f.store.settle(&claims[0].reference(), done()).await.unwrap();
    }

    pub(super) async fn a_renewal_tells_which_items_are_left_in_each_lease(f: Fixture) {
        let claims = claim(&f, 4).await;
        f.store.settle(&claims[0].reference(), done()).await.unwrap();
        let release = Action::Release { lease: LeasePolicy::Break };
        f.store.operate(&operate_request(release, Selection::Ids(vec![claims[2].item.id]))).await.unwrap();
        let left = [claims[1].clone(), claims[3].clone()];
        let unknown = ClaimToken::random();
        let renewals = [unknown, claims[0].token].map(|token| Renewal { token, lease: LEASE });
        let mut renewed = f.store.renew(&renewals).await.unwrap();
        renewed.sort_by_key(|renewed| renewed.token == claims[0].token);
        assert_eq!(renewed.iter().map(|renewed| renewed.token).collect::<Vec<_>>(), [unknown, claims[0].token]);
        assert_eq!(
            renewed.into_iter().map(|renewed| renewed.state).collect::<Vec<_>>(),
            [LeaseState::Gone, held(&left)]
        );
    }

    pub(super) async fn a_lease_that_this_process_has_in_hand_is_not_ended(f: Fixture) {
        let mine = claim(&f, 1).await.remove(0);
        f.enqueue(item("other")).await;
        let other = f.second().await.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
        f.clock.advance(2 * LEASE);
        assert_eq!(f.store.expire_leases(&[mine.token]).await.unwrap(), 1);
        assert_eq!(f.status(mine.item.id).await, Status::Claimed);
        assert_eq!(f.status(other.item.id).await, Status::Pending);
        f.store.settle(&mine.reference(), done()).await.unwrap();
    }

    pub(super) async fn what_an_unanswered_claim_took_is_given_back_at_once_without_counting(f: Fixture) {
        let claims = claim(&f, 2).await;
        assert_eq!(f.store.abandon(&[ClaimToken::random(), claims[0].token]).await.unwrap(), 2);
        assert_eq!(f.store.abandon(&[claims[0].token]).await.unwrap(), 0);
        for claim in &claims {
            let shown = f.store.get(claim.item.id).await.unwrap().unwrap();
            assert_eq!((shown.item.status, shown.item.attempts), (Status::Pending, 0));
            assert!(!shown.item.maybe_executed && shown.failed_attempts.is_empty());
            let settled = f.store.settle(&claim.reference(), done()).await;
            assert!(matches!(settled, Err(StoreError::ClaimLost)), "{settled:?}");
        }
        let again = f.claim("mail", 2).await;
        assert_eq!(again.iter().map(|claim| claim.item.attempts).collect::<Vec<_>>(), [1, 1]);
    }
}
