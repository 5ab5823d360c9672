//! How fairness keys share a type.

use std::time::Duration;

use outbox::core::KeyLimits;
use outbox::item::NewItem;
use outbox::store::{
    Claim, ClaimBatch, ClaimRequest, Control, ControlRequest, Execution, ExportPosition, KeyTotals, RatedType, Record,
    StuckKind, StuckQuery, unknown_fairness_key,
};

use crate::support::{Fixture, dead, done, item, request, retry, with_streaks};

promises! {
    the_single_item_of_a_key_waits_for_one_item_of_a_key_with_ten_thousand
    keys_and_items_without_one_are_served_one_after_the_other
    a_large_claim_takes_as_many_of_each_key_and_what_some_leave_goes_to_others
    a_key_whose_items_are_not_due_is_passed_over_and_its_time_is_known
    due_items_behind_thousands_of_keys_that_wait_are_found
    a_single_item_among_many_keys_that_wait_does_not_starve_behind_a_flood
    items_without_a_key_do_not_wait_for_all_keys_that_wait
    items_of_an_ordering_key_keep_their_order_whatever_their_fairness_keys_are
    no_more_than_the_concurrency_of_a_key_is_claimed_and_other_keys_go_on
    the_rate_of_a_key_limits_this_key_only
    a_key_that_used_up_its_rate_before_the_clock_was_set_back_is_claimed
    readers_see_at_once_which_keys_have_used_up_their_rate
    an_item_that_was_lost_or_failed_keeps_its_key
    a_paused_key_is_not_claimed_until_it_is_resumed_and_others_go_on
    a_key_that_is_paused_of_one_type_is_claimed_of_others
    no_suspect_of_a_paused_key_is_claimed
    suspects_keep_to_the_limits_of_their_keys
    a_suspect_and_a_fresh_item_of_a_key_take_a_token_each
    a_suspect_of_a_key_that_has_used_up_its_rate_is_waited_for
    keys_that_have_used_up_their_rate_are_waited_for_only_while_they_have_items
    a_key_is_found_behind_hundreds_that_have_used_up_their_rate
    unfinished_and_dead_items_are_counted_by_key
    pauses_of_keys_are_moved_to_another_store
    a_key_that_no_item_has_is_unknown_however_many_keys_there_are
}

/// SQL that enqueues as many items of this fairness key.
fn many(key: &str, items: u32) -> String {
    format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {items})
         INSERT INTO outbox_items (type, idem_key, payload, fairness_key, available_at)
         SELECT 'mail', '{key}-' || n, '{{}}', '{key}', 0 FROM numbers"
    )
}

/// SQL that enqueues an item of each of so many keys, which is due in an hour.
fn waiting(f: &Fixture, keys: u32) -> String {
    let later = f.clock.now().saturating_add(Duration::from_hours(1));
    format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {keys})
         INSERT INTO outbox_items (type, idem_key, payload, fairness_key, available_at)
         SELECT 'mail', 'w' || n, '{{}}', 'waits-' || n, {later} FROM numbers"
    )
}

fn of(key: Option<&str>, idem_key: &str) -> NewItem {
    NewItem { fairness_key: key.map(str::to_owned), ..item(idem_key) }
}

/// The fairness keys of claims; `-` for an item without one.
fn keys(claims: &[Claim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.item.fairness_key.as_deref().unwrap_or("-")).collect()
}

/// The keys that single claims come to, joined.
async fn claimed_singly(f: &Fixture, claims: usize) -> String {
    let mut order = String::new();
    for _ in 0..claims {
        order.push_str(keys(&f.claim("mail", 1).await).first().copied().unwrap_or("."));
    }
    order
}

/// A claim of up to 50 items under these limits of each key.
fn limited(per_key: KeyLimits) -> ClaimRequest {
    let mut limited = request(&["mail"], 50);
    limited.types[0].per_key = per_key;
    limited
}

/// A claim of up to 50 items, with this rate for each key, in items per second.
fn rated(rate: f64) -> ClaimRequest {
    limited(KeyLimits { concurrency: None, rate: Some(rate) })
}

/// Whether the store expects the next token of [`rated`] at 0.5, two seconds after one was taken.
fn waits_for_token(batch: &ClaimBatch) -> bool {
    batch.next_available_in == Some(Duration::from_secs(2))
}

fn command(control: Control) -> ControlRequest {
    let (actor, reason) = ("ada@host".into(), Some("it floods us".into()));
    ControlRequest { control, actor, reason, execution: Execution::Apply }
}

fn pause(key: &str, item_type: Option<&str>) -> ControlRequest {
    command(Control::PauseKey { fairness_key: key.into(), item_type: item_type.map(str::to_owned) })
}

fn resume(key: &str, item_type: Option<&str>) -> ControlRequest {
    command(Control::ResumeKey { fairness_key: key.into(), item_type: item_type.map(str::to_owned) })
}

mod promise {
    use super::*;

    pub(super) async fn the_single_item_of_a_key_waits_for_one_item_of_a_key_with_ten_thousand(f: Fixture) {
        f.sql(&many("big", 10_000)).unwrap();
        for single in ["small", "another"] {
            assert_eq!(keys(&f.claim("mail", 1).await), ["big"]);
            f.enqueue(of(Some(single), single)).await;
            let before = claimed_singly(&f, 2).await.find(single);
            assert!(before.is_some_and(|at| at <= "big".len()), "{single}: {before:?}");
        }
        f.enqueue(of(Some("third"), "third")).await;
        let batch = f.claim("mail", 100).await;
        assert_eq!(batch.len(), 100);
        assert!(keys(&batch)[..2].contains(&"third"), "it is attempted in the first round, too");
    }

    pub(super) async fn keys_and_items_without_one_are_served_one_after_the_other(f: Fixture) {
        for n in 0..3 {
            for key in [Some("a"), None, Some("b"), Some("c")] {
                f.enqueue(of(key, &format!("{key:?}{n}"))).await;
            }
        }
        let order = claimed_singly(&f, 12).await;
        let round: String = order.chars().take(4).collect();
        assert_eq!(order, round.repeat(3));
        let mut of_round: Vec<_> = round.chars().collect();
        of_round.sort_unstable();
        assert_eq!(of_round, ['-', 'a', 'b', 'c']);
        assert_eq!(claimed_singly(&f, 1).await, ".");
    }

    pub(super) async fn a_large_claim_takes_as_many_of_each_key_and_what_some_leave_goes_to_others(f: Fixture) {
        f.sql(&many("a", 100)).unwrap();
        for n in 0..20 {
            f.enqueue(of(None, &n.to_string())).await;
        }
        f.sql(&many("b", 3)).unwrap();
        let of = |claims: &[Claim], wanted: &str| keys(claims).into_iter().filter(|key| *key == wanted).count();
        let claims = f.claim("mail", 30).await;
        assert_eq!(["a", "b", "-"].map(|key| of(&claims, key)).iter().sum::<usize>(), 30);
        assert_eq!(of(&claims, "b"), 3);
        assert!((13..=14).contains(&of(&claims, "a")), "{}", of(&claims, "a"));
        let mut first = keys(&claims)[..3].to_vec();
        first.sort_unstable();
        assert_eq!(first, ["-", "a", "b"]);
        assert_eq!(f.claim("mail", 90).await.len(), 90, "what is left of the two");
        assert_eq!(f.claim("mail", 90).await.len(), 3);
    }

    pub(super) async fn a_key_whose_items_are_not_due_is_passed_over_and_its_time_is_known(f: Fixture) {
        f.enqueue(of(Some("a"), "now")).await;
        f.enqueue(NewItem { delay: Duration::from_secs(5), ..of(Some("b"), "later") }).await;
        f.enqueue(NewItem { delay: Duration::from_secs(7), ..of(None, "last") }).await;
        let batch = f.store.claim(&request(&["mail"], 9)).await.unwrap();
        assert_eq!((keys(&batch.claims), batch.next_available_in), (vec!["a"], Some(Duration::from_secs(5))));
        f.clock.advance(Duration::from_secs(5));
        let batch = f.store.claim(&request(&["mail"], 9)).await.unwrap();
        assert_eq!((keys(&batch.claims), batch.next_available_in), (vec!["b"], Some(Duration::from_secs(2))));
    }

    pub(super) async fn due_items_behind_thousands_of_keys_that_wait_are_found(f: Fixture) {
        f.sql(&waiting(&f, 2_500)).unwrap();
        f.enqueue(of(Some("zzz"), "due")).await;
        assert_eq!(keys(&f.claim("mail", 9).await), ["zzz"]);
    }

    pub(super) async fn a_single_item_among_many_keys_that_wait_does_not_starve_behind_a_flood(f: Fixture) {
        f.sql(&waiting(&f, 600)).unwrap();
        f.sql(&many("waits-2", 300)).unwrap();
        f.enqueue(of(Some("waits-21"), "single")).await;
        // Three looks make a round.
        let order = claimed_singly(&f, 8).await;
        assert!(order.contains("waits-21"), "{order}");
    }

    pub(super) async fn items_without_a_key_do_not_wait_for_all_keys_that_wait(f: Fixture) {
        f.sql(&waiting(&f, 600)).unwrap();
        f.enqueue(of(Some("waits-2"), "keyed")).await;
        f.enqueue(of(None, "unkeyed")).await;
        let mut claimed = f.claim("mail", 9).await;
        claimed.sort_by_key(|claim| claim.item.id);
        assert_eq!(keys(&claimed), ["waits-2", "-"]);
    }

    pub(super) async fn items_of_an_ordering_key_keep_their_order_whatever_their_fairness_keys_are(f: Fixture) {
        let mut expected = Vec::new();
        for (n, key) in ["b", "a", "a", "b", "c"].into_iter().enumerate() {
            let ordered = NewItem { ordering_key: Some("o".into()), ..of(Some(key), &n.to_string()) };
            expected.push(f.enqueue(ordered).await);
            f.enqueue(of(Some(key), &format!("beside {n}"))).await;
        }
        let mut handled = Vec::new();
        loop {
            let claims = f.store.claim(&with_streaks(request(&["mail"], 9), 9)).await.unwrap().claims;
            if claims.is_empty() {
                break;
            }
            for claim in claims {
                f.store.settle(&claim.reference(), done()).await.unwrap();
                handled.extend(claim.item.ordering_key.is_some().then_some(claim.item.id));
            }
        }
        assert_eq!(handled, expected);
    }

    pub(super) async fn no_more_than_the_concurrency_of_a_key_is_claimed_and_other_keys_go_on(f: Fixture) {
        for n in 0..5 {
            for key in [Some("a"), Some("b"), None] {
                f.enqueue(of(key, &format!("{key:?}{n}"))).await;
            }
        }
        let two = limited(KeyLimits { concurrency: Some(2), rate: None });
        let first = f.store.claim(&two).await.unwrap().claims;
        let mut of_first = keys(&first);
        of_first.sort_unstable();
        assert_eq!(of_first, ["-", "-", "-", "-", "-", "a", "a", "b", "b"], "items without a key have no such limit");
        let again = |request: &ClaimRequest| limited(request.types[0].per_key);
        assert_eq!(f.second().await.claim(&again(&two)).await.unwrap().claims.len(), 0);
        let ended = first.iter().find(|claim| claim.item.fairness_key.as_deref() == Some("b")).unwrap();
        f.store.settle(&ended.reference(), done()).await.unwrap();
        assert_eq!(keys(&f.second().await.claim(&again(&two)).await.unwrap().claims), ["b"]);
    }

    pub(super) async fn the_rate_of_a_key_limits_this_key_only(f: Fixture) {
        f.sql(&many("a", 50)).unwrap();
        let per_second = || rated(10.0);
        assert_eq!(f.store.claim(&per_second()).await.unwrap().claims.len(), 10);
        f.enqueue(of(Some("b"), "b")).await;
        let batch = f.store.claim(&per_second()).await.unwrap();
        assert_eq!(keys(&batch.claims), ["b"]);
        assert_eq!(batch.next_available_in, Some(Duration::from_millis(100)));
        f.clock.advance(Duration::from_millis(500));
        assert_eq!(f.second().await.claim(&per_second()).await.unwrap().claims.len(), 5);
        f.clock.advance(Duration::from_mins(1));
        assert_eq!(f.store.claim(&per_second()).await.unwrap().claims.len(), 10);
        assert_eq!(f.sql("SELECT count(*) FROM outbox_key_rates").unwrap(), "1", "the bucket of b is full again");
    }

    pub(super) async fn a_key_that_used_up_its_rate_before_the_clock_was_set_back_is_claimed(f: Fixture) {
        f.clock.advance(Duration::from_hours(2));
        f.sql(&many("a", 9)).unwrap();
        assert_eq!(f.store.claim(&rated(1.0)).await.unwrap().claims.len(), 1);
        assert_eq!(f.store.claim(&rated(1.0)).await.unwrap().claims.len(), 0, "the rate is used up");
        f.clock.jump(-3_600_000);
        assert_eq!(f.store.claim(&rated(1.0)).await.unwrap().claims.len(), 1);
        assert_eq!(f.second().await.claim(&rated(1.0)).await.unwrap().claims.len(), 0, "it counts from now on");
        f.clock.advance(Duration::from_secs(1));
        assert_eq!(f.store.claim(&rated(1.0)).await.unwrap().claims.len(), 1);
    }

    pub(super) async fn readers_see_at_once_which_keys_have_used_up_their_rate(f: Fixture) {
        for (key, name) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2")] {
            f.enqueue(of(Some(key), name)).await;
        }
        assert_eq!(reached(&f, 0.5).await, None, "every bucket is full");
        assert_eq!(f.store.claim(&rated(0.5)).await.unwrap().claims.len(), 2);
        assert_eq!(reached(&f, 0.5).await, Some((vec!["a".into(), "b".into()], true)));
        f.enqueue(of(None, "c")).await;
        assert_eq!(reached(&f, 0.5).await, Some((vec!["a".into(), "b".into()], false)), "c may be claimed");
        assert_eq!(keys(&f.store.claim(&rated(0.5)).await.unwrap().claims), ["-"]);
        f.store.control(&pause("b", None)).await.unwrap();
        assert_eq!(reached(&f, 0.5).await, Some((vec!["a".into()], true)), "b waits for another reason");
        f.clock.advance(Duration::from_mins(2));
        assert_eq!(reached(&f, 0.5).await, None, "the key has had a token for long");
        assert_eq!(keys(&f.store.claim(&rated(0.5)).await.unwrap().claims), ["a"]);
        f.enqueue(of(Some("a"), "a3")).await;
        assert_eq!(reached(&f, 0.5).await, Some((vec!["a".into()], true)));
        f.clock.jump(-3_600_000);
        f.enqueue(of(Some("a"), "a4")).await;
        assert_eq!(reached(&f, 0.5).await, None, "claims take a bucket of the future as full");
        assert_eq!(keys(&f.store.claim(&rated(0.5)).await.unwrap().claims), ["a"]);
    }

    /// The keys that have used up this rate, and whether these are all keys with due items.
    async fn reached(f: &Fixture, rate: f64) -> Option<(Vec<String>, bool)> {
        let rated = RatedType { item_type: "mail".into(), rate: None, rate_per_key: Some(rate) };
        let found = f.store.reached_rates(&[rated]).await.unwrap().remove("mail")?;
        Some((found.keys.into_iter().collect(), found.are_all_keys))
    }

    pub(super) async fn an_item_that_was_lost_or_failed_keeps_its_key(f: Fixture) {
        for key in ["a", "b"] {
            f.enqueue(of(Some(key), key)).await;
        }
        let claims = f.claim("mail", 9).await;
        f.store.settle(&claims[0].reference(), retry(Duration::from_secs(1))).await.unwrap();
        f.clock.advance(Duration::from_mins(2));
        f.store.expire_leases(&[]).await.unwrap();
        // The queue's own column, by which claims go.
        assert_eq!(f.sql("SELECT count(*) FROM outbox_queue WHERE fairness_key IN ('a', 'b')").unwrap(), "2");
        let mut found = Vec::new();
        for _ in 0..4 {
            found.extend(f.claim("mail", 9).await);
        }
        let mut found = keys(&found);
        found.sort_unstable();
        assert_eq!(found, ["a", "b"]);
    }

    pub(super) async fn a_paused_key_is_not_claimed_until_it_is_resumed_and_others_go_on(f: Fixture) {
        for key in [Some("a"), Some("b"), None] {
            f.enqueue(of(key, &format!("{key:?}"))).await;
        }
        f.clock.advance(Duration::from_mins(1));
        assert!(f.store.control(&pause("a", None)).await.unwrap().changed);
        assert!(!f.store.control(&pause("a", None)).await.unwrap().changed, "it was paused already");
        let mut claimed = f.claim("mail", 9).await;
        claimed.sort_by_key(|claim| claim.item.id);
        assert_eq!(keys(&claimed), ["b", "-"]);
        let pauses = f.store.key_pauses().await.unwrap();
        assert_eq!((pauses[0].fairness_key.as_str(), &pauses[0].r#type, pauses.len()), ("a", &None, 1));
        let stuck = f.store.stuck(&StuckQuery::default()).await.unwrap();
        let [entry] = &stuck[..] else { panic!("{stuck:?}") };
        assert_eq!((entry.kind, entry.fairness_key.as_deref(), entry.waiting), (StuckKind::Paused, Some("a"), 1));
        assert_eq!(entry.since, f.clock.now(), "when it was paused, and not when the item was due");
        assert!(entry.why.contains("it floods us") && entry.command == "outbox resume --key='a'", "{entry:?}");
        assert!(f.store.control(&resume("a", None)).await.unwrap().changed);
        assert_eq!(keys(&f.claim("mail", 9).await), ["a"]);
        let audit = f.sql("SELECT count(*) FROM outbox_audit WHERE action IN ('pause', 'resume')").unwrap();
        assert_eq!(audit, "2");
    }

    pub(super) async fn a_key_that_is_paused_of_one_type_is_claimed_of_others(f: Fixture) {
        f.enqueue(of(Some("a"), "mail")).await;
        let sms = NewItem { fairness_key: Some("a".into()), ..NewItem::new("sms", "sms", "{}") };
        f.enqueue(sms).await;
        f.store.control(&pause("a", Some("mail"))).await.unwrap();
        let claims = f.store.claim(&request(&["mail", "sms"], 9)).await.unwrap().claims;
        assert_eq!(claims.iter().map(|claim| claim.item.item_type.as_str()).collect::<Vec<_>>(), ["sms"]);
        assert!(!f.store.control(&resume("a", Some("sms"))).await.unwrap().changed);
        assert!(f.store.control(&resume("a", None)).await.unwrap().changed, "every pause of the key");
        assert_eq!(f.claim("mail", 9).await.len(), 1);
        assert!(f.store.control(&pause("", None)).await.is_err());
        assert!(f.store.control(&pause("a", Some("No"))).await.is_err());
    }

    pub(super) async fn no_suspect_of_a_paused_key_is_claimed(f: Fixture) {
        f.enqueue(of(Some("a"), "a")).await;
        f.claim_one("mail").await;
        f.store.control(&pause("a", None)).await.unwrap();
        f.clock.advance(Duration::from_mins(2));
        f.store.expire_leases(&[]).await.unwrap();
        assert!(f.claim("mail", 9).await.is_empty());
        f.store.control(&resume("a", None)).await.unwrap();
        assert_eq!(f.claim("mail", 9).await.len(), 1);
    }

    pub(super) async fn suspects_keep_to_the_limits_of_their_keys(f: Fixture) {
        for (key, items) in [("a", 3), ("b", 1)] {
            for n in 0..items {
                f.enqueue(of(Some(key), &format!("{key}{n}"))).await;
            }
        }
        assert_eq!(f.claim("mail", 9).await.len(), 4);
        f.clock.advance(Duration::from_mins(2));
        f.store.expire_leases(&[]).await.unwrap();
        let one = || limited(KeyLimits { concurrency: Some(1), rate: None });
        let first = f.store.claim(&one()).await.unwrap().claims;
        assert_eq!(first.len(), 1);
        let second = f.second().await.claim(&one()).await.unwrap().claims;
        assert_ne!(keys(&first), keys(&second), "each of another key");
        assert!(f.second().await.claim(&one()).await.unwrap().claims.is_empty(), "both keys are at their limit");
        for claim in first.iter().chain(&second) {
            f.store.settle(&claim.reference(), done()).await.unwrap();
        }
        assert_eq!(keys(&f.store.claim(&one()).await.unwrap().claims), ["a"]);
        assert_eq!(keys(&f.second().await.claim(&rated(1.0 / 60.0)).await.unwrap().claims), ["a"]);
        assert_eq!(f.sql("SELECT count(*) FROM outbox_key_rates").unwrap(), "1", "a suspect takes a token");
    }

    /// Enqueues an item of the key and loses it.
    async fn lose_one(f: &Fixture, key: &str) {
        f.enqueue(of(Some(key), "lost")).await;
        f.claim_one("mail").await;
        f.clock.advance(Duration::from_mins(2));
        f.store.expire_leases(&[]).await.unwrap();
    }

    pub(super) async fn a_suspect_and_a_fresh_item_of_a_key_take_a_token_each(f: Fixture) {
        lose_one(&f, "a").await;
        f.sql(&many("a", 9)).unwrap();
        let first = f.store.claim(&rated(4.0)).await.unwrap();
        let losses: Vec<_> = first.claims.iter().map(|claim| claim.item.losses).collect();
        assert_eq!(losses, [1, 0, 0, 0], "there were four tokens");
        assert!(first.next_available_in.is_some_and(|wait| wait <= Duration::from_millis(250)), "{first:?}");
        assert!(f.second().await.claim(&rated(4.0)).await.unwrap().claims.is_empty());
    }

    pub(super) async fn a_suspect_of_a_key_that_has_used_up_its_rate_is_waited_for(f: Fixture) {
        for name in ["1", "2"] {
            f.enqueue(of(Some("a"), name)).await;
        }
        assert_eq!(f.claim("mail", 9).await.len(), 2);
        f.clock.advance(Duration::from_mins(2));
        f.store.expire_leases(&[]).await.unwrap();
        let first = f.store.claim(&rated(0.5)).await.unwrap();
        assert!(first.claims.len() == 1 && waits_for_token(&first));
        f.store.settle(&first.claims[0].reference(), done()).await.unwrap();
        let none = f.store.claim(&rated(0.5)).await.unwrap();
        assert!(none.claims.is_empty() && waits_for_token(&none));
        f.clock.advance(Duration::from_secs(2));
        assert_eq!(f.store.claim(&rated(0.5)).await.unwrap().claims.len(), 1);
    }

    pub(super) async fn keys_that_have_used_up_their_rate_are_waited_for_only_while_they_have_items(f: Fixture) {
        for (key, name) in [("a", "a1"), ("b", "b1"), ("b", "b2")] {
            f.enqueue(of(Some(key), name)).await;
        }
        let first = f.store.claim(&rated(0.5)).await.unwrap();
        assert_eq!(first.claims.len(), 2);
        assert!(waits_for_token(&first));
        f.clock.advance(Duration::from_secs(2));
        let last = f.store.claim(&rated(0.5)).await.unwrap();
        assert_eq!(keys(&last.claims), ["b"]);
        assert!(!waits_for_token(&last), "no item is left");
        assert!(!waits_for_token(&f.store.claim(&rated(0.5)).await.unwrap()));
    }

    pub(super) async fn a_key_is_found_behind_hundreds_that_have_used_up_their_rate(f: Fixture) {
        let two_of_each = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1199)
            INSERT INTO outbox_items (type, idem_key, payload, fairness_key, available_at)
            SELECT 'mail', 'i' || n, '{}', 'k-' || (n / 2), 0 FROM numbers";
        f.sql(two_of_each).unwrap();
        f.enqueue(of(Some("z"), "z")).await;
        let mut found = Vec::new();
        for _ in 0..40 {
            let claims = f.store.claim(&rated(0.5)).await.unwrap().claims;
            found.extend(claims.into_iter().filter_map(|claim| claim.item.fairness_key));
        }
        let all = found.len();
        found.sort();
        found.dedup();
        assert_eq!((all, found.len()), (601, 601), "one of each key");
    }

    pub(super) async fn unfinished_and_dead_items_are_counted_by_key(f: Fixture) {
        for n in 0..5 {
            f.enqueue(of(Some("a"), &n.to_string())).await;
        }
        f.enqueue(of(Some("b"), "b")).await;
        f.enqueue(of(None, "none")).await;
        let claims = f.claim("mail", 4).await;
        let of_a: Vec<_> = claims.iter().filter(|claim| claim.item.fairness_key.as_deref() == Some("a")).collect();
        assert_eq!(of_a.len(), 2);
        f.store.settle(&of_a[0].reference(), dead()).await.unwrap();
        f.store.settle(&of_a[1].reference(), retry(Duration::from_hours(1))).await.unwrap();
        let now = f.clock.now();
        let totals = |key: &str, pending, retrying, claimed, dlq, first_due| KeyTotals {
            fairness_key: key.into(),
            r#type: "mail".into(),
            pending,
            retrying,
            claimed,
            dlq,
            first_due,
        };
        let expected = [totals("a", 4, 1, 0, 1, Some(now)), totals("b", 0, 0, 1, 0, None)];
        assert_eq!(f.store.key_totals(None, 9).await.unwrap(), expected);
        assert_eq!(f.store.key_totals(Some("mail"), 1).await.unwrap(), expected[..1]);
        assert!(f.store.key_totals(Some("sms"), 9).await.unwrap().is_empty());
    }

    pub(super) async fn a_key_that_no_item_has_is_unknown_however_many_keys_there_are(f: Fixture) {
        f.sql(&waiting(&f, 20_050)).unwrap();
        let unknown = unknown_fairness_key(&*f.store, "waits-l").await.unwrap().unwrap();
        assert!(unknown.nearest.iter().all(|near| near.starts_with("waits-")), "{unknown}");
        assert_eq!(unknown_fairness_key(&*f.store, "waits-1").await.unwrap(), None, "behind 20,000 others");
        f.store.control(&pause("soon", None)).await.unwrap();
        assert_eq!(unknown_fairness_key(&*f.store, "soon").await.unwrap(), None, "it is paused");
    }

    pub(super) async fn pauses_of_keys_are_moved_to_another_store(f: Fixture) {
        f.store.control(&pause("a", Some("mail"))).await.unwrap();
        f.store.control(&pause("b", None)).await.unwrap();
        let mut snapshot = f.store.begin_export().await.unwrap();
        let (mut records, mut after) = (Vec::new(), Some(ExportPosition::START));
        while let Some(position) = after {
            let page = snapshot.page(position, 9).await.unwrap();
            records.extend(page.records);
            after = page.next;
        }
        records.retain(|record| matches!(record, Record::Row { table, .. } if table == "key_pauses"));
        assert_eq!(records.len(), 2);
        let target = Fixture::new(f.backend()).await;
        target.store.control(&pause("b", None)).await.unwrap();
        target.store.import(records, Execution::Apply).await.unwrap();
        assert_eq!(target.store.key_pauses().await.unwrap().len(), 2);
    }
}
