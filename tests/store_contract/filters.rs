//! The promises of every store about which items a filter lets through.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox::core::{Failure, FailureClass, OnDead, Settlement};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{Filter, OperateReport, OperateRequest, Page, Selection, StoreError, item_with_key};

use super::{REPLAY, operate_request};
use crate::support::{Fixture, dead, done, item, retry, settled};

promises! {
    a_filter_as_of_a_time_lets_through_what_was_in_its_status_then
    an_item_is_found_by_its_key_and_by_the_beginning_of_its_key
    items_are_found_by_what_they_contain
    items_are_found_by_a_text_in_any_part_of_them
    a_page_looks_at_a_bounded_number_of_items_and_the_next_goes_on
    a_page_reads_what_a_bounded_number_of_items_contain
    a_page_of_new_items_does_not_lead_to_old_ones
    an_action_on_what_items_contain_takes_those_and_no_others
    dead_items_are_found_by_the_text_of_their_error
    an_action_takes_no_more_items_than_it_may
    more_conditions_than_a_reader_checks_are_refused
    an_empty_text_is_refused_and_does_not_stand_for_every_item
}

async fn are_refused(f: &Fixture, filter: Filter) {
    let page = Page { limit: 1, before: None };
    assert!(matches!(f.store.list(&filter, &page).await, Err(StoreError::Invalid(_))));
    assert!(matches!(f.store.failures(&filter, 1).await, Err(StoreError::Invalid(_))));
    let request = operate_request(REPLAY, Selection::Filter(filter));
    assert!(matches!(f.store.operate(&request).await, Err(StoreError::Invalid(_))));
}

mod promise {
    use outbox::store::{Action, Execution};

    use super::*;

    pub(super) async fn a_filter_as_of_a_time_lets_through_what_was_in_its_status_then(f: Fixture) {
        let first = f.enqueue(item("a")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
        let done_first = f.enqueue(item("b")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        let waiting = f.enqueue(item("c")).await;
        let as_of = Some(f.store.now().await.unwrap());
        f.clock.advance(Duration::from_millis(1));
        // What was waiting dies later, and another item comes.
        f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
        f.enqueue(item("d")).await;
        let of = |status| Filter { status: vec![status], as_of, ..Filter::default() };
        assert_eq!(listed(&f, &of(Status::Dlq)).await, [first]);
        assert_eq!(listed(&f, &of(Status::Done)).await, [done_first]);
        assert!(listed(&f, &of(Status::Pending)).await.is_empty());
        let preview = operate_request(Action::Purge, Selection::Filter(of(Status::Dlq)));
        let preview = OperateRequest { execution: Execution::DryRun, ..preview };
        let OperateReport { changed, groups, .. } = f.store.operate(&preview).await.unwrap();
        assert_eq!((changed, groups.len(), groups[0].count), (1, 1, 1));
        assert_eq!((groups[0].status, groups[0].r#type.as_str()), (Status::Dlq, "mail"));
        let replayed = f.store.operate(&operate_request(REPLAY, Selection::Filter(of(Status::Dlq)))).await.unwrap();
        assert_eq!(replayed.sample, [first]);
        assert_eq!(f.status(waiting).await, Status::Dlq);
    }

    pub(super) async fn an_item_is_found_by_its_key_and_by_the_beginning_of_its_key(f: Fixture) {
        let ids = numbered(&f, 12).await;
        f.enqueue(item("b-1")).await;
        let key = |key: &str| Filter { idem_key: Some(key.into()), ..Filter::default() };
        assert_eq!(listed(&f, &key("a-1")).await, [ids[1]]);
        assert!(listed(&f, &key("a-")).await.is_empty());
        let prefix = |prefix: &str| Filter { key_prefix: Some(prefix.into()), ..Filter::default() };
        assert_eq!(listed(&f, &prefix("a-1")).await, [ids[11], ids[10], ids[1]]);
        assert_eq!(listed(&f, &prefix("a-")).await.len(), 12);
        assert_eq!(item_with_key(&*f.store, "a-7").await.unwrap(), Some(ids[7]));
        assert_eq!(item_with_key(&*f.store, "7").await.unwrap(), None);
    }

    pub(super) async fn items_are_found_by_what_they_contain(f: Fixture) {
        let ids = numbered(&f, 6).await;
        f.enqueue(NewItem::new("mail", "no JSON", vec![0xff])).await;
        f.sql(&format!("UPDATE outbox_items SET metadata = '{{\"team\": \"a\"}}' WHERE id = {}", ids[2])).unwrap();
        let filter = |payload: &[&str], headers: &[&str], metadata: &[&str]| {
            let conditions = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
            let [payload, headers, metadata] = [payload, headers, metadata].map(conditions);
            Filter { payload, headers, metadata, ..Filter::default() }
        };
        assert_eq!(listed(&f, &filter(&["n=4"], &[], &[])).await, [ids[4]]);
        assert_eq!(listed(&f, &filter(&["odd=true"], &[], &[])).await, [ids[5], ids[3], ids[1]]);
        assert_eq!(listed(&f, &filter(&["odd=true"], &["X-Tenant=t0"], &[])).await, [ids[3]]);
        assert_eq!(listed(&f, &filter(&[], &[], &["team=a"])).await, [ids[2]]);
        assert!(listed(&f, &filter(&["n=99"], &[], &[])).await.is_empty());
        let odd = filter(&["odd=true"], &[], &[]);
        let page = |before| Page { limit: 2, before };
        let first = f.store.list(&odd, &page(None)).await.unwrap().items;
        let rest = f.store.list(&odd, &page(Some(first[1].item.id))).await.unwrap().items;
        assert_eq!((first.len(), rest.len(), rest[0].item.id), (2, 1, ids[1]));
    }

    pub(super) async fn items_are_found_by_a_text_in_any_part_of_them(f: Fixture) {
        let with = |key: &str, payload: &str, header: &str, note: &str| NewItem {
            headers: BTreeMap::from([("x-note".to_owned(), header.to_owned())]),
            metadata: serde_json::json!({ "note": note }).as_object().unwrap().clone(),
            ..NewItem::new("mail", key, payload)
        };
        let parts = [("Needle", "", ""), ("", "needle", ""), ("", "", "NEEDLE"), ("", "", "hay")];
        let mut ids = Vec::new();
        for (number, (payload, header, note)) in parts.into_iter().enumerate() {
            ids.push(f.enqueue(with(&format!("k-{number}"), payload, header, note)).await);
        }
        let text = |text: &str| Filter { text: Some(text.into()), ..Filter::default() };
        assert_eq!(listed(&f, &text("nEEdle")).await, [ids[2], ids[1], ids[0]]);
        all_dead(&f).await;
        assert_eq!(listed(&f, &text("the RECEIVER is down")).await.len(), 4, "the message of the last failure too");
        assert!(listed(&f, &text("no such text")).await.is_empty());
        let retried = f.enqueue(item("retried")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::ZERO)).await.unwrap();
        assert_eq!(listed(&f, &text("the receiver is down")).await[0], retried);
        f.clock.advance(Duration::from_secs(1));
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        assert_eq!(listed(&f, &text("the receiver is down")).await.len(), 4, "a DONE item shows no failure");
        let dead = Filter { status: vec![Status::Dlq], ..text("needle") };
        let report = f.store.operate(&operate_request(REPLAY, Selection::Filter(dead))).await.unwrap();
        assert_eq!((report.matched, report.sample), (3, ids[..3].to_vec()));
    }

    pub(super) async fn a_page_looks_at_a_bounded_number_of_items_and_the_next_goes_on(f: Fixture) {
        let old = f.enqueue(NewItem { ordering_key: Some("k".into()), ..item("old-0") }).await;
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        fill(&f, 20_010).await;
        let page = |before| Page { limit: 9, before };
        for filter in [
            Filter { ordering_key: Some("k".into()), ..Filter::default() },
            Filter { created_to: Some(outbox::item::Millis::new(1)), ..Filter::default() },
            Filter { error: Some("x".into()), ..Filter::default() },
        ] {
            let first = f.store.list(&filter, &page(None)).await.unwrap();
            assert_eq!((first.items.len(), first.looked_at), (0, Some(20_000)), "{filter:?}");
            let rest = f.store.list(&filter, &page(first.next)).await.unwrap();
            assert_eq!((rest.next, rest.looked_at), (None, None), "{filter:?}");
            let found: Vec<_> = rest.items.iter().map(|found| found.item.id).collect();
            assert_eq!(found, if filter.ordering_key.is_some() { vec![old] } else { Vec::new() }, "{filter:?}");
        }
        for (filter, expected) in [
            (Filter { key_prefix: Some("old-".into()), ..Filter::default() }, 1),
            (Filter { key_prefix: Some("fill-".into()), ..Filter::default() }, 9),
            (Filter { cid: Some("old-0".into()), ..Filter::default() }, 1),
            (Filter { status: vec![Status::Done], r#type: Some("mail".into()), ..Filter::default() }, 1),
            (Filter { r#type: Some("mail".into()), ..Filter::default() }, 9),
        ] {
            let found = f.store.list(&filter, &page(None)).await.unwrap();
            assert_eq!((found.items.len(), found.looked_at), (expected, None), "{filter:?}");
        }
    }

    pub(super) async fn a_page_reads_what_a_bounded_number_of_items_contain(f: Fixture) {
        let old = f.enqueue(NewItem { payload: r#"{"n":1}"#.into(), ..item("old") }).await;
        fill(&f, 5_005).await;
        let conditions = [
            Filter { payload: vec!["n=1".parse().unwrap()], ..Filter::default() },
            Filter { text: Some("\"n\":1".into()), ..Filter::default() },
        ];
        for filter in conditions {
            let first = f.store.list(&filter, &Page { limit: 9, before: None }).await.unwrap();
            assert_eq!((first.items.len(), first.looked_at), (0, Some(5_000)));
            let rest = f.store.list(&filter, &Page { limit: 9, before: first.next }).await.unwrap();
            assert_eq!((rest.items[0].item.id, rest.next), (old, None));
        }
    }

    pub(super) async fn a_page_of_new_items_does_not_lead_to_old_ones(f: Fixture) {
        fill(&f, 20_010).await;
        f.clock.advance(Duration::from_hours(3));
        let new = f.enqueue(item("new")).await;
        let since = |ago: u64| {
            let from = f.clock.now().saturating_sub(Duration::from_mins(ago));
            Filter { created_from: Some(from), ..Filter::default() }
        };
        let recent = f.store.list(&since(15), &Page { limit: 9, before: None }).await.unwrap();
        assert_eq!((recent.items.len(), recent.items[0].item.id), (1, new));
        assert_eq!((recent.next, recent.looked_at), (None, None), "older items cannot match");
        let none = Filter { saga: Some("S".into()), ..since(150) };
        let unsure = f.store.list(&none, &Page { limit: 9, before: None }).await.unwrap();
        assert!(unsure.next.is_some(), "half an hour is too little to be sure of the order");
    }

    pub(super) async fn an_action_on_what_items_contain_takes_those_and_no_others(f: Fixture) {
        let ids = numbered(&f, 450).await;
        all_dead(&f).await;
        let odd = Filter { status: vec![Status::Dlq], payload: vec!["odd=true".parse().unwrap()], ..Filter::default() };
        let replay = operate_request(REPLAY, Selection::Filter(odd.clone()));
        let preview =
            f.store.operate(&OperateRequest { execution: Execution::DryRun, ..replay.clone() }).await.unwrap();
        assert_eq!((preview.matched, preview.sample[0]), (225, ids[1]));
        assert_eq!(f.store.failures(&odd, 9).await.unwrap()[0].count, 225);
        let report = f.store.operate(&replay).await.unwrap();
        assert_eq!((report.matched, report.changed), (225, 225), "three batches are looked at");
        assert_eq!(f.store.overview().await.unwrap().by_status["PENDING"], 225);
        assert_eq!(f.status(ids[0]).await, Status::Dlq);
    }

    pub(super) async fn dead_items_are_found_by_the_text_of_their_error(f: Fixture) {
        let ids = numbered(&f, 2).await;
        all_dead(&f).await;
        let other = f.enqueue(item("other")).await;
        let failure = Failure::new(FailureClass::Permanent, "x", "50% of it_ is wrong");
        let settlement = Settlement::Dead { failure, on_dead: OnDead::Block };
        f.store.settle(&f.claim_one("mail").await.reference(), settled(settlement)).await.unwrap();
        let error = |text: &str| Filter { error: Some(text.into()), ..Filter::default() };
        assert_eq!(listed(&f, &error("receiver is")).await, [ids[1], ids[0]]);
        assert_eq!(listed(&f, &error("50% of it_")).await, [other]);
        assert_eq!(listed(&f, &error("RECEIVER Is")).await, [ids[1], ids[0]], "capital and small letters are alike");
        assert!(listed(&f, &error("sender")).await.is_empty());
    }

    pub(super) async fn an_action_takes_no_more_items_than_it_may(f: Fixture) {
        let ids = numbered(&f, 9).await;
        all_dead(&f).await;
        let first = Filter { status: vec![Status::Dlq], first: Some(3), ..Filter::default() };
        let odd = Filter { payload: vec!["odd=true".parse().unwrap()], first: Some(2), ..first.clone() };
        for (filter, expected) in [(first, &ids[..3]), (odd, &[ids[3], ids[5]])] {
            let replay = operate_request(REPLAY, Selection::Filter(filter));
            let dry = OperateRequest { execution: Execution::DryRun, ..replay.clone() };
            assert_eq!(f.store.operate(&dry).await.unwrap().sample, expected);
            let report = f.store.operate(&replay).await.unwrap();
            assert_eq!((report.matched, &report.sample[..]), (expected.len() as u64, expected));
        }
        assert_eq!(f.store.overview().await.unwrap().by_status["PENDING"], 5);
    }

    pub(super) async fn more_conditions_than_a_reader_checks_are_refused(f: Fixture) {
        let many = Filter { payload: vec!["n=1".parse().unwrap(); 9], ..Filter::default() };
        are_refused(&f, many).await;
    }

    pub(super) async fn an_empty_text_is_refused_and_does_not_stand_for_every_item(f: Fixture) {
        let ids = numbered(&f, 1).await;
        for filter in [
            Filter { key_prefix: Some(String::new()), ..Filter::default() },
            Filter { error: Some(String::new()), ..Filter::default() },
            Filter { cid: Some(String::new()), ..Filter::default() },
        ] {
            are_refused(&f, filter).await;
        }
        assert_eq!(listed(&f, &Filter::default()).await, ids);
    }
}

/// Items with the keys `a-0`, `a-1`, … and the payloads `{"n": 0, "odd": false}` and so on.
async fn numbered(f: &Fixture, count: u32) -> Vec<ItemId> {
    let mut ids = Vec::new();
    for n in 0..count {
        let payload = format!(r#"{{"n": {n}, "odd": {}}}"#, n % 2 == 1);
        let headers = BTreeMap::from([("x-tenant".to_owned(), format!("t{}", n % 3))]);
        ids.push(f.enqueue(NewItem { headers, ..NewItem::new("mail", &format!("a-{n}"), payload) }).await);
    }
    ids
}

/// So many items that wait, with the keys `fill-1`, `fill-2`, … and the payload `{}`.
async fn fill(f: &Fixture, count: u32) {
    let now = f.store.now().await.unwrap();
    f.sql(&format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
         INSERT INTO outbox_items (type, idem_key, payload, created_at)
         SELECT 'mail', 'fill-' || n, '{{}}', {now} FROM numbers"
    ))
    .unwrap();
}

async fn all_dead(f: &Fixture) {
    loop {
        let claims = f.claim("mail", 1_000).await;
        if claims.is_empty() {
            return;
        }
        for claim in claims {
            f.store.settle(&claim.reference(), dead()).await.unwrap();
        }
    }
}

/// The ids of the items that match, newest first.
async fn listed(f: &Fixture, filter: &Filter) -> Vec<ItemId> {
    let page = f.store.list(filter, &Page { limit: 100, before: None }).await.unwrap();
    page.items.into_iter().map(|listed| listed.item.id).collect()
}
