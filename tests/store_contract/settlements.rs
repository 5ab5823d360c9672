//! What each settlement makes of its item, and what it writes besides.

use std::time::Duration;

use outbox::core::{
    Failure, FailureClass, HostWrites, OnDead, RecordedBody, RecordedExchange, RecordedResponse, Recording, Settlement,
    StateChange, StateKeyChange,
};
use outbox::item::{Item, NewItem, Status};
use outbox::store::{Action, ClaimRef, EffectKeys, Filter, LeasePolicy, Selection, SettleRequest, StoreError};

use super::operate_request;
use crate::support::{Fixture, START, after_start, all, done, item, retry, settled};

promises! {
    a_retry_waits_counts_and_has_a_history_row
    a_give_back_waits_but_does_not_count
    equal_give_backs_in_a_row_share_a_history_row_and_others_do_not
    a_give_back_after_a_replay_shares_no_row_with_an_equal_failure_before_it
    the_newest_failed_attempts_of_an_item_are_shown_with_the_number_of_all
    a_failure_with_odd_characters_is_recorded_and_shown_however_it_ends
    a_release_leaves_no_trace
    an_item_without_an_attempt_left_is_dead_lettered_by_the_claim_that_finds_it
    what_a_failed_attempt_sent_and_was_answered_is_in_its_history
    state_and_followups_commit_with_done_or_not_at_all
    a_completion_does_the_same_whether_the_claim_says_that_its_item_is_plain_or_not
    items_of_equal_and_of_different_due_times_leave_the_queue_as_they_are_claimed
}

mod promise {
    use super::*;

    pub(super) async fn a_failure_with_odd_characters_is_recorded_and_shown_however_it_ends(f: Fixture) {
        let failure = || Failure::new(FailureClass::Retryable, "odd\0code", "bad \0 nul, \u{FFFE}, \u{1b}[31m, é");
        let on_dead = OnDead::Block;
        for (key, end) in [
            ("retry", Settlement::Retry { failure: failure(), delay: Duration::from_hours(1) }),
            ("give back", Settlement::GiveBack { failure: failure(), delay: Duration::from_hours(1) }),
            ("dead", Settlement::Dead { failure: failure(), on_dead }),
        ] {
            let id = f.enqueue(item(key)).await;
            let reference = f.claim_one("mail").await.reference();
            let stderr = Some("a\0b".into());
            f.store.settle(&reference, SettleRequest { stderr, ..settled(end) }).await.unwrap();
            let shown = f.store.get(id).await.unwrap().unwrap();
            let attempt = &shown.failed_attempts[0];
            for text in [&attempt.message, shown.item.last_error.as_ref().unwrap()] {
                assert!(text.starts_with("bad ") && text.ends_with(" nul, \u{FFFE}, \u{1b}[31m, é"), "{text:?}");
            }
            assert!(attempt.code.starts_with("odd") && attempt.stderr.is_some(), "{attempt:?}");
        }
        let failures = f.store.failures(&Filter::default(), 9).await.unwrap();
        assert_eq!((failures.len(), failures[0].count), (1, 1));
        assert_eq!(f.store.retrying_failures(&Filter::default(), 9).await.unwrap().len(), 1);
        assert_eq!(all(&*f.store).await.len(), 3);
    }

    pub(super) async fn a_completion_does_the_same_whether_the_claim_says_that_its_item_is_plain_or_not(f: Fixture) {
        for key in ["said", "unsaid"] {
            f.enqueue(item(key)).await;
        }
        let mut claims = f.claim("mail", 2).await.into_iter().map(|claim| claim.reference());
        let (said, unsaid) = (claims.next().unwrap(), claims.next().unwrap());
        assert!(said.is_plain);
        let digest = || SettleRequest { handler_digest: Some("d".into()), ..done() };
        f.store.settle(&said, digest()).await.unwrap();
        f.store.settle(&ClaimRef { is_plain: false, ..unsaid.clone() }, digest()).await.unwrap();
        let store = &f.store;
        let shown = |id| async move { store.get(id).await.unwrap().unwrap().item };
        let (first, second) = (shown(said.id).await, shown(unsaid.id).await);
        assert_eq!(first, Item { id: first.id, idem_key: first.idem_key.clone(), cid: first.cid.clone(), ..second });
        assert!(matches!(f.store.settle(&said, done()).await, Err(StoreError::ClaimLost)));
    }

    pub(super) async fn items_of_equal_and_of_different_due_times_leave_the_queue_as_they_are_claimed(f: Fixture) {
        let later = |key: &str, seconds| NewItem { delay: Duration::from_secs(seconds), ..item(key) };
        for new in [later("c", 2), item("a"), later("d", 2), item("b"), later("e", 2)] {
            f.enqueue(new).await;
        }
        f.clock.advance(Duration::from_secs(2));
        let mut keys = Vec::new();
        for limit in [1, 2, 1, 5] {
            let claims = f.claim("mail", limit).await;
            keys.extend(claims.into_iter().map(|claim| claim.item.idem_key));
        }
        assert_eq!(keys, ["a", "b", "c", "d", "e"]);
    }

    pub(super) async fn a_retry_waits_counts_and_has_a_history_row(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        let mut settled = retry(Duration::from_secs(2));
        settled.stderr = Some("it broke".into());
        settled.maybe_executed = true;
        f.store.settle(&claim.reference(), settled).await.unwrap();
        assert!(f.claim("mail", 1).await.is_empty());
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.item.maybe_executed), (Status::Pending, 1, true));
        assert_eq!(shown.item.available_at, after_start(2_000));
        assert_eq!(shown.item.last_error.as_deref(), Some("the receiver is down"));
        let row = &shown.failed_attempts[0];
        assert_eq!(
            (row.class, row.code.as_str(), row.stderr.as_deref()),
            (FailureClass::Retryable, "upstream.503", Some("it broke"))
        );
        f.clock.advance(Duration::from_secs(2));
        assert_eq!(f.claim_one("mail").await.item.attempts, 2);
    }

    pub(super) async fn a_give_back_waits_but_does_not_count(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for round in 1..=5 {
            let claim = f.claim_one("mail").await;
            assert_eq!((claim.item.attempts, claim.item.deliveries), (1, round));
            give_back(&f, &claim.reference(), "later").await;
        }
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.attempts, shown.item.give_backs), (0, 5));
        assert_eq!(shown.item.given_back_since, Some(START));
    }

    pub(super) async fn equal_give_backs_in_a_row_share_a_history_row_and_others_do_not(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for message in ["later", "later", "later", "no", "later"] {
            let claim = f.claim_one("mail").await;
            give_back(&f, &claim.reference(), message).await;
        }
        for _ in 0..2 {
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), retry(Duration::from_secs(1))).await.unwrap();
            f.clock.advance(Duration::from_secs(1));
        }
        let rows = f.store.get(id).await.unwrap().unwrap().failed_attempts;
        let told: Vec<_> = rows.iter().map(|row| (row.delivery, row.message.as_str())).collect();
        let down = "the receiver is down";
        assert_eq!(told, [(3, "later"), (4, "no"), (5, "later"), (6, down), (7, down)]);
        assert_eq!((rows[0].started_at, rows[0].ended_at), (START, after_start(2_000)), "from the first to the last");
        assert!(rows[0].maybe_executed, "one of them may have had an effect");
    }

    pub(super) async fn a_give_back_after_a_replay_shares_no_row_with_an_equal_failure_before_it(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let failure = Failure::new(FailureClass::Deferred, "not.now", "later");
        let end = settled(Settlement::Dead { failure, on_dead: OnDead::Block });
        f.store.settle(&f.claim_one("mail").await.reference(), end).await.unwrap();
        let replay = Action::Replay { keys: EffectKeys::Same };
        for _ in 0..2 {
            f.store.operate(&operate_request(replay, Selection::Ids(vec![id]))).await.unwrap();
            for _ in 0..2 {
                give_back(&f, &f.claim_one("mail").await.reference(), "later").await;
            }
            f.store
                .operate(&operate_request(
                    Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Respect },
                    Selection::Ids(vec![id]),
                ))
                .await
                .unwrap();
        }
        let rows = f.store.get(id).await.unwrap().unwrap().failed_attempts;
        let told: Vec<_> = rows.iter().map(|row| (row.delivery, row.message.as_str())).collect();
        let by = "dead-lettered by ada@host: repaired";
        assert_eq!(told, [(1, "later"), (3, "later"), (4, by), (6, "later"), (7, by)]);
    }

    pub(super) async fn the_newest_failed_attempts_of_an_item_are_shown_with_the_number_of_all(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        f.sql(&format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300)
             INSERT INTO outbox_attempts (item_id, delivery, attempt, started_at, ended_at, pod, class, code, message,
                                          maybe_executed)
             SELECT {id}, n, n, 1, 1, 'p', 'retryable', 'c', 'm', (1 = 0) FROM numbers"
        ))
        .unwrap();
        let shown = f.store.get(id).await.unwrap().unwrap();
        let deliveries: Vec<_> = shown.failed_attempts.iter().map(|row| row.delivery).collect();
        assert_eq!((deliveries, shown.failed_attempts_total), ((201..=300).collect(), 300));
    }

    /// Gives the item back for a second, the first time with an effect that is not certain.
    async fn give_back(f: &Fixture, claim: &ClaimRef, message: &str) {
        let failure = Failure::new(FailureClass::Deferred, "not.now", message);
        let mut back = settled(Settlement::GiveBack { failure, delay: Duration::from_secs(1) });
        back.maybe_executed = f.clock.now() == START;
        f.store.settle(claim, back).await.unwrap();
        f.clock.advance(Duration::from_secs(1));
    }

    pub(super) async fn a_release_leaves_no_trace(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), settled(Settlement::Release)).await.unwrap();
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.item.deliveries), (Status::Pending, 0, 1));
        assert!(shown.failed_attempts.is_empty());
        assert_eq!(f.claim("mail", 1).await.len(), 1);
    }

    pub(super) async fn an_item_without_an_attempt_left_is_dead_lettered_by_the_claim_that_finds_it(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for attempt in 1..=3 {
            assert_eq!(f.claim_one("mail").await.item.attempts, attempt);
            let release = Action::Release { lease: LeasePolicy::Break };
            f.store.operate(&operate_request(release, Selection::Ids(vec![id]))).await.unwrap();
        }
        assert!(f.claim("mail", 1).await.is_empty());
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.failed_attempts.len()), (Status::Dlq, 3, 3));
        assert!(shown.item.last_error.unwrap().contains("released"));
    }

    pub(super) async fn what_a_failed_attempt_sent_and_was_answered_is_in_its_history(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let answer = RecordedResponse::Response {
            status: 503,
            headers: vec![("a".into(), "b".into())],
            body: RecordedBody::whole(vec![0xff]),
        };
        let (method, url) = ("POST".to_owned(), "http://a/b".to_owned());
        let exchange = RecordedExchange {
            method,
            url,
            effect: None,
            headers: vec![],
            body: RecordedBody::whole("{}"),
            answer: Some(answer),
        };
        let recording = Recording { exchanges: vec![exchange], omitted: 3 };
        for kept in [recording, Recording::default()] {
            let claim = f.claim_one("mail").await;
            let settled = outbox::store::SettleRequest { exchanges: kept.compress(), ..retry(Duration::ZERO) };
            f.store.settle(&claim.reference(), settled).await.unwrap();
            let shown = f.store.get(id).await.unwrap().unwrap();
            assert_eq!(shown.failed_attempts.last().unwrap().recording, kept);
            f.clock.advance(Duration::from_secs(1));
        }
    }

    pub(super) async fn state_and_followups_commit_with_done_or_not_at_all(f: Fixture) {
        let writes = |read_version, value: &str| HostWrites {
            plugin: "p".into(),
            state: vec![StateKeyChange { key: "n".into(), read_version, change: StateChange::Put(value.into()) }],
            state_quota: 1 << 20,
            followups: vec![NewItem::new("sms", "k/sms/1", "{}")],
            descendants_max: None,
        };
        let finish = |writes| settled(Settlement::Done { result: None, writes });
        for key in ["a", "b"] {
            f.enqueue(item(key)).await;
        }
        let claims = f.claim("mail", 2).await;
        f.store.settle(&claims[0].reference(), finish(writes(None, "1"))).await.unwrap();
        let (value, version) = f.store.read_state("p", "n").await.unwrap();
        assert_eq!(value.as_deref(), Some(&b"1"[..]));
        let stale = f.store.settle(&claims[1].reference(), finish(writes(None, "2"))).await.unwrap_err();
        assert!(matches!(stale, StoreError::StateConflict { ref key, .. } if key == "n"), "{stale}");
        assert_eq!(f.status(claims[1].item.id).await, Status::Claimed, "the claim still holds");
        f.store.settle(&claims[1].reference(), finish(writes(version, "2"))).await.unwrap();
        assert_eq!(f.store.read_state("p", "n").await.unwrap().0.as_deref(), Some(&b"2"[..]));
        assert_eq!(f.claim("sms", 9).await.len(), 1, "a follow-up that exists is kept");
    }
}
