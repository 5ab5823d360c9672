//! A random campaign about ordering keys on real stores: many transactions of an application, several workers, leases
//! that end, and an operator, all at once.
//!
//! It holds a store to the promises about a key: the order of the inserts of one transaction; the order of the commits;
//! one item at a time; nothing lost; nothing handled twice unless its lease ended. An item that an operator revives
//! goes before the items behind it. Seeds repeat the choices of a campaign, not how its threads interleave.

mod application;
mod judge;
mod ledger;
mod processes;
mod verdicts;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::support::{Backend, TestClock, TestDb, is_soak, on_each_backend, report};
use application::{Producer, create_rows};
use judge::{Verdict, judge};
use ledger::{Ledger, Note};
use processes::{Operator, Worker};

/// Few keys, so that items of one key meet often.
const KEYS: [&str; 6] = ["k0", "k1", "k2", "k3", "k4", "k5"];
/// A key spans the types.
const TYPES: [&str; 2] = ["t", "u"];
const PRODUCERS: u64 = 3;
const WORKERS: u64 = 3;
/// The limit for handling what is left after the last insert; it allows for a busy machine.
const DRAINED: Duration = Duration::from_mins(2);

/// What the threads of a campaign do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The application enqueues, attempts fail, and the operator intervenes.
    Running,
    /// What is left is handled.
    Draining,
    /// Everybody stops.
    Over,
}

/// The phase, which all threads read.
struct Stage(AtomicU8);

impl Stage {
    fn phase(&self) -> Phase {
        match self.0.load(Ordering::SeqCst) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Over,
        }
    }

    fn set(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Ordering::SeqCst);
    }
}

/// Ends the campaign when a thread of it panics, so that the others do not wait for it.
struct EndOnPanic<'a>(&'a Stage);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set(Phase::Over);
        }
    }
}

/// Runs one thread of the campaign. A separate runtime for each, because SQLite blocks the application's thread.
fn run(stage: &Stage, task: impl Future<Output = ()>) {
    let _end = EndOnPanic(stage);
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task);
}

struct Campaign {
    test_db: TestDb,
    clock: TestClock,
    ledger: Ledger,
    seed: u64,
}

impl Campaign {
    fn random(&self, thread: u64) -> Rng {
        Rng::with_seed(self.seed * 1_000 + thread)
    }

    /// Runs all threads: the application for `time`, the others until nothing is left.
    fn run(&self, time: Duration) {
        let (stage, until) = (&Stage(AtomicU8::new(0)), Instant::now() + time);
        thread::scope(|scope| {
            let producing: Vec<_> =
                (0..PRODUCERS).map(|number| scope.spawn(move || run(stage, self.produce(number, until)))).collect();
            for number in 0..WORKERS {
                scope.spawn(move || run(stage, self.handle(number, stage)));
            }
            scope.spawn(|| run(stage, self.operate(stage)));
            for producer in producing {
                producer.join().unwrap();
            }
            stage.set(Phase::Draining);
            self.wait_until_drained(stage);
            stage.set(Phase::Over);
        });
    }

    async fn produce(&self, number: u64, until: Instant) {
        let (ledger, name) = (self.ledger.clone(), format!("producer-{number}"));
        Producer::open(&self.test_db, ledger, self.random(number), name).await.work(until).await;
    }

    async fn handle(&self, number: u64, stage: &Stage) {
        let store = self.test_db.open(&format!("pod-{number}"), &self.clock, None).await;
        let (clock, ledger) = (self.clock.clone(), self.ledger.clone());
        Worker { store, clock, ledger, random: self.random(100 + number) }.work(stage).await;
    }

    async fn operate(&self, stage: &Stage) {
        let store = self.test_db.open("pod-of-ada", &self.clock, None).await;
        let (clock, ledger) = (self.clock.clone(), self.ledger.clone());
        Operator { store, clock, ledger, random: self.random(200) }.work(stage).await;
    }

    /// Returns early when a thread has panicked or the time is over; then the final comparison fails.
    fn wait_until_drained(&self, stage: &Stage) {
        let begun = Instant::now();
        let left = "SELECT count(*) FROM outbox_status WHERE status IN ('PENDING', 'CLAIMED')";
        while stage.phase() != Phase::Over && begun.elapsed() < DRAINED && self.test_db.sql(left).unwrap() != "0" {
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asserts that exactly the committed items exist, and that all are finished.
    fn nothing_is_lost(&self, notes: &[Note]) {
        let left = "SELECT id, type, status, ordering_key, held FROM outbox_status
                    WHERE status IN ('PENDING', 'CLAIMED') ORDER BY id LIMIT 20";
        assert_eq!(self.test_db.sql(left).unwrap(), "", "these items were not handled within {DRAINED:?}");
        let finished = self.test_db.sql("SELECT id FROM outbox_status WHERE status IN ('DONE', 'DLQ')").unwrap();
        let finished: BTreeSet<i64> = finished.lines().map(|id| id.parse().unwrap()).collect();
        let committed = notes.iter().filter_map(|note| match note {
            Note::Committed { items, .. } => Some(items),
            _ => None,
        });
        let committed: BTreeSet<_> = committed.flatten().map(|item| item.id.get()).collect();
        assert_eq!(finished, committed);
    }
}

/// Makes everybody on PostgreSQL who finds the front of ordering keys wait before and after that, so that others act
/// in between.
const PAUSES: &str = "
ALTER FUNCTION outbox.find_front(text[], boolean) RENAME TO find_front_at_once;
CREATE FUNCTION outbox.find_front(keys text[], are_done boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(random() * 0.004);
    PERFORM outbox.find_front_at_once(keys, are_done);
    PERFORM pg_sleep(random() * 0.004);
END $$";

/// Runs one campaign, and asserts all promises. Campaigns with an odd seed have pauses.
fn campaign(backend: Backend, seed: u64, time: Duration) {
    let campaign = Campaign { test_db: TestDb::new(backend), clock: TestClock::new(), ledger: Ledger::default(), seed };
    // Opening a store creates the tables of a new SQLite file.
    run(&Stage(AtomicU8::new(0)), async {
        campaign.test_db.open("pod-0", &campaign.clock, None).await;
    });
    create_rows(&campaign.test_db);
    if backend == Backend::Postgres && seed % 2 == 1 {
        campaign.test_db.sql(PAUSES).unwrap();
    }
    campaign.run(time);
    let notes = campaign.ledger.notes();
    let Verdict { faults, pairs, pairs_by_rows } = judge(&notes);
    let items = campaign.test_db.sql("SELECT count(*) FROM outbox_items").unwrap();
    report(&format!(
        "{backend:?}, seed {seed}: {items} items, {} notes, {pairs} pairs in order, {pairs_by_rows} of them only by \
         the application's rows",
        notes.len()
    ));
    assert!(faults.is_empty(), "seed {seed}, {} faults:\n{}", faults.len(), faults[..faults.len().min(20)].join("\n"));
    campaign.nothing_is_lost(&notes);
    assert!(pairs > 100, "the campaign compared only {pairs} pairs");
    assert_eq!(campaign.test_db.faults(), [""; 0]);
}

on_each_backend! {
    whatever_happens_at_once_each_ordering_key_keeps_its_order_and_nothing_is_lost
}

mod on_each {
    use super::*;

    pub(super) async fn whatever_happens_at_once_each_ordering_key_keeps_its_order_and_nothing_is_lost(
        backend: Backend,
    ) {
        let (seeds, time) = if is_soak() { (20, Duration::from_secs(15)) } else { (1, Duration::from_secs(3)) };
        tokio::task::spawn_blocking(move || (1..=seeds).for_each(|seed| campaign(backend, seed, time))).await.unwrap();
    }
}
