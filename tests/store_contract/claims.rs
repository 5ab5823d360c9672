//! Which items a claim takes, and how long it holds.

use std::time::Duration;

use outbox::core::FailureClass;
use outbox::item::{NewItem, Status};
use outbox::store::{ClaimRequest, RatedType, StoreError};

use crate::support::{Fixture, done, item, request};

promises! {
    an_item_is_claimed_by_one_worker_only
    a_delayed_item_is_not_claimed_before_its_time
    only_the_types_asked_for_are_claimed
    no_type_starves_another
    a_type_that_had_no_items_gets_its_share_again
    a_claim_never_exceeds_its_limit_or_the_types_concurrency
    processes_that_claim_at_once_do_not_exceed_the_types_concurrency_together
    a_rate_limits_claims_per_second
    readers_see_at_once_that_a_type_has_used_up_its_rate
    an_expired_claim_is_claimable_and_the_old_claim_cannot_complete
    a_settlement_is_accepted_after_the_lease_while_nobody_took_over
    one_claim_dead_letters_a_bounded_number_of_exhausted_items
}

/// SQL that makes 300 items of the type, which have been attempted nine times.
fn exhausted(item_type: &str) -> String {
    format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300)
         INSERT INTO outbox_items (type, idem_key, payload, available_at)
         SELECT '{item_type}', '{item_type}' || n, '', 0 FROM numbers;
         INSERT INTO outbox_past (id, attempts, deliveries)
         SELECT id, 9, 9 FROM outbox_queue WHERE type = '{item_type}';
         UPDATE outbox_queue SET again = (1 = 1) WHERE type = '{item_type}'"
    )
}

mod promise {
    use super::*;

    pub(super) async fn one_claim_dead_letters_a_bounded_number_of_exhausted_items(f: Fixture) {
        let types = ["mail", "sms", "push"];
        for item_type in types {
            f.sql(&exhausted(item_type)).unwrap();
        }
        let sound = f.enqueue(item("sound")).await;
        let dead = || f.sql("SELECT count(*) FROM outbox_dead").unwrap().parse::<u32>().unwrap();
        // The sound item may be claimed before the last items of other types are dead.
        while dead() < 900 || f.status(sound).await != Status::Claimed {
            let before = dead();
            let batch = f.store.claim(&request(&types, 1_000)).await.unwrap();
            assert!(dead() - before <= 250, "{} in one transaction", dead() - before);
            let goes_on = dead() > before && batch.next_available_in == Some(Duration::ZERO);
            assert!(goes_on || dead() == 900, "{:?} after {}", batch.next_available_in, dead());
        }
        assert_eq!(dead(), 900);
    }

    pub(super) async fn an_item_is_claimed_by_one_worker_only(f: Fixture) {
        for n in 0..50 {
            f.enqueue(item(&n.to_string())).await;
        }
        let other = f.second().await;
        let request = request(&["mail"], 50);
        let (mine, theirs) = tokio::join!(f.store.claim(&request), other.claim(&request));
        let mut ids: Vec<_> =
            [mine.unwrap().claims, theirs.unwrap().claims].concat().iter().map(|c| c.item.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 50);
    }

    pub(super) async fn a_delayed_item_is_not_claimed_before_its_time(f: Fixture) {
        let mut late = item("k");
        late.delay = Duration::from_secs(5);
        f.enqueue(late).await;
        let early = f.store.claim(&request(&["mail"], 1)).await.unwrap();
        assert_eq!((early.claims.len(), early.next_available_in), (0, Some(Duration::from_secs(5))));
        f.clock.advance(Duration::from_secs(5));
        assert_eq!(f.claim("mail", 1).await.len(), 1);
    }

    pub(super) async fn only_the_types_asked_for_are_claimed(f: Fixture) {
        f.enqueue(NewItem::new("sms", "s", "{}")).await;
        assert!(f.claim("mail", 10).await.is_empty());
        assert_eq!(f.claim("sms", 10).await.len(), 1);
    }

    pub(super) async fn no_type_starves_another(f: Fixture) {
        for n in 0..20 {
            f.enqueue(item(&n.to_string())).await;
        }
        f.enqueue(NewItem::new("sms", "s", "{}")).await;
        let claims = f.store.claim(&request(&["mail", "sms"], 10)).await.unwrap().claims;
        assert_eq!(claims.len(), 10);
        assert_eq!(claims.iter().filter(|claim| claim.item.item_type == "sms").count(), 1);
    }

    pub(super) async fn a_type_that_had_no_items_gets_its_share_again(f: Fixture) {
        let enqueue = async |item_type: &'static str, count: u32| {
            for n in 0..count {
                f.enqueue(NewItem::new(item_type, &format!("{item_type}-{n}"), "{}")).await;
            }
        };
        let claim = async || {
            let claims = f.store.claim(&request(&["mail", "sms"], 32)).await.unwrap().claims;
            let sms = claims.iter().filter(|claim| claim.item.item_type == "sms").count();
            (claims.len() - sms, sms)
        };
        enqueue("mail", 80).await;
        assert!(claim().await.0 >= 31, "a place may be kept for an item of the other type");
        enqueue("sms", 60).await;
        let first = claim().await;
        assert!(first.1 >= 1 && first.0 + first.1 == 32, "{first:?}");
        let second = claim().await;
        assert_eq!((second.0 + second.1, second.1 >= 15), (32, true), "{second:?}");
        while claim().await != (0, 0) {}
        for key in ["a", "b", "c"] {
            f.enqueue(NewItem::new("sms", key, "{}")).await;
        }
        assert_eq!(claim().await, (0, 3), "both had none");
    }

    /// A claim of ten items of a type of which five may be in work.
    fn capped() -> ClaimRequest {
        let mut capped = request(&["mail"], 10);
        capped.types[0].concurrency = Some(5);
        capped
    }

    pub(super) async fn a_claim_never_exceeds_its_limit_or_the_types_concurrency(f: Fixture) {
        for n in 0..10 {
            f.enqueue(item(&n.to_string())).await;
        }
        assert_eq!(f.claim("mail", 3).await.len(), 3);
        assert_eq!(f.store.claim(&capped()).await.unwrap().claims.len(), 2);
        assert_eq!(f.second().await.claim(&capped()).await.unwrap().claims.len(), 0);
    }

    pub(super) async fn processes_that_claim_at_once_do_not_exceed_the_types_concurrency_together(f: Fixture) {
        for n in 0..60 {
            f.enqueue(item(&n.to_string())).await;
        }
        let others = [f.second().await, f.second().await, f.second().await];
        let mut claimed = 0;
        while claimed < 5 {
            let requests = [capped(), capped(), capped()];
            let claims = tokio::join!(
                others[0].claim(&requests[0]),
                others[1].claim(&requests[1]),
                others[2].claim(&requests[2])
            );
            claimed += [claims.0, claims.1, claims.2].map(|made| made.unwrap().claims.len()).iter().sum::<usize>();
        }
        assert_eq!(claimed, 5);
    }

    pub(super) async fn a_rate_limits_claims_per_second(f: Fixture) {
        for n in 0..10 {
            f.enqueue(item(&n.to_string())).await;
        }
        let limited = || {
            let mut limited = request(&["mail"], 10);
            limited.types[0].rate = Some(2.0);
            limited
        };
        let first = f.store.claim(&limited()).await.unwrap();
        assert_eq!((first.claims.len(), first.next_available_in), (2, Some(Duration::from_millis(500))));
        assert_eq!(f.store.claim(&limited()).await.unwrap().claims.len(), 0);
        f.clock.advance(Duration::from_millis(500));
        assert_eq!(f.store.claim(&limited()).await.unwrap().claims.len(), 1);
        f.clock.advance(Duration::from_mins(1));
        assert_eq!(f.store.claim(&limited()).await.unwrap().claims.len(), 2);
    }

    pub(super) async fn readers_see_at_once_that_a_type_has_used_up_its_rate(f: Fixture) {
        let hourly = RatedType { item_type: "mail".into(), rate: Some(1.0 / 3_600.0), rate_per_key: None };
        let is_reached = async || {
            let reached = f.store.reached_rates(std::slice::from_ref(&hourly)).await.unwrap();
            reached.get("mail").is_some_and(|reached| reached.is_of_type)
        };
        for name in ["a", "b"] {
            f.enqueue(item(name)).await;
        }
        assert!(!is_reached().await, "its bucket is full");
        let mut limited = request(&["mail"], 10);
        limited.types[0].rate = hourly.rate;
        assert_eq!(f.store.claim(&limited).await.unwrap().claims.len(), 1);
        assert!(is_reached().await);
        assert!(f.store.reached_rates(&[]).await.unwrap().is_empty(), "no plugin gives the type a rate any more");
        f.clock.advance(Duration::from_mins(62));
        assert!(!is_reached().await, "it has had a token for long");
        assert_eq!(f.store.claim(&limited).await.unwrap().claims.len(), 1);
        assert!(!is_reached().await, "nothing waits for a token");
        f.clock.jump(-3_600_000);
        f.enqueue(item("c")).await;
        assert!(!is_reached().await, "claims take a bucket of the future as full");
        assert_eq!(f.store.claim(&limited).await.unwrap().claims.len(), 1);
        f.enqueue(item("d")).await;
        assert!(is_reached().await);
    }

    pub(super) async fn an_expired_claim_is_claimable_and_the_old_claim_cannot_complete(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let old = f.claim_one("mail").await;
        f.clock.advance(Duration::from_mins(1));
        let new = f.claim_one("mail").await;
        let counts = (new.item.attempts, new.item.deliveries, new.item.losses);
        assert_eq!((counts, new.item.maybe_executed), ((1, 2, 1), true));
        let late = f.store.settle(&old.reference(), done()).await.unwrap_err();
        assert!(matches!(late, StoreError::ClaimLost));
        assert_eq!(f.status(id).await, Status::Claimed);
        f.store.settle(&new.reference(), done()).await.unwrap();
        let twice = f.store.settle(&new.reference(), done()).await.unwrap_err();
        assert!(matches!(twice, StoreError::ClaimLost));
        let history = f.store.get(id).await.unwrap().unwrap().failed_attempts;
        assert_eq!(history.len(), 1);
        assert_eq!((history[0].class, history[0].attempt, history[0].pod.as_str()), (FailureClass::Lost, 1, "pod-1"));
    }

    pub(super) async fn a_settlement_is_accepted_after_the_lease_while_nobody_took_over(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.clock.advance(Duration::from_secs(61));
        f.store.settle(&claim.reference(), done()).await.unwrap();
        assert_eq!(f.status(id).await, Status::Done);
    }
}
