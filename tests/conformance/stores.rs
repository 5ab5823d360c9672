//! Chapter 6: the contract of the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use outbox::core::{HostWrites, Settlement, StateChange, StateKeyChange};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{BatchMode, Store, StoreError};

use super::{item_in, retry_because};
use crate::support::guests::root;
use crate::support::{Fixture, START, all, done, item, request, settled};

requirements! {
    s1_nothing_is_seen_before_it_is_committed
    s2_s10_what_has_ended_can_be_looked_at_and_not_claimed
    s3_what_is_pending_and_due_is_found
    s4_no_more_is_claimed_than_the_caller_allows
    s5_what_was_available_first_is_claimed_first
    s6_claimers_at_once_never_hold_the_same_item
    s7_a_change_that_is_refused_changes_nothing_and_one_that_is_made_lasts
    s8_s9_whoever_settles_says_when_it_is_tried_again
    s11_nothing_is_lost_or_done_twice_by_many_at_once
    s12_an_ended_lease_makes_an_item_eligible_again_in_every_process
    s14_what_an_attempt_stores_is_committed_with_it_or_not_at_all
}

async fn work(store: Arc<dyn Store>) -> Vec<ItemId> {
    let mut settled = Vec::new();
    loop {
        let claims = store.claim(&request(&["mail"], 7)).await.unwrap().claims;
        if claims.is_empty() {
            return settled;
        }
        for claim in claims {
            store.settle(&claim.reference(), done()).await.unwrap();
            settled.push(claim.item.id);
        }
    }
}

mod requirement {
    use super::*;

    pub(super) async fn s1_nothing_is_seen_before_it_is_committed(f: Fixture) {
        let insert = "INSERT INTO outbox_items (type, idem_key, payload, available_at) VALUES ('mail', 'k', '', 0)";
        f.in_transaction(insert, async || assert!(all(&*f.store).await.is_empty())).await;
        assert_eq!(all(&*f.store).await.len(), 1);
        assert_eq!(f.claim("mail", 1).await.len(), 1);
    }

    pub(super) async fn s2_s10_what_has_ended_can_be_looked_at_and_not_claimed(f: Fixture) {
        for status in [Status::Pending, Status::Claimed, Status::Done, Status::Dlq] {
            let id = item_in(&f, status, NewItem::new(&status.as_str().to_lowercase(), status.as_str(), "{}")).await;
            let shown = f.store.get(id).await.unwrap().unwrap();
            assert_eq!((shown.item.status, shown.item.payload.as_slice()), (status, &b"{}"[..]));
        }
        f.clock.advance(Duration::from_secs(1));
        let claims = f.store.claim(&request(&["claimed", "done", "dlq"], 9)).await.unwrap().claims;
        assert!(claims.is_empty(), "{claims:?}");
    }

    pub(super) async fn s3_what_is_pending_and_due_is_found(f: Fixture) {
        let now = f.enqueue(item("now")).await;
        let later = f.enqueue(NewItem { delay: Duration::from_secs(1), ..item("later") }).await;
        assert_eq!(f.claim("mail", 9).await.iter().map(|claim| claim.item.id).collect::<Vec<_>>(), [now]);
        f.clock.advance(Duration::from_secs(1));
        assert_eq!(f.claim("mail", 9).await.iter().map(|claim| claim.item.id).collect::<Vec<_>>(), [later]);
    }

    pub(super) async fn s4_no_more_is_claimed_than_the_caller_allows(f: Fixture) {
        for n in 0..10 {
            f.enqueue(item(&n.to_string())).await;
        }
        for (limit, found) in [(0, 0), (3, 3), (100, 7)] {
            assert_eq!(f.claim("mail", limit).await.len(), found);
        }
    }

    pub(super) async fn s5_what_was_available_first_is_claimed_first(f: Fixture) {
        let mut ids = Vec::new();
        for delay in [2, 3, 1] {
            ids.push(f.enqueue(NewItem { delay: Duration::from_secs(delay), ..item(&delay.to_string()) }).await);
        }
        f.clock.advance(Duration::from_secs(3));
        let mut claimed = Vec::new();
        for _ in 0..3 {
            claimed.push(f.claim_one("mail").await.item.id);
        }
        assert_eq!(claimed, [ids[2], ids[0], ids[1]]);
    }

    pub(super) async fn s6_claimers_at_once_never_hold_the_same_item(f: Fixture) {
        for n in 0..60 {
            f.enqueue(item(&n.to_string())).await;
        }
        let stores = [Arc::clone(&f.store), f.second().await, f.second().await];
        let claiming = stores.map(|store| {
            tokio::spawn(async move {
                let mut claims = Vec::new();
                for _ in 0..10 {
                    claims.extend(store.claim(&request(&["mail"], 2)).await.unwrap().claims);
                }
                claims
            })
        });
        let mut claims = Vec::new();
        for claimed in claiming {
            claims.extend(claimed.await.unwrap());
        }
        assert!(claims.iter().all(|claim| claim.item.claimed_at == Some(START)));
        assert_eq!(claims.len(), 60);
        assert_eq!(claims.iter().map(|claim| claim.item.id).collect::<BTreeSet<_>>().len(), 60);
    }

    pub(super) async fn s7_a_change_that_is_refused_changes_nothing_and_one_that_is_made_lasts(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        let stale = StateKeyChange { key: "n".into(), read_version: Some(7), change: StateChange::Put(b"1".to_vec()) };
        let writes = HostWrites { plugin: "p".into(), state: vec![stale], state_quota: 99, ..HostWrites::default() };
        let refused = f.store.settle(&claim.reference(), settled(Settlement::Done { result: None, writes })).await;
        assert!(matches!(refused, Err(StoreError::StateConflict { .. })), "{refused:?}");
        let other = f.second().await;
        assert_eq!(other.get(id).await.unwrap().unwrap().item.status, Status::Claimed);
        f.store.settle(&claim.reference(), done()).await.unwrap();
        assert_eq!(other.get(id).await.unwrap().unwrap().item.status, Status::Done);
    }

    pub(super) async fn s8_s9_whoever_settles_says_when_it_is_tried_again(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for millis in [1, 7_000, 250] {
            let claim = f.claim_one("mail").await;
            let now = f.store.now().await.unwrap();
            let delay = Duration::from_millis(millis);
            f.store.settle(&claim.reference(), retry_because("no", delay)).await.unwrap();
            assert_eq!(f.item(id).await.available_at.since(now), delay);
            f.clock.advance(delay);
        }
        let mut folders: Vec<_> =
            ["store", "sqlite", "postgres"].map(|krate| root().join("host").join(krate).join("src")).into();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    let source = std::fs::read_to_string(entry.path()).unwrap();
                    assert!(!source.contains("RetryPolicy"), "{} knows the policy", entry.path().display());
                }
            }
        }
    }

    pub(super) async fn s11_nothing_is_lost_or_done_twice_by_many_at_once(f: Fixture) {
        let enqueue = |store: Arc<dyn Store>, from: u32| async move {
            for n in from..from + 40 {
                store.enqueue(vec![item(&n.to_string())], BatchMode::PerItem).await.unwrap();
            }
        };
        let (mine, theirs) = (Arc::clone(&f.store), f.second().await);
        tokio::join!(enqueue(Arc::clone(&mine), 0), enqueue(Arc::clone(&theirs), 20));
        let (first, second) = tokio::join!(tokio::spawn(work(mine)), tokio::spawn(work(theirs)));
        let mut settled = [first.unwrap(), second.unwrap()].concat();
        settled.sort_unstable();
        assert_eq!(settled, all(&*f.store).await.iter().rev().map(|item| item.id).collect::<Vec<_>>());
        assert_eq!(f.store.overview().await.unwrap().by_status["DONE"], 60);
    }

    pub(super) async fn s12_an_ended_lease_makes_an_item_eligible_again_in_every_process(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        f.claim_one("mail").await;
        let other = f.second().await;
        f.clock.advance(Duration::from_millis(59_999));
        assert_eq!(other.expire_leases(&[]).await.unwrap(), 0);
        f.clock.advance(Duration::from_millis(1));
        assert_eq!(other.expire_leases(&[]).await.unwrap(), 1);
        assert_eq!(f.status(id).await, Status::Pending);
        assert_eq!(other.claim(&request(&["mail"], 1)).await.unwrap().claims[0].item.id, id);
    }

    pub(super) async fn s14_what_an_attempt_stores_is_committed_with_it_or_not_at_all(f: Fixture) {
        f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        let key_change =
            StateKeyChange { key: "n".into(), read_version: None, change: StateChange::Put(b"1".to_vec()) };
        let followups = vec![NewItem::new("sms", "k/sms", "{}")];
        let writes = HostWrites {
            plugin: "p".into(),
            state: vec![key_change],
            state_quota: 99,
            followups,
            ..HostWrites::default()
        };
        let finish = settled(Settlement::Done { result: None, writes });
        f.clock.advance(Duration::from_mins(1));
        let new = f.claim_one("mail").await;
        assert!(f.store.settle(&claim.reference(), finish.clone()).await.is_err());
        assert_eq!((f.store.read_state("p", "n").await.unwrap().0, f.claim("sms", 9).await.len()), (None, 0));
        f.store.settle(&new.reference(), finish).await.unwrap();
        assert_eq!(f.store.read_state("p", "n").await.unwrap().0.as_deref(), Some(&b"1"[..]));
        assert_eq!(f.claim("sms", 9).await.len(), 1);
    }
}
