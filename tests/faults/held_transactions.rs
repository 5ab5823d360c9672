//! Applications that hold transactions open for long, and clocks that are moved, while hosts work: nothing is attempted
//! twice.
//!
//! The everyday suite holds for a few leases, the soak for minutes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox::core::{Attempt, CrashBudget, HostWrites, Outcome, ServedType};
use outbox::item::{ItemId, NewItem};
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{BatchMode, Store};
use outbox::worker::{LeaseExpiry, Worker, WorkerSettings};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::postgres::{Cluster, Database};
use crate::support::{Backend, Fixture, TestDb, eventually, is_soak, item, on_each_backend, report};
use crate::worker::{Scripted, served_type};

on_each_backend! {
    a_clock_that_jumps_both_ways_under_load_begins_no_attempt_beside_itself
}

const SOON: Duration = Duration::from_mins(2);

/// The length of a lease. Renewals follow after a third of it, so a busy machine has the rest of it to run one.
const LEASE: Duration = Duration::from_secs(5);

/// For how long an application holds its transaction.
fn hold() -> Duration {
    if is_soak() { Duration::from_mins(3) } else { LEASE * 3 }
}

/// How often each item was attempted.
type Attempts = Arc<Mutex<BTreeMap<String, u32>>>;

/// The tasks of two processes: a worker with its expiry, and a process that only ends leases.
struct Hosts {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Hosts {
    fn start(mine: &Arc<dyn Store>, theirs: &Arc<dyn Store>, handler: Arc<Scripted>) -> Self {
        let settings = WorkerSettings {
            instance: "pod-1".into(),
            concurrency: 8,
            prefetch: 8,
            payload_bytes: 64 << 20,
            lease: LEASE,
            drain: SOON,
            crash_budget: CrashBudget::default(),
        };
        let worker = Worker::new(mine.clone(), handler, settings);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for (store, in_hand) in [(mine, Some(worker.leases_in_hand())), (theirs, None)] {
            let expiry = LeaseExpiry { queue: store.clone(), clock: store.clone(), in_hand, lease: LEASE };
            tasks.spawn(expiry.run(stop.clone()));
        }
        tasks.spawn(worker.run(stop.clone()));
        Self { stop, tasks }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.join_all().await;
    }
}

async fn open(database: &Database, instance: &str) -> Arc<dyn Store> {
    let options = PostgresOptions { instance: instance.into(), ..PostgresOptions::default() };
    PostgresStore::open_existing(&database.url(), options).await.unwrap()
}

/// Counts the attempts. An item whose key begins with `parent` emits a follow-up with an ordering key.
fn emitting(attempts: &Attempts) -> Arc<Scripted> {
    let attempts = Arc::clone(attempts);
    Scripted::new(move |attempt: Attempt| {
        let key = attempt.item.idem_key.clone();
        *attempts.lock().unwrap().entry(key.clone()).or_default() += 1;
        let followup =
            NewItem { ordering_key: Some("line".into()), ..NewItem::new("sms", &format!("{key}/sms"), "{}") };
        let followups = if key.starts_with("parent") { vec![followup] } else { Vec::new() };
        async move { Outcome::Done { result: None, writes: HostWrites { followups, ..HostWrites::default() } } }
    })
}

async fn enqueue(store: &dyn Store, key: &str) -> ItemId {
    store.enqueue(vec![item(key)], BatchMode::PerItem).await.unwrap().ids[0].unwrap()
}

#[tokio::test]
async fn an_application_that_holds_the_key_of_a_followup_repeats_no_effect_and_holds_up_no_other_item() {
    let database = Cluster::shared().database();
    let (mine, theirs) = (open(&database, "pod-1").await, open(&database, "pod-2").await);
    let mut application = database.connect().await;
    let tx = application.transaction().await.unwrap();
    let held = "INSERT INTO outbox.items (type, idem_key, payload, ordering_key)
                VALUES ('sms', 'parent-' || $1::text || '/sms', '', 'line')";
    for number in ["0", "1", "2"] {
        tx.execute(held, &[&number]).await.unwrap();
    }
    let attempts = Attempts::default();
    let hosts = Hosts::start(&mine, &theirs, emitting(&attempts));
    for number in 0..3 {
        enqueue(&*mine, &format!("parent-{number}")).await;
    }
    let mut others = 0;
    let held_since = tokio::time::Instant::now();
    while held_since.elapsed() < hold() {
        enqueue(&*mine, &format!("other-{others}")).await;
        others += 1;
        let done = format!("SELECT count(*) >= {others} FROM outbox.status WHERE status = 'DONE'");
        eventually("others go on", SOON, async || database.sql(&done).unwrap() == "t").await;
    }
    assert_eq!(database.sql("SELECT count(*) FROM outbox.status WHERE status = 'CLAIMED'").unwrap(), "3");
    tx.commit().await.unwrap();
    let open = "SELECT count(*) FROM outbox.status WHERE type = 'mail' AND status <> 'DONE'";
    eventually("the parents are done", SOON, async || database.sql(open).unwrap() == "0").await;
    hosts.stop().await;
    let repeated: Vec<_> =
        attempts.lock().unwrap().iter().filter(|(_, times)| **times > 1).map(|(key, _)| key.clone()).collect();
    assert_eq!(repeated, [""; 0]);
    assert_eq!(database.sql("SELECT count(*) FROM outbox.attempts").unwrap(), "0");
    report(&format!("three parents waited for {:?}; {others} others were done meanwhile", hold()));
}

/// The server says of a connection that reads notifications while it is idle that its transaction began with its last
/// statement.
#[tokio::test]
async fn a_connection_that_only_hears_notifications_is_in_no_old_transaction() {
    let f = Fixture::new(Backend::Postgres).await;
    let TestDb::Postgres(database) = &f.test_db else { unreachable!("the fixture is one of PostgreSQL") };
    let (listener, notifier) = (database.connect().await, database.connect().await);
    listener.batch_execute("LISTEN many").await.unwrap();
    let listening_since = tokio::time::Instant::now();
    while listening_since.elapsed() < Duration::from_secs(4) {
        let many = notifier.batch_execute("SELECT pg_notify('many', n::text) FROM generate_series(1, 20000) AS n");
        let look = async {
            let mut oldest = 0;
            for _ in 0..20 {
                oldest = oldest.max(f.store.overview().await.unwrap().oldest_transaction_ms);
            }
            oldest
        };
        let (sent, oldest) = tokio::join!(many, look);
        sent.unwrap();
        let age = listening_since.elapsed().as_millis() / 2;
        assert!(age < 1_000 || u128::from(oldest) < age, "{oldest} ms");
    }
    drop(listener);
}

mod on_each {
    use super::*;

    pub(super) async fn a_clock_that_jumps_both_ways_under_load_begins_no_attempt_beside_itself(backend: Backend) {
        let f = Fixture::new(backend).await;
        let (theirs, attempts) = (f.second().await, Attempts::default());
        let (release, released) = watch::channel(false);
        let counted = Arc::clone(&attempts);
        let handler = Scripted::new(move |attempt: Attempt| {
            *counted.lock().unwrap().entry(attempt.item.idem_key.clone()).or_default() += 1;
            let mut released = released.clone();
            async move {
                drop(released.wait_for(|released| *released).await);
                Outcome::Done { result: None, writes: HostWrites::default() }
            }
        });
        // Attempts may take longer than a lease.
        handler.serve(vec![ServedType { timeout: Some(Duration::from_mins(10)), ..served_type() }]);
        let hosts = Hosts::start(&f.store, &theirs, handler);
        for number in 0..8 {
            f.enqueue(item(&format!("slow-{number}"))).await;
        }
        eventually("all are attempted", SOON, async || attempts.lock().unwrap().len() == 8).await;
        let jumps = if is_soak() { 40 } else { 2 };
        for jump in 0..jumps {
            let hour = i64::try_from(Duration::from_hours(1).as_millis()).unwrap();
            f.clock.jump(if jump % 2 == 0 { hour } else { -hour });
            // Each process looks for leases that have run out once a second.
            tokio::time::sleep(Duration::from_millis(1_200)).await;
        }
        release.send_replace(true);
        eventually("all are done", SOON, async || f.sql("SELECT count(*) FROM outbox_done").unwrap() == "8").await;
        hosts.stop().await;
        assert!(attempts.lock().unwrap().values().all(|times| *times == 1), "{attempts:?}");
        assert_eq!(f.sql("SELECT count(*) FROM outbox_attempts").unwrap(), "0");
    }
}
