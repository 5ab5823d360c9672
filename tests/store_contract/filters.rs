//! The promises of every store about which items a filter lets through.

use std::time::Duration;

use outbox::item::{ItemId, Status};
use outbox::store::{Filter, OperateReport, OperateRequest, Page, Selection};

use super::{REPLAY, operate_request};
use crate::support::{Fixture, dead, done, item};

promises! {
    a_filter_as_of_a_time_lets_through_what_was_in_its_status_then
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
}

/// The ids of the items that match, newest first.
async fn listed(f: &Fixture, filter: &Filter) -> Vec<ItemId> {
    let page = f.store.list(filter, &Page { limit: 100, before: None }).await.unwrap();
    page.items.into_iter().map(|listed| listed.item.id).collect()
}
