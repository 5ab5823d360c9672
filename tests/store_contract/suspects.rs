//! The promises of every store about losses: leases that ran out, and the items that may have ended their process.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox::core::{CrashBudget, FailureClass, SuspectRoom};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{Action, BatchMode, Claim, ClaimBatch, LeasePolicy, Selection, SuspectTerms};

use super::{REPLAY, operate_request};
use crate::support::{Fixture, done, item, ordered, request, retry};

promises! {
    a_lease_that_ends_gives_the_attempt_back_and_counts_a_loss_until_the_item_is_done
    a_loss_is_the_failure_of_a_type_without_retries
    suspects_come_first_and_few_at_a_time_into_a_lease_of_their_own
    suspects_of_one_type_are_claimed_at_a_time_and_a_pause_or_a_limit_holds_for_them
    a_process_with_suspects_in_flight_gets_no_others
    a_suspect_that_must_be_alone_is_claimed_by_an_idle_process_and_with_nothing_else
    an_item_that_was_lost_too_often_is_dead_lettered_and_a_replay_gives_it_a_new_life
    an_operators_release_is_an_attempt_and_no_loss
    a_suspect_that_waits_for_its_retry_is_announced
    losses_of_an_item_that_blocks_or_waits_in_line_change_nothing_for_its_key
}

const LEASE: Duration = Duration::from_mins(1);

/// Claims by a process with this in flight.
async fn claim(f: &Fixture, room: SuspectRoom, types: &[&str], limit: u32) -> ClaimBatch {
    let mut request = request(types, limit);
    request.suspects = SuspectTerms::new(room, CrashBudget::default());
    f.store.claim(&request).await.unwrap()
}

fn keys(claims: &[Claim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.item.idem_key.as_str()).collect()
}

/// Enqueues the items and loses them so often, all in one process.
async fn lose(f: &Fixture, items: Vec<NewItem>, losses: u32) -> Vec<ItemId> {
    let ids = f.store.enqueue(items, BatchMode::PerItem).await.unwrap().ids;
    let ids: Vec<_> = ids.into_iter().flatten().collect();
    while f.item(ids[0]).await.losses < losses {
        // A few at a time once they are suspects.
        let wanted: BTreeSet<_> = ids.iter().copied().collect();
        let mut claimed = BTreeSet::new();
        while claimed != wanted {
            let batch = claim(f, SuspectRoom::Idle, &["mail", "sms"], 9).await;
            claimed.extend(batch.claims.iter().map(|claim| claim.item.id));
        }
        f.clock.advance(LEASE);
        while f.store.expire_leases(&[]).await.unwrap() > 0 {}
    }
    ids
}

fn items(prefix: &str, count: u32) -> Vec<NewItem> {
    (0..count).map(|number| item(&format!("{prefix}{number}"))).collect()
}

mod promise {
    use super::*;

    pub(super) async fn a_lease_that_ends_gives_the_attempt_back_and_counts_a_loss_until_the_item_is_done(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::ZERO)).await.unwrap();
        for losses in 1..=2 {
            f.clock.advance(LEASE);
            f.claim_one("mail").await;
            f.clock.advance(LEASE);
            f.store.expire_leases(&[]).await.unwrap();
            let lost = f.item(id).await;
            assert_eq!((lost.attempts, lost.deliveries, lost.losses), (1, 1 + losses, losses));
            assert!(lost.maybe_executed && lost.last_error.unwrap().contains("the lease ended"));
        }
        let claim = f.claim_one("mail").await;
        assert_eq!((claim.item.attempts, claim.item.losses), (2, 2));
        f.store.settle(&claim.reference(), retry(Duration::ZERO)).await.unwrap();
        assert_eq!(f.item(id).await.losses, 2, "a failure does not end the count");
        f.clock.advance(LEASE);
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        let finished = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((finished.item.attempts, finished.item.losses), (3, 0));
        let history: Vec<_> = finished.failed_attempts.iter().map(|row| (row.delivery, row.attempt)).collect();
        assert_eq!(history, [(1, 1), (2, 2), (3, 2), (4, 2)]);
    }

    pub(super) async fn a_loss_is_the_failure_of_a_type_without_retries(f: Fixture) {
        let ids = lose(&f, items("k", 6), 1).await;
        let mut once = request(&["mail"], 9);
        once.types[0].max_retries = 0;
        let batch = f.store.claim(&once).await.unwrap();
        assert_eq!(batch.claims.len(), 0);
        for id in ids {
            let dead = f.store.get(id).await.unwrap().unwrap();
            assert_eq!((dead.item.status, dead.item.deliveries), (Status::Dlq, 1));
            let codes: Vec<_> = dead.failed_attempts.iter().map(|row| row.code.as_str()).collect();
            assert_eq!(codes, ["lease.expired"], "the loss is in the history");
        }
    }

    pub(super) async fn suspects_come_first_and_few_at_a_time_into_a_lease_of_their_own(f: Fixture) {
        lose(&f, items("lost", 5), 1).await;
        f.store.enqueue(items("fresh", 3), BatchMode::PerItem).await.unwrap();
        let mut wanted = request(&["mail"], 9);
        wanted.suspects = SuspectTerms::new(SuspectRoom::Shared, CrashBudget::default());
        let batch = f.store.claim(&wanted).await.unwrap();
        assert_eq!(keys(&batch.claims), ["lost0", "lost1", "lost2", "lost3", "fresh0", "fresh1", "fresh2"]);
        let tokens: Vec<_> = batch.claims.iter().map(|claim| claim.token).collect();
        assert!(tokens[..4].iter().all(|token| *token == wanted.suspects.token));
        assert!(tokens[4..].iter().all(|token| *token == wanted.types[0].token));
        f.clock.advance(LEASE);
        while f.store.expire_leases(&[]).await.unwrap() > 0 {}
        let after_two = claim(&f, SuspectRoom::Shared, &["mail"], 9).await;
        assert_eq!(keys(&after_two.claims), ["lost0", "lost1"], "nobody is without a loss");
        assert_eq!(after_two.claims[0].item.losses, 2);
    }

    pub(super) async fn suspects_of_one_type_are_claimed_at_a_time_and_a_pause_or_a_limit_holds_for_them(f: Fixture) {
        let sms = NewItem { item_type: "sms".into(), ..item("sms") };
        lose(&f, vec![item("a"), item("b"), sms], 1).await;
        let mut capped = request(&["mail", "sms"], 9);
        capped.types[0].concurrency = Some(1);
        capped.types[1].limit = 0;
        assert_eq!(keys(&f.store.claim(&capped).await.unwrap().claims), ["a"]);
        assert_eq!(keys(&f.store.claim(&capped).await.unwrap().claims), [""; 0]);
        assert_eq!(
            keys(&claim(&f, SuspectRoom::Shared, &["mail", "sms"], 1).await.claims).len(),
            1,
            "the limit of all"
        );
        assert_eq!(keys(&claim(&f, SuspectRoom::Shared, &["mail", "sms"], 9).await.claims).len(), 1);
    }

    pub(super) async fn a_process_with_suspects_in_flight_gets_no_others(f: Fixture) {
        lose(&f, items("lost", 2), 1).await;
        f.enqueue(item("fresh")).await;
        let batch = claim(&f, SuspectRoom::None, &["mail"], 9).await;
        assert_eq!((keys(&batch.claims), batch.lone_suspect_waits), (vec!["fresh"], false));
    }

    pub(super) async fn a_suspect_that_must_be_alone_is_claimed_by_an_idle_process_and_with_nothing_else(f: Fixture) {
        lose(&f, items("lost", 2), 3).await;
        f.enqueue(item("fresh")).await;
        let busy = claim(&f, SuspectRoom::Shared, &["mail"], 9).await;
        assert_eq!((keys(&busy.claims), busy.lone_suspect_waits), (vec!["fresh"], true));
        f.enqueue(item("other")).await;
        for key in ["lost0", "lost1"] {
            let idle = claim(&f, SuspectRoom::Idle, &["mail"], 9).await;
            assert_eq!((keys(&idle.claims), idle.lone_suspect_waits), (vec![key], false));
        }
        assert_eq!(keys(&claim(&f, SuspectRoom::Idle, &["mail"], 9).await.claims), ["other"]);
    }

    pub(super) async fn an_item_that_was_lost_too_often_is_dead_lettered_and_a_replay_gives_it_a_new_life(f: Fixture) {
        let id = lose(&f, vec![ordered("poison")], 5).await[0];
        f.enqueue(ordered("behind")).await;
        f.enqueue(item("fresh")).await;
        assert_eq!(keys(&claim(&f, SuspectRoom::Shared, &["mail"], 9).await.claims), ["fresh"]);
        let dead = f.store.get(id).await.unwrap().unwrap();
        let counts = (dead.item.attempts, dead.item.deliveries, dead.item.losses);
        assert_eq!((dead.item.status, counts), (Status::Dlq, (0, 6, 5)));
        let last = dead.failed_attempts.last().unwrap();
        assert_eq!((last.class, last.code.as_str(), last.delivery), (FailureClass::Lost, "crashes.exhausted", 6));
        assert_eq!(dead.failed_attempts.len(), 6, "one row for each loss besides");
        assert_eq!(f.store.overview().await.unwrap().blocked_keys, 1);
        f.store.operate(&operate_request(REPLAY, Selection::Ids(vec![id]))).await.unwrap();
        let claims = claim(&f, SuspectRoom::Shared, &["mail"], 9).await.claims;
        assert_eq!((keys(&claims), claims[0].item.losses), (vec!["poison"], 0));
    }

    pub(super) async fn an_operators_release_is_an_attempt_and_no_loss(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        f.claim_one("mail").await;
        let release = Action::Release { lease: LeasePolicy::Break };
        f.store.operate(&operate_request(release, Selection::Ids(vec![id]))).await.unwrap();
        let released = f.item(id).await;
        assert_eq!((released.attempts, released.losses, released.maybe_executed), (1, 0, true));
    }

    pub(super) async fn a_suspect_that_waits_for_its_retry_is_announced(f: Fixture) {
        lose(&f, items("lost", 1), 1).await;
        let lost = claim(&f, SuspectRoom::Idle, &["mail"], 9).await.claims.remove(0);
        f.store.settle(&lost.reference(), retry(Duration::from_secs(5))).await.unwrap();
        let batch = claim(&f, SuspectRoom::Idle, &["mail"], 9).await;
        assert!(batch.claims.is_empty());
        // Sooner, where the look of this claim did not begin at the start of the queue.
        assert!(
            batch.next_available_in.is_some_and(|wait| !wait.is_zero() && wait <= Duration::from_secs(5)),
            "{batch:?}"
        );
        assert_eq!(f.store.overview().await.unwrap().by_status["PENDING"], 1);
    }

    pub(super) async fn losses_of_an_item_that_blocks_or_waits_in_line_change_nothing_for_its_key(f: Fixture) {
        let first = lose(&f, vec![ordered("first")], 1).await[0];
        f.enqueue(ordered("second")).await;
        let claims = claim(&f, SuspectRoom::Idle, &["mail"], 9).await.claims;
        assert_eq!(keys(&claims), ["first"]);
        f.store.settle(&claims[0].reference(), done()).await.unwrap();
        assert_eq!(f.item(first).await.losses, 0);
        assert_eq!(keys(&claim(&f, SuspectRoom::Idle, &["mail"], 9).await.claims), ["second"]);
    }
}
