//! A backlog whose items have all used up their retries since a setting was lowered.

use std::time::Duration;

use outbox::item::{ItemId, Status};
use outbox::store::{BatchMode, ClaimBatch};

use crate::support::{Backend, Fixture, is_soak, item, on_each_backend, request};

on_each_backend! {
    a_backlog_without_retries_left_is_dead_lettered_in_short_transactions_and_holds_up_nobody
}

/// The most items that one claim may dead-letter, as a batch of settlements has at most.
const DEATHS_MAX: usize = 250;

/// Enqueues items that have had four attempts each, and behind them one that has had none.
async fn furnish(f: &Fixture, items: usize) -> ItemId {
    let new = (0..items).map(|n| item(&format!("worn-{n}"))).collect();
    f.store.enqueue(new, BatchMode::PerItem).await.unwrap();
    f.sql(
        "INSERT INTO outbox_past (id, attempts, deliveries, last_error)
         SELECT id, 4, 4, 'the upstream answered 503' FROM outbox_queue;
         UPDATE outbox_queue SET again = (1 = 1)",
    )
    .unwrap();
    f.clock.advance(Duration::from_secs(1));
    f.enqueue(item("fresh")).await
}

/// The number of items in the DLQ.
fn dead(f: &Fixture) -> usize {
    f.sql("SELECT count(*) FROM outbox_status WHERE status = 'DLQ'").unwrap().parse().unwrap()
}

/// Claims with two retries, as a worker does whose setting was lowered. Errors unless few items died by it.
async fn claim(f: &Fixture) -> ClaimBatch {
    let before = dead(f);
    let batch = f.store.claim(&request(&["mail"], 250)).await.unwrap();
    let died = dead(f) - before;
    assert!(died <= DEATHS_MAX, "one claim dead-lettered {died} items in its transaction");
    batch
}

mod on_each {
    use super::*;

    pub(super) async fn a_backlog_without_retries_left_is_dead_lettered_in_short_transactions_and_holds_up_nobody(
        backend: Backend,
    ) {
        let items = if is_soak() { 40_000 } else { 1_200 };
        let f = Fixture::new(backend).await;
        let fresh = furnish(&f, items).await;
        let mut claims = Vec::new();
        while claims.is_empty() {
            let batch = claim(&f).await;
            assert!(
                !batch.claims.is_empty() || batch.next_available_in == Some(Duration::ZERO),
                "a worker would sleep beside {} items",
                items - dead(&f)
            );
            claims = batch.claims;
        }
        assert_eq!(claims.iter().map(|claim| claim.item.id).collect::<Vec<_>>(), [fresh]);
        assert_eq!(dead(&f), items);
        let first = f.item(ItemId::new(1)).await;
        assert_eq!((first.status, first.attempts, first.deliveries), (Status::Dlq, 4, 4));
        assert_eq!(first.last_error.as_deref(), Some("the upstream answered 503"));
    }
}
