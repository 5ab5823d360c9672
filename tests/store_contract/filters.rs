//! The promises of every store about which items a filter lets through.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox::core::{Failure, FailureClass, OnDead, Settlement};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{Filter, OperateReport, OperateRequest, Page, Selection, StoreError, item_with_key};

use super::{REPLAY, operate_request};
use crate::support::{Fixture, dead, done, item, settled};

promises! {
    a_filter_as_of_a_time_lets_through_what_was_in_its_status_then
    an_item_is_found_by_its_key_and_by_the_beginning_of_its_key
    items_are_found_by_what_they_contain
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
