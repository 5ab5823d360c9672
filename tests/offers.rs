//! Long polls: how a store handles a claim that waits until work arrives.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outbox::core::ServedType;
use outbox::item::{ItemId, NewItem, Status};
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::{
    BatchMode, Claim, ClaimRequest, Control, ControlRequest, Enqueue as _, Execution, LongPoll, Queue as _, StoreError,
};

use crate::support::{Fixture, START, all, done, item, ordered, request, retry};
use crate::worker::{self, Running, Scripted, becomes, served_type};

/// Starts a long poll with this request, in a store that has no ready items for it.
async fn long_poll(f: &Fixture, request: &ClaimRequest) -> LongPoll {
    let (claimed, poll) = f.store.claim_long_poll(request).await.unwrap();
    assert_eq!(claimed.claims, []);
    poll.expect("the request is not used up")
}

async fn claims(poll: LongPoll) -> Vec<Claim> {
    let (_, claimed) = poll.cancel().await.expect("it was fulfilled").unwrap();
    claimed.claims
}

#[tokio::test]
async fn an_item_is_claimed_by_the_commit_that_creates_it() {
    let f = Fixture::sqlite().await;
    let mut poll = long_poll(&f, &request(&["mail"], 4)).await;
    let id = f.enqueue(item("a")).await;
    assert_eq!(f.status(id).await, Status::Claimed, "no other commit came after");
    poll.fulfilled().await;
    let claims = claims(poll).await;
    assert_eq!((claims.len(), claims[0].item.attempts), (1, 1));
    f.store.settle(&claims[0].reference(), done()).await.unwrap();
    assert_eq!(f.status(id).await, Status::Done);
}

#[tokio::test]
async fn the_next_of_an_ordering_key_is_claimed_by_the_commit_that_settles_the_one_before() {
    let f = Fixture::sqlite().await;
    let first = f.enqueue(ordered("first")).await;
    let second = f.enqueue(ordered("second")).await;
    let (claimed, poll) = f.store.claim_long_poll(&request(&["mail"], 4)).await.unwrap();
    assert_eq!(claimed.claims[0].item.id, first);
    f.store.settle(&claimed.claims[0].reference(), done()).await.unwrap();
    assert_eq!(f.status(second).await, Status::Claimed);
    assert_eq!(claims(poll.unwrap()).await[0].item.id, second);
}

#[tokio::test]
async fn nothing_is_claimed_for_an_offer_that_was_withdrawn_or_dropped() {
    let f = Fixture::sqlite().await;
    assert!(long_poll(&f, &request(&["mail"], 4)).await.cancel().await.is_none());
    let first = f.enqueue(item("a")).await;
    let of_bills = long_poll(&f, &request(&["bill"], 4)).await;
    drop(of_bills);
    let second = f.enqueue(NewItem::new("bill", "b", "{}")).await;
    assert_eq!([f.status(first).await, f.status(second).await], [Status::Pending; 2]);
}

#[tokio::test]
async fn an_offer_takes_what_the_claim_left_over_and_no_more() {
    let f = Fixture::sqlite().await;
    f.enqueue(item("before")).await;
    let (claimed, poll) = f.store.claim_long_poll(&request(&["mail"], 3)).await.unwrap();
    assert_eq!(claimed.claims.len(), 1);
    let items = (0..5).map(|number| item(&format!("after-{number}"))).collect();
    f.store.enqueue(items, BatchMode::PerItem).await.unwrap();
    assert_eq!(claims(poll.unwrap()).await.len(), 2);
    let pending = all(&*f.store).await.iter().filter(|item| item.status == Status::Pending).count();
    assert_eq!(pending, 3);
}

#[tokio::test]
async fn a_claim_that_got_all_it_may_of_a_type_offers_nothing_of_it() {
    let f = Fixture::sqlite().await;
    f.enqueue(item("a")).await;
    let mut request = request(&["mail"], 4);
    request.types[0].limit = 1;
    let (claimed, poll) = f.store.claim_long_poll(&request).await.unwrap();
    assert_eq!((claimed.claims.len(), poll.is_none()), (1, true));
}

#[tokio::test]
async fn an_offer_is_not_taken_up_by_what_it_may_not_have() {
    let f = Fixture::sqlite().await;
    let pause = Control::Pause { item_type: "mail".into() };
    let pause = ControlRequest { control: pause, actor: "me".into(), reason: None, execution: Execution::Apply };
    f.store.control(&pause).await.unwrap();
    let poll = long_poll(&f, &request(&["mail"], 4)).await;
    let paused = f.enqueue(item("paused")).await;
    let other = f.enqueue(NewItem::new("bill", "other", "{}")).await;
    let later = NewItem { delay: Duration::from_secs(1), ..item("later") };
    let later = f.enqueue(later).await;
    for id in [paused, other, later] {
        assert_eq!(f.status(id).await, Status::Pending);
    }
    drop(poll);
}

#[tokio::test]
async fn an_enqueue_that_is_refused_leaves_the_offer_standing() {
    let f = Fixture::sqlite().await;
    let first = f.enqueue(item("a")).await;
    let claim = f.claim_one("mail").await;
    f.store.settle(&claim.reference(), done()).await.unwrap();
    assert_eq!(f.status(first).await, Status::Done);
    let poll = long_poll(&f, &request(&["mail"], 4)).await;
    let write = vec![item("b"), NewItem::new("mail", "a", r#"{"to":"other"}"#)];
    let refused = f.store.enqueue(write, BatchMode::AllOrNothing).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    let created = f.enqueue(item("c")).await;
    assert_eq!(f.status(created).await, Status::Claimed);
    assert_eq!(claims(poll).await[0].item.id, created);
}

#[tokio::test]
async fn of_two_workers_of_a_process_the_last_has_its_work_brought_and_each_is_told_of_changes() {
    let f = Fixture::sqlite().await;
    let first = long_poll(&f, &request(&["mail"], 4)).await;
    let second = long_poll(&f, &request(&["mail"], 4)).await;
    let mut changes = f.store.subscribe();
    let id = f.enqueue(item("a")).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(claims(second).await[0].item.id, id);
    assert!(first.cancel().await.is_none());
}

#[tokio::test]
async fn no_lease_begins_before_the_instant_that_comes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let read_at = Arc::new(Mutex::new(Instant::now()));
    let reads = Arc::clone(&read_at);
    let clock = Arc::new(move || {
        *reads.lock().unwrap() = Instant::now();
        START
    });
    let options = SqliteOptions { clock, ..SqliteOptions::default() };
    let store = SqliteStore::open(&dir.path().join("outbox.sqlite"), options).unwrap();
    let (_, poll) = store.claim_long_poll(&request(&["mail"], 4)).await.unwrap();
    let before = Instant::now();
    store.enqueue(vec![item("a")], BatchMode::PerItem).await.unwrap();
    let (since, claimed) = poll.unwrap().cancel().await.unwrap().unwrap();
    assert_eq!(claimed.claims.len(), 1);
    assert!(before < since && since < *read_at.lock().unwrap());
}

/// A worker that misses a wake-up still looks again after 50 ms, because the file has changed. With 500 items such
/// waits would exceed the test's time limit.
const CHAIN: u32 = 500;

#[tokio::test]
async fn an_attempt_that_ends_lets_the_next_of_a_limited_type_begin() {
    let f = Fixture::sqlite().await;
    let handler = Scripted::new(async |_| worker::done());
    handler.serve(vec![ServedType { concurrency: Some(1), ..served_type() }]);
    let items = (0..CHAIN).map(|number| item(&number.to_string())).collect();
    f.store.enqueue(items, BatchMode::PerItem).await.unwrap();
    let worker = Running::start(&f, &handler, Duration::ZERO);
    becomes(&f, ItemId::new(i64::from(CHAIN)), Status::Done).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_retry_that_is_put_back_while_a_claim_is_offered_comes_at_its_time() {
    let f = Fixture::sqlite().await;
    let id = f.enqueue(item("a")).await;
    let (claimed, poll) = f.store.claim_long_poll(&request(&["mail"], 4)).await.unwrap();
    let claim = &claimed.claims[0];
    f.store.settle(&claim.reference(), retry(Duration::from_secs(5))).await.unwrap();
    let (_, claimed) = poll.unwrap().cancel().await.expect("putting back makes work").unwrap();
    assert_eq!((claimed.claims.len(), claimed.next_available_in), (0, Some(Duration::from_secs(5))));
    assert_eq!(f.status(id).await, Status::Pending);
}
