//! Chapter 5: the transitions and their required effects.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox::core::{Failure, FailureClass, OnDead, Settlement};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{Action, Claim, LeasePolicy, Retention, StoreError};

use super::{REPLAY, item_in, operate};
use crate::support::{Fixture, START, after_start, all, dead, done, failure, item, request, retry, settled};

requirements! {
    l1_l2_only_the_six_transitions_exist
    l3_l8_only_what_is_pending_and_due_is_claimed_with_its_time_and_its_claimer
    l4_success_makes_an_item_done_with_its_time
    l5_a_failure_or_an_ended_lease_leaves_it_eligible_counted_and_without_a_claim
    l6_l12_what_has_ended_stays_so_until_an_operator_comes
    l11_each_way_to_the_dlq_is_defined
    l13_only_the_holder_of_the_claim_finishes_it
    l14_l15_nothing_is_lost_by_a_crash_at_any_point
}

/// The operations to try on an item. Settlements use the item's first claim.
const TRIALS: [&str; 11] = [
    "claim",
    "done",
    "retry",
    "dead-letter",
    "give back",
    "release",
    "expire",
    "replay",
    "restore",
    "dead by operator",
    "release by operator",
];

async fn attempt(f: &Fixture, trial: &str, id: ItemId, claim: Option<&Claim>) {
    let settlement = match trial {
        "done" => done(),
        "retry" => retry(Duration::ZERO),
        "dead-letter" => dead(),
        "give back" => settled(Settlement::GiveBack { failure: failure(), delay: Duration::ZERO }),
        "release" => settled(Settlement::Release),
        "claim" => return drop(f.claim("mail", 9).await),
        "expire" => {
            f.clock.advance(Duration::from_mins(1));
            f.store.expire_leases(&[]).await.unwrap();
            return;
        }
        by_operator => return drop(operate(f, action(by_operator), id).await),
    };
    if let Some(claim) = claim {
        // The store refuses this when the item no longer has this claim.
        drop(f.store.settle(&claim.reference(), settlement).await);
    }
}

fn action(word: &str) -> Action {
    match word {
        "replay" => REPLAY,
        "restore" => Action::Restore,
        "dead by operator" => Action::Dead { on_dead: OnDead::Skip, lease: LeasePolicy::Break },
        _ => Action::Release { lease: LeasePolicy::Break },
    }
}

/// A new item in a status, and its latest claim, also when that claim has already been settled.
async fn prepared(f: &Fixture, status: Status, key: &str) -> (ItemId, Option<Claim>) {
    let id = f.enqueue(item(key)).await;
    if status == Status::Pending {
        return (id, None);
    }
    let claim = f.claim_one("mail").await;
    match status {
        Status::Done => f.store.settle(&claim.reference(), done()).await.unwrap(),
        Status::Dlq => f.store.settle(&claim.reference(), dead()).await.unwrap(),
        _ => {}
    }
    (id, Some(claim))
}

mod requirement {
    use super::*;
    use outbox::item::Status::{Claimed, Dlq, Done, Pending};

    pub(super) async fn l1_l2_only_the_six_transitions_exist(f: Fixture) {
        let mut seen = BTreeSet::new();
        for status in Status::ALL {
            for trial in TRIALS {
                let (id, claim) = prepared(&f, status, &format!("{status} {trial}")).await;
                let before = f.item(id).await;
                attempt(&f, trial, id, claim.as_ref()).await;
                let after = f.item(id).await;
                if (after.status, after.deliveries) != (status, before.deliveries) {
                    // An operator dead-letters a PENDING item by claiming it first, which makes two transitions.
                    let claimed = after.deliveries > before.deliveries;
                    let from = if claimed { Status::Claimed } else { status };
                    seen.extend(claimed.then_some((status, Status::Claimed)));
                    seen.extend((after.status != from).then_some((from, after.status)));
                }
                // Claims everything, so that the next iteration receives its own item only.
                while !f.claim("mail", 9).await.is_empty() {}
            }
        }
        let six =
            [(Pending, Claimed), (Claimed, Pending), (Claimed, Done), (Claimed, Dlq), (Done, Pending), (Dlq, Pending)];
        assert_eq!(seen, six.into());
    }

    pub(super) async fn l3_l8_only_what_is_pending_and_due_is_claimed_with_its_time_and_its_claimer(f: Fixture) {
        for status in [Status::Claimed, Status::Done, Status::Dlq] {
            item_in(&f, status, item(status.as_str())).await;
        }
        f.enqueue(NewItem { delay: Duration::from_secs(9), ..item("late") }).await;
        assert!(f.claim("mail", 9).await.is_empty());
        let id = f.enqueue(item("due")).await;
        let claim = f.claim_one("mail").await;
        assert_eq!(claim.item.id, id);
        let stored = f.item(id).await;
        assert_eq!(
            (stored.status, stored.claimed_at),
            (Status::Claimed, Some(START)),
            "stored before it is handed out"
        );
        assert_eq!(stored.claimed_by.as_deref(), Some("pod-1"));
    }

    pub(super) async fn l4_success_makes_an_item_done_with_its_time(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.clock.advance(Duration::from_secs(3));
        f.store.settle(&claim.reference(), done()).await.unwrap();
        let stored = f.item(id).await;
        assert_eq!((stored.status, stored.done_at, stored.claimed_by), (Status::Done, Some(after_start(3_000)), None));
    }

    pub(super) async fn l5_a_failure_or_an_ended_lease_leaves_it_eligible_counted_and_without_a_claim(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), retry(Duration::ZERO)).await.unwrap();
        for losses in [0, 1] {
            let stored = f.item(id).await;
            let counts = (stored.attempts, stored.deliveries, stored.losses);
            assert_eq!((stored.status, counts), (Status::Pending, (1, 1 + losses, losses)));
            assert_eq!((stored.claimed_at, stored.claimed_by, stored.lease_until), (None, None, None));
            assert!(stored.last_error.is_some());
            f.clock.advance(Duration::from_secs(1));
            f.claim_one("mail").await;
            f.clock.advance(Duration::from_mins(1));
            assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 1);
        }
    }

    pub(super) async fn l6_l12_what_has_ended_stays_so_until_an_operator_comes(f: Fixture) {
        let ended = [item_in(&f, Status::Dlq, item("a")).await, item_in(&f, Status::Done, item("b")).await];
        let before = [f.item(ended[0]).await, f.item(ended[1]).await];
        assert!(before.iter().all(|item| item.claimed_at.is_none() && item.claimed_by.is_none()));
        for _ in 0..3 {
            f.clock.advance(Duration::from_hours(24));
            f.store.expire_leases(&[]).await.unwrap();
            f.store.run_maintenance(&Retention::default()).await.unwrap();
            assert!(f.claim("mail", 9).await.is_empty());
        }
        assert_eq!([f.item(ended[0]).await, f.item(ended[1]).await], before);
        for id in ended {
            operate(&f, REPLAY, id).await.unwrap();
        }
        assert_eq!(f.claim("mail", 9).await.len(), 2);
    }

    pub(super) async fn l11_each_way_to_the_dlq_is_defined(f: Fixture) {
        let lost = f.enqueue(item("lost")).await;
        for _ in 0..5 {
            f.claim_one("mail").await;
            f.clock.advance(Duration::from_mins(1));
        }
        assert!(f.claim("mail", 1).await.is_empty(), "the losses that the claimer's budget allows are spent");
        let refused = f.enqueue(item("refused")).await;
        let failure = Failure::new(FailureClass::Permanent, "no.such.user", "no such user");
        let claim = f.claim_one("mail").await;
        let dead = settled(Settlement::Dead { failure, on_dead: OnDead::Block });
        f.store.settle(&claim.reference(), dead).await.unwrap();
        let ordered = f.enqueue(item("ordered")).await;
        operate(&f, action("dead by operator"), ordered).await.unwrap();
        for (id, class) in
            [(lost, FailureClass::Lost), (refused, FailureClass::Permanent), (ordered, FailureClass::Operator)]
        {
            let shown = f.store.get(id).await.unwrap().unwrap();
            assert_eq!((shown.item.status, shown.failed_attempts.last().unwrap().class), (Status::Dlq, class));
        }
    }

    pub(super) async fn l13_only_the_holder_of_the_claim_finishes_it(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let old = f.claim_one("mail").await;
        operate(&f, action("release by operator"), id).await.unwrap();
        let new = f.second().await.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
        for late in [done(), dead(), retry(Duration::ZERO), settled(Settlement::Release)] {
            let refused = f.store.settle(&old.reference(), late).await;
            assert!(matches!(refused, Err(StoreError::ClaimLost)), "{refused:?}");
        }
        assert_eq!(f.status(id).await, Status::Claimed);
        f.store.settle(&new.reference(), done()).await.unwrap();
    }

    pub(super) async fn l14_l15_nothing_is_lost_by_a_crash_at_any_point(f: Fixture) {
        for status in Status::ALL {
            item_in(&f, status, NewItem::new(&status.as_str().to_lowercase(), status.as_str(), "{}")).await;
        }
        // After a crash only the committed data remain; another process reads them here.
        let survivor = f.second().await;
        let found = all(&*survivor).await;
        assert_eq!(found.iter().map(|item| item.status).collect::<BTreeSet<_>>(), Status::ALL.into());
        f.clock.advance(Duration::from_mins(1));
        assert_eq!(survivor.expire_leases(&[]).await.unwrap(), 1);
        let claims = survivor.claim(&request(&["pending", "claimed"], 9)).await.unwrap().claims;
        let mut again: Vec<_> =
            claims.iter().map(|claim| (claim.item.idem_key.as_str(), claim.item.maybe_executed)).collect();
        again.sort_unstable();
        assert_eq!(again, [("CLAIMED", true), ("PENDING", false)]);
        for status in ["PENDING", "CLAIMED"] {
            let among = format!("SELECT id FROM outbox_status WHERE status = '{status}'");
            let deleted = f.sql(&format!("DELETE FROM outbox_items WHERE id IN ({among})"));
            assert!(deleted.map_or_else(|err| err.contains("not finished"), |_| true));
        }
        assert_eq!(all(&*survivor).await.len(), 4);
    }
}
