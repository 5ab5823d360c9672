//! Streaks: several items of one ordering key in one claim.

use std::time::Duration;

use outbox::core::{HostWrites, OnDead, Settlement};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{
    Action, Claim, Control, ControlRequest, Execution, LeasePolicy, Selection, SettleRequest, StoreError,
};

use super::operate_request;
use crate::support::{Fixture, done, failure, is_soak, item, ordered, request, retry, settled, with_streaks};

promises! {
    a_claim_takes_what_follows_the_front_of_a_key_in_order
    a_streak_ends_before_an_item_of_another_type_that_is_not_due_or_was_claimed_before
    a_streak_ends_before_a_dead_item_that_blocks
    items_that_are_in_front_come_before_those_that_follow
    the_items_of_a_streak_are_settled_in_order
    a_settlement_that_fails_gives_back_what_follows_uncounted
    an_item_of_a_streak_that_is_released_takes_along_what_follows_it
    a_streak_whose_lease_ends_is_repeated_from_its_first_unsettled_item
    a_streak_that_is_abandoned_is_claimed_again_in_order
    an_operator_who_takes_an_item_out_of_a_streak_ends_the_streak
    an_item_that_comes_back_goes_before_what_follows_the_streak
    a_claim_counts_a_streak_against_the_limits_of_its_type
    a_streak_is_settled_together_in_any_order_of_its_calls
    a_long_line_keeps_its_order_whatever_becomes_of_its_items
    a_long_line_in_front_holds_up_no_item_without_a_key
}

mod promise {
    use super::*;

    async fn line(f: &Fixture, length: usize) -> Vec<ItemId> {
        let mut ids = Vec::new();
        for number in 0..length {
            ids.push(f.enqueue(ordered(&format!("in line {number}"))).await);
        }
        ids
    }

    async fn claim(f: &Fixture, limit: u32) -> Vec<Claim> {
        f.store.claim(&with_streaks(request(&["mail"], limit), 4)).await.unwrap().claims
    }

    fn ids(claims: &[Claim]) -> Vec<ItemId> {
        claims.iter().map(|claim| claim.item.id).collect()
    }

    async fn settle(f: &Fixture, claim: &Claim, how: SettleRequest) -> Result<(), StoreError> {
        f.store.settle(&claim.reference(), how).await
    }

    async fn statuses(f: &Fixture, ids: &[ItemId]) -> Vec<Status> {
        let mut statuses = Vec::new();
        for id in ids {
            statuses.push(f.status(*id).await);
        }
        statuses
    }

    /// Attempts and deliveries of an item.
    async fn counts(f: &Fixture, id: ItemId) -> (u32, u32) {
        let item = f.item(id).await;
        (item.attempts, item.deliveries)
    }

    pub(super) async fn a_claim_takes_what_follows_the_front_of_a_key_in_order(f: Fixture) {
        let line = line(&f, 6).await;
        let claims = claim(&f, 9).await;
        assert_eq!(ids(&claims), line[..4]);
        assert!(claims.iter().all(|claim| claim.token == claims[0].token && claim.item.attempts == 1));
        assert!(claim(&f, 9).await.is_empty(), "the key is taken");
        for claim in &claims {
            settle(&f, claim, done()).await.unwrap();
        }
        assert_eq!(ids(&claim(&f, 9).await), line[4..]);
    }

    pub(super) async fn a_streak_ends_before_an_item_of_another_type_that_is_not_due_or_was_claimed_before(f: Fixture) {
        let first = f.enqueue(ordered("first")).await;
        let other = f.enqueue(NewItem { ordering_key: Some("k".into()), ..NewItem::new("sms", "other", "{}") }).await;
        let later = f.enqueue(NewItem { delay: Duration::from_secs(1), ..ordered("later") }).await;
        let second = f.enqueue(ordered("second")).await;
        let third = f.enqueue(ordered("third")).await;
        let claims = claim(&f, 9).await;
        assert_eq!(ids(&claims), [first]);
        settle(&f, &claims[0], done()).await.unwrap();
        let sms = f.claim_one("sms").await;
        assert_eq!(sms.item.id, other);
        settle(&f, &sms, done()).await.unwrap();
        assert!(claim(&f, 9).await.is_empty());
        f.clock.advance(Duration::from_secs(1));
        let claims = claim(&f, 2).await;
        assert_eq!(ids(&claims), [later, second]);
        settle(&f, &claims[0], retry(Duration::ZERO)).await.unwrap();
        f.clock.advance(Duration::from_secs(1));
        for expected in [later, second, third] {
            let claims = claim(&f, 9).await;
            assert_eq!(ids(&claims), [expected], "an item that was claimed before is alone");
            settle(&f, &claims[0], done()).await.unwrap();
        }
    }

    pub(super) async fn a_long_line_keeps_its_order_whatever_becomes_of_its_items(f: Fixture) {
        let mut expected = line(&f, 400).await;
        let [restored, left_dead, also_dead] = [100, 200, 390].map(|place| expected[place]);
        let (mut finished, mut failing, mut is_operated) = (Vec::new(), Some(expected[37]), false);
        while finished.len() < expected.len() {
            let claims = claim(&f, 9).await;
            let Some(first) = claims.first() else {
                f.clock.advance(Duration::from_secs(1));
                continue;
            };
            if failing == Some(first.item.id) {
                failing = None;
                settle(&f, first, retry(Duration::ZERO)).await.unwrap();
                continue;
            }
            for claim in &claims {
                settle(&f, claim, done()).await.unwrap();
                finished.push(claim.item.id);
            }
            if is_operated || finished.len() < 80 {
                continue;
            }
            is_operated = true;
            for id in [restored, left_dead, also_dead] {
                let dead = Action::Dead { on_dead: OnDead::Skip, lease: LeasePolicy::Respect };
                f.store.operate(&operate_request(dead, Selection::Ids(vec![id]))).await.unwrap();
            }
            f.store.operate(&operate_request(Action::Restore, Selection::Ids(vec![restored]))).await.unwrap();
            expected.retain(|id| ![left_dead, also_dead].contains(id));
            expected.push(f.enqueue(ordered("last")).await);
        }
        assert_eq!(finished, expected);
    }

    pub(super) async fn a_streak_ends_before_a_dead_item_that_blocks(f: Fixture) {
        let line = line(&f, 4).await;
        let dead = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Respect };
        f.store.operate(&operate_request(dead, Selection::Ids(vec![line[2]]))).await.unwrap();
        let claims = claim(&f, 9).await;
        assert_eq!(ids(&claims), line[..2]);
        settle(&f, &claims[0], done()).await.unwrap();
        settle(&f, &claims[1], done()).await.unwrap();
        assert!(claim(&f, 9).await.is_empty(), "the key is blocked");
        let control = Control::Unblock { ordering_key: "k".into() };
        let unblock = ControlRequest { control, actor: "ada".into(), reason: None, execution: Execution::Apply };
        f.store.control(&unblock).await.unwrap();
        assert_eq!(ids(&claim(&f, 9).await), line[3..]);
    }

    pub(super) async fn items_that_are_in_front_come_before_those_that_follow(f: Fixture) {
        let line = line(&f, 9).await;
        let mut others = Vec::new();
        for number in 0..3 {
            others.push(f.enqueue(item(&number.to_string())).await);
        }
        let claims = claim(&f, 5).await;
        let mut claimed = ids(&claims);
        claimed.sort();
        assert_eq!(claimed, [&line[..2], &others[..]].concat());
    }

    pub(super) async fn the_items_of_a_streak_are_settled_in_order(f: Fixture) {
        let line = line(&f, 5).await;
        let claims = claim(&f, 9).await;
        let with_writes = settled(Settlement::Done {
            result: None,
            writes: HostWrites { followups: vec![item("follow-up")], ..HostWrites::default() },
        });
        for early in [done(), with_writes.clone(), retry(Duration::ZERO)] {
            let refused = settle(&f, &claims[1], early).await;
            assert!(matches!(refused, Err(StoreError::OutOfTurn)), "{refused:?}");
        }
        assert_eq!(statuses(&f, &line[..4]).await, [Status::Claimed; 4]);
        assert_eq!(f.sql("SELECT count(*) FROM outbox_items").unwrap(), "5", "nothing was written");
        settle(&f, &claims[0], done()).await.unwrap();
        let again = settle(&f, &claims[0], done()).await;
        assert!(matches!(again, Err(StoreError::ClaimLost)), "{again:?}");
        settle(&f, &claims[1], with_writes).await.unwrap();
        settle(&f, &claims[2], done()).await.unwrap();
        assert!(claim(&f, 9).await.iter().all(|claim| claim.item.ordering_key.is_none()), "the key is still taken");
        settle(&f, &claims[3], done()).await.unwrap();
        assert_eq!(ids(&claim(&f, 9).await), line[4..]);
    }

    pub(super) async fn a_settlement_that_fails_gives_back_what_follows_uncounted(f: Fixture) {
        let dead = |on_dead| settled(Settlement::Dead { failure: failure(), on_dead });
        let give_back = settled(Settlement::GiveBack { failure: failure(), delay: Duration::ZERO });
        for (how, behind) in
            [(retry(Duration::ZERO), 0), (give_back, 0), (dead(OnDead::Block), 0), (dead(OnDead::Skip), 1)]
        {
            let f = Fixture::new(f.backend()).await;
            let line = line(&f, 4).await;
            let claims = claim(&f, 9).await;
            settle(&f, &claims[0], done()).await.unwrap();
            settle(&f, &claims[1], how.clone()).await.unwrap();
            assert_eq!(statuses(&f, &line[2..]).await, [Status::Pending; 2]);
            assert_eq!((counts(&f, line[2]).await, counts(&f, line[3]).await), ((0, 1), (0, 1)));
            let late = settle(&f, &claims[2], done()).await;
            assert!(matches!(late, Err(StoreError::ClaimLost)), "{late:?}");
            let next = claim(&f, 9).await;
            assert_eq!(ids(&next), line[2..2 + behind], "{how:?}");
        }
    }

    pub(super) async fn an_item_of_a_streak_that_is_released_takes_along_what_follows_it(f: Fixture) {
        use Status::{Claimed, Done, Pending};

        let line = line(&f, 4).await;
        let claims = claim(&f, 9).await;
        settle(&f, &claims[2], settled(Settlement::Release)).await.unwrap();
        assert_eq!(statuses(&f, &line).await, [Claimed, Claimed, Pending, Pending]);
        assert!(claim(&f, 9).await.is_empty(), "the key is still taken");
        settle(&f, &claims[0], done()).await.unwrap();
        settle(&f, &claims[1], done()).await.unwrap();
        assert_eq!(statuses(&f, &line).await, [Done, Done, Pending, Pending]);
        assert_eq!(ids(&claim(&f, 9).await), line[2..3]);
    }

    pub(super) async fn a_streak_whose_lease_ends_is_repeated_from_its_first_unsettled_item(f: Fixture) {
        let line = line(&f, 4).await;
        let claims = claim(&f, 9).await;
        settle(&f, &claims[0], done()).await.unwrap();
        f.clock.advance(Duration::from_secs(61));
        assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 3);
        let late = settle(&f, &claims[1], done()).await;
        assert!(matches!(late, Err(StoreError::ClaimLost)), "{late:?}");
        for expected in &line[1..] {
            let claims = claim(&f, 9).await;
            assert_eq!(ids(&claims), [*expected]);
            settle(&f, &claims[0], done()).await.unwrap();
        }
    }

    pub(super) async fn a_streak_that_is_abandoned_is_claimed_again_in_order(f: Fixture) {
        let line = line(&f, 4).await;
        let claims = claim(&f, 9).await;
        assert_eq!(f.store.abandon(&[claims[0].token]).await.unwrap(), 4);
        assert_eq!(statuses(&f, &line).await, [Status::Pending; 4]);
        assert_eq!(ids(&claim(&f, 9).await), line[..1]);
    }

    pub(super) async fn an_operator_who_takes_an_item_out_of_a_streak_ends_the_streak(f: Fixture) {
        use Status::{Claimed, Dlq, Pending};
        let release = Action::Release { lease: LeasePolicy::Break };
        let dead = |on_dead| Action::Dead { on_dead, lease: LeasePolicy::Break };
        let cases = [
            (release, 0, [Pending; 4], 0),
            (release, 2, [Claimed, Claimed, Pending, Pending], 2),
            (dead(OnDead::Block), 1, [Claimed, Dlq, Pending, Pending], 4),
            (dead(OnDead::Skip), 1, [Claimed, Dlq, Pending, Pending], 2),
            (dead(OnDead::Skip), 0, [Dlq, Pending, Pending, Pending], 1),
        ];
        for (action, place, expected, next) in cases {
            let f = Fixture::new(f.backend()).await;
            let line = line(&f, 4).await;
            let claims = claim(&f, 9).await;
            f.store.operate(&operate_request(action, Selection::Ids(vec![line[place]]))).await.unwrap();
            assert_eq!(statuses(&f, &line).await, expected, "{action:?}");
            for claim in &claims[..place] {
                settle(&f, claim, done()).await.unwrap();
            }
            let late = settle(&f, &claims[3], done()).await;
            assert!(matches!(late, Err(StoreError::ClaimLost)), "{late:?}");
            assert_eq!(ids(&claim(&f, 9).await), line.get(next).copied().into_iter().collect::<Vec<_>>(), "{action:?}");
        }
    }

    pub(super) async fn an_item_that_comes_back_goes_before_what_follows_the_streak(f: Fixture) {
        let line = line(&f, 6).await;
        let claims = claim(&f, 1).await;
        settle(&f, &claims[0], done()).await.unwrap();
        let claims = claim(&f, 9).await;
        assert_eq!(ids(&claims), line[1..5]);
        f.store.operate(&operate_request(super::super::REPLAY, Selection::Ids(vec![line[0]]))).await.unwrap();
        for claim in &claims {
            settle(&f, claim, done()).await.unwrap();
        }
        assert_eq!(ids(&claim(&f, 9).await).first(), Some(&line[0]));
    }

    pub(super) async fn a_claim_counts_a_streak_against_the_limits_of_its_type(f: Fixture) {
        let line = line(&f, 9).await;
        let mut limited = with_streaks(request(&["mail"], 9), 4);
        limited.types[0].concurrency = Some(3);
        let claims = f.store.claim(&limited).await.unwrap().claims;
        assert_eq!(ids(&claims), line[..3]);
        f.store.abandon(&[claims[0].token]).await.unwrap();
        let other = f.enqueue(NewItem { ordering_key: Some("other".into()), ..item("other") }).await;
        let mut rated = with_streaks(request(&["mail"], 9), 4);
        rated.types[0].rate = Some(2.0);
        let claimed = f.store.claim(&rated).await.unwrap();
        assert_eq!((ids(&claimed.claims), claimed.next_available_in.is_some()), (vec![line[0], other], true));
    }

    pub(super) async fn a_streak_is_settled_together_in_any_order_of_its_calls(f: Fixture) {
        let line = line(&f, 4).await;
        let claims = claim(&f, 9).await;
        let f = &f;
        let calls = claims.iter().rev().map(|claim| async move { (claim, settle(f, claim, done()).await) });
        for (claim, result) in futures_util::future::join_all(calls).await {
            match result {
                Ok(()) => {}
                Err(StoreError::OutOfTurn) => assert_eq!(f.status(claim.item.id).await, Status::Claimed),
                Err(err) => panic!("{err}"),
            }
        }
        let statuses = statuses(f, &line).await;
        let settled = statuses.iter().take_while(|status| **status == Status::Done).count();
        assert!(settled > 0 && statuses[settled..].iter().all(|status| *status == Status::Claimed), "{statuses:?}");
    }

    pub(super) async fn a_long_line_in_front_holds_up_no_item_without_a_key(f: Fixture) {
        let length = if is_soak() { 100_000 } else { 2_000 };
        f.sql(&format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {length})
             INSERT INTO outbox_items (type, idem_key, payload, ordering_key, available_at)
             SELECT 'mail', 'in line ' || n, '{{}}', 'k', 0 FROM numbers"
        ))
        .unwrap();
        let behind = f.enqueue(item("behind")).await;
        // The claim has room for eight, and eight of the line come first: it looks again behind them.
        let ids = ids(&f.store.claim(&request(&["mail"], 8)).await.unwrap().claims);
        assert!(ids.len() == 2 && ids.contains(&behind), "{ids:?}");
        let [third, fourth] = [f.enqueue(item("late")).await, f.enqueue(item("later")).await];
        let next = f.store.claim(&request(&["mail"], 8)).await.unwrap().claims;
        assert_eq!(self::ids(&next), [third, fourth]);
    }
}
