//! When a process ends leases that have run out, tested with real stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outbox::core::{Attempt, Outcome};
use outbox::item::Status;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::worker::{LeaseExpiry, Worker};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{SOON, Scripted, becomes, done, settings};
use crate::support::{Backend, Fixture, START, TestClock, TestDb, eventually, item};

#[tokio::test]
async fn a_lease_ends_even_where_nobody_claims() {
    let f = Fixture::sqlite().await;
    let id = f.enqueue(item("k")).await;
    f.claim_one("mail").await;
    f.clock.advance(Duration::from_secs(61));
    let stop = CancellationToken::new();
    // The clock of the store is not trusted for the first half of the process's own lease.
    let lease = Duration::from_secs(2);
    let expiry = LeaseExpiry { queue: f.store.clone(), clock: f.store.clone(), in_hand: None, lease };
    let expiring = tokio::spawn(expiry.run(stop.clone()));
    becomes(&f, id, Status::Pending).await;
    stop.cancel();
    expiring.await.unwrap();
}

/// Lets the clock of the test go like a real one.
async fn run_clock(clock: TestClock) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let passed = Duration::from_millis(u64::try_from(last.elapsed().as_millis()).unwrap());
        clock.advance(passed);
        last += passed;
    }
}

#[tokio::test]
async fn after_the_clock_was_moved_no_lease_is_ended_until_every_process_can_have_renewed_its_own() {
    let f = Fixture::sqlite().await;
    let id = f.enqueue(item("k")).await;
    f.claim_one("mail").await;
    let (lease, stop) = (Duration::from_secs(3), CancellationToken::new());
    let clock = tokio::spawn(run_clock(f.clock.clone()));
    let expiry = LeaseExpiry { queue: f.store.clone(), clock: f.store.clone(), in_hand: None, lease };
    let expiring = tokio::spawn(expiry.run(stop.clone()));
    // The first reading is after a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    f.clock.advance(Duration::from_mins(10));
    let moved = Instant::now();
    eventually("the lease is ended", SOON, async || f.status(id).await == Status::Pending).await;
    assert!(moved.elapsed() >= lease, "ended after {:?}", moved.elapsed());
    stop.cancel();
    expiring.await.unwrap();
    clock.abort();
}

/// A process stands still when somebody stops it or pauses its container. Its look for leases that have run out is due
/// before the renewal of its own.
#[tokio::test]
async fn a_process_that_stood_still_for_longer_than_a_lease_does_not_lose_what_it_has_in_hand() {
    let f = on_true_time(TestDb::new(Backend::Sqlite));
    let id = f.enqueue(item("k")).await;
    let lease = Duration::from_millis(3_300);
    let ((seen, mut attempts), has_stood_still) = (mpsc::unbounded_channel(), AtomicBool::new(false));
    let handler = Scripted::new(move |attempt: Attempt| {
        seen.send(attempt.item.losses).unwrap();
        let is_second = has_stood_still.swap(true, Ordering::SeqCst);
        async move {
            if is_second {
                return done();
            }
            // Every task of the test is in this thread.
            std::thread::sleep(lease + Duration::from_millis(100));
            attempt.stop.cancelled().await;
            Outcome::Interrupted
        }
    });
    let (worker, stop) = (Worker::new(f.store.clone(), handler, settings(lease, SOON)), CancellationToken::new());
    let (clock, in_hand) = (f.store.clone(), Some(worker.leases_in_hand()));
    let expiring = tokio::spawn(LeaseExpiry { queue: f.store.clone(), clock, in_hand, lease }.run(stop.clone()));
    let working = tokio::spawn(worker.run(stop.clone()));
    eventually("it is done", SOON, async || f.status(id).await == Status::Done).await;
    assert_eq!((attempts.recv().await, attempts.recv().await), (Some(0), Some(0)), "losses");
    stop.cancel();
    expiring.await.unwrap();
    working.await.unwrap();
}

/// A store whose clock goes by itself.
fn on_true_time(test_db: TestDb) -> Fixture {
    let (started, clock) = (Instant::now(), TestClock::new());
    let options = SqliteOptions {
        instance: "pod-1".into(),
        clock: Arc::new(move || START.saturating_add(started.elapsed())),
        alerts: None,
    };
    let store = SqliteStore::open(test_db.address().as_ref(), options).unwrap();
    Fixture { store, clock, test_db }
}
