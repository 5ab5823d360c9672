//! What becomes of a write: created, found to be there already, or refused.

use outbox::core::{HostWrites, Settlement};
use outbox::item::{NewItem, Status};
use outbox::store::{Action, BatchMode, Filter, PAGE_BYTES, Page, StoreError};

use super::{by_status, operate_request};
use crate::support::{Fixture, all, done, item, request, settled};

promises! {
    the_same_key_with_the_same_content_returns_the_first_id
    the_same_key_with_another_fairness_key_is_the_same_item_and_keeps_its_first_one
    the_same_key_with_other_content_is_a_conflict_and_stores_nothing
    a_write_of_several_items_is_created_whole_or_not_at_all
    a_batch_keeps_what_exists_and_creates_the_rest
    an_invalid_item_refuses_the_batch_and_is_named
    an_item_that_nobody_has_correlated_is_found_by_its_own_key
    a_page_has_sizes_instead_of_payloads_and_ends_at_its_bytes
}

mod promise {
    use super::*;

    pub(super) async fn the_same_key_with_the_same_content_returns_the_first_id(f: Fixture) {
        let first = f.enqueue(item("k")).await;
        let mut again = item("k");
        again.cid = Some("another".into());
        again.headers.insert("tenant".into(), "b".into());
        assert_eq!(f.enqueue(again).await, first);
        assert_eq!(all(&*f.store).await.len(), 1);
    }

    pub(super) async fn the_same_key_with_another_fairness_key_is_the_same_item_and_keeps_its_first_one(f: Fixture) {
        let of = |tenant: Option<&str>| NewItem { fairness_key: tenant.map(str::to_owned), ..item("k") };
        let first = f.enqueue(of(Some("acme"))).await;
        let again = f.store.enqueue(vec![of(Some("globex")), of(None)], BatchMode::PerItem).await.unwrap();
        assert_eq!((again.created, again.ids), (0, vec![Some(first); 2]));
        for tenant in ["'globex'", "NULL"] {
            let insert = "INSERT INTO outbox_items (type, idem_key, payload, fairness_key)";
            f.sql(&format!(r#"{insert} VALUES ('mail', 'k', '{{"to":"a"}}', {tenant})"#)).unwrap();
        }
        assert_eq!(all(&*f.store).await.len(), 1);
        assert_eq!(f.claim_one("mail").await.item.fairness_key.as_deref(), Some("acme"));
    }

    pub(super) async fn the_same_key_with_other_content_is_a_conflict_and_stores_nothing(f: Fixture) {
        let first = f.enqueue(item("k")).await;
        for change in [
            |i: &mut NewItem| i.payload = b"{}".to_vec(),
            |i: &mut NewItem| i.item_type = "sms".into(),
            |i: &mut NewItem| i.content_type = "text/plain".into(),
            |i: &mut NewItem| i.saga = Some("S".into()),
            |i: &mut NewItem| i.ordering_key = Some("o".into()),
        ] {
            let mut other = item("k");
            change(&mut other);
            let err = f.store.enqueue(vec![item("new"), other], BatchMode::PerItem).await.unwrap_err();
            assert!(matches!(err, StoreError::Conflict { index: 1, first: id, .. } if id == first), "{err}");
        }
        assert_eq!(all(&*f.store).await.len(), 1);
    }

    pub(super) async fn a_write_of_several_items_is_created_whole_or_not_at_all(f: Fixture) {
        let write = vec![item("k:a"), item("k:b")];
        let first = f.store.enqueue(write.clone(), BatchMode::AllOrNothing).await.unwrap();
        assert_eq!(first.created, 2);
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        f.store.operate(&operate_request(Action::Purge, by_status(Status::Done))).await.unwrap();
        let again = f.store.enqueue(write, BatchMode::AllOrNothing).await.unwrap();
        assert_eq!((again.created, again.ids), (0, vec![None, first.ids[1]]));
    }

    pub(super) async fn a_batch_keeps_what_exists_and_creates_the_rest(f: Fixture) {
        let first = f.enqueue(item("a")).await;
        let batch = f.store.enqueue(vec![item("a"), item("b"), item("b")], BatchMode::PerItem).await.unwrap();
        assert_eq!((batch.created, batch.ids[0], batch.ids[1] == batch.ids[2]), (1, Some(first), true));
        let seventh = f.enqueue(item("m7")).await;
        let many = (0..40).map(|n| item(&format!("m{}", n % 30))).collect();
        let batch = f.store.enqueue(many, BatchMode::PerItem).await.unwrap();
        assert_eq!((batch.created, batch.ids[7]), (29, Some(seventh)));
        assert_eq!(batch.ids[30..], batch.ids[..10]);
        for (n, id) in batch.ids.iter().enumerate() {
            assert_eq!(f.item(id.unwrap()).await.idem_key, format!("m{}", n % 30));
        }
    }

    pub(super) async fn an_invalid_item_refuses_the_batch_and_is_named(f: Fixture) {
        let err = f.store.enqueue(vec![item("a"), item("")], BatchMode::PerItem).await.unwrap_err();
        assert!(matches!(err, StoreError::Invalid(at) if at.index == 1 && at.source.field == "idem_key"));
        assert!(all(&*f.store).await.is_empty());
    }

    pub(super) async fn a_page_has_sizes_instead_of_payloads_and_ends_at_its_bytes(f: Fixture) {
        const NOTE: usize = 100 << 10;
        let noted = |key: String| NewItem {
            payload: vec![b'1'; 70_000],
            metadata: serde_json::Map::from_iter([("note".into(), "x".repeat(NOTE).into())]),
            ..item(&key)
        };
        for number in 0..60 {
            f.enqueue(noted(format!("k{number}"))).await;
        }
        let claim = f.store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
        let result = Settlement::Done { result: Some(b"[1, 2]".to_vec()), writes: HostWrites::default() };
        f.store.settle(&claim.reference(), settled(result)).await.unwrap();
        let (mut found, mut before, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = f.store.list(&Filter::default(), &Page { limit: 1000, before }).await.unwrap();
            assert!(page.items.len() * NOTE <= PAGE_BYTES, "{} items", page.items.len());
            (before, pages) = (page.next, pages + 1);
            found.extend(page.items);
            if before.is_none() {
                break;
            }
        }
        assert_eq!((found.len(), pages), (60, 2));
        assert!(found.is_sorted_by(|a, b| a.item.id > b.item.id), "newest first, each once");
        for summary in found {
            let result_bytes = (summary.item.id == claim.item.id).then_some(6);
            assert_eq!((summary.payload_bytes, summary.result_bytes), (70_000, result_bytes));
            assert_eq!((&summary.item.payload[..], &summary.item.result), (&b""[..], &None));
        }
    }

    pub(super) async fn an_item_that_nobody_has_correlated_is_found_by_its_own_key(f: Fixture) {
        let correlated = |key: &str, cid: &str| NewItem { cid: Some(cid.into()), ..item(key) };
        let alone = f.enqueue(item("k")).await;
        let caused = f.enqueue(correlated("l", "k")).await;
        let step = f.enqueue(NewItem { saga: Some("S".into()), ..item("m") }).await;
        f.enqueue(correlated("n", "l")).await;
        assert_eq!(f.item(alone).await.cid, "k");
        for (cid, expected) in [("k", vec![caused, alone]), ("m", vec![step]), ("o", vec![])] {
            let filter = Filter { cid: Some(cid.into()), ..Filter::default() };
            let found = f.store.list(&filter, &Page { limit: 9, before: None }).await.unwrap().items;
            assert_eq!(found.iter().map(|found| found.item.id).collect::<Vec<_>>(), expected, "{cid}");
        }
    }
}
