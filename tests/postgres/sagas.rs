//! Sagas on PostgreSQL: what a settlement reads beside many other steps, and two processes that end a run together.

use outbox::item::{ItemId, NewItem};
use outbox::store::{BatchMode, Claim, ClaimRef, SignalSeq, Store, StoreError};

use super::SOON;
use crate::faults::{close, rows_read};
use crate::support::{Backend, Fixture, TestDb, done, eventually, is_soak, item, report};

/// The steps that are settled while the rows are counted.
const SETTLED: u32 = 8;

fn step(key: &str) -> NewItem {
    NewItem { saga: Some("Big".into()), cid: Some("one".into()), ..item(key) }
}

/// Makes every item in the queue DONE, except for the newest `unfinished` ones.
fn finish_steps(unfinished: u32) -> String {
    format!(
        "INSERT INTO outbox.done (id, done_at, epoch)
         SELECT id, 1000, 0 FROM outbox.queue ORDER BY id
         LIMIT (SELECT count(*) - {unfinished} FROM outbox.queue);
         DELETE FROM outbox.queue WHERE id IN (SELECT id FROM outbox.done);
         DELETE FROM outbox.saga_open WHERE id IN (SELECT id FROM outbox.done)"
    )
}

/// The rows and entries of indexes that [`SETTLED`] settlements read in a saga with so many steps, of which half are
/// unfinished.
async fn cost_of_settlements(steps: u32) -> f64 {
    let f = Fixture::new(Backend::Postgres).await;
    for first in (0..steps).step_by(400) {
        let new = (first..first + 400).map(|n| step(&format!("step {n}"))).collect();
        f.store.enqueue(new, BatchMode::PerItem).await.unwrap();
    }
    f.sql(&finish_steps(steps / 2)).unwrap();
    let claims: Vec<_> = f.claim("mail", SETTLED).await.iter().map(Claim::reference).collect();
    let Fixture { store, clock, test_db } = f;
    let TestDb::Postgres(database) = &test_db else { panic!("it is on PostgreSQL") };
    close(database, vec![store]).await;
    database.sql("VACUUM ANALYZE").unwrap();
    let before = rows_read(database);
    let store = test_db.open("pod-1", &clock, None).await;
    for claim in &claims {
        store.settle(claim, done()).await.unwrap();
    }
    close(database, vec![store]).await;
    rows_read(database) - before
}

#[tokio::test]
async fn a_settlement_in_a_large_saga_reads_few_rows() {
    let steps = if is_soak() { 40_000 } else { 4_000 };
    let rows = cost_of_settlements(steps).await;
    report(&format!("{SETTLED} settlements read {rows} rows beside {steps} steps of their saga"));
    // A look at all steps, or at those that are left, would read thousands.
    assert!(rows < 1_000.0, "{rows} rows");
}

/// Settles until the settlement has waited for no lock for too long.
async fn settle(store: &dyn Store, claim: &ClaimRef) {
    while let Err(err) = store.settle(claim, done()).await {
        assert!(matches!(err, StoreError::Locked { .. }), "{err}");
    }
}

#[tokio::test]
async fn a_run_whose_last_two_steps_are_settled_at_once_by_two_processes_ends_once() {
    let f = Fixture::new(Backend::Postgres).await;
    let other = f.second().await;
    f.store.enqueue(vec![step("a"), step("b")], BatchMode::AllOrNothing).await.unwrap();
    let claims: Vec<_> = f.claim("mail", 2).await.iter().map(Claim::reference).collect();
    let [first, second] = [0, 1].map(|place| claims[place].clone());
    let (store, waiting) = (f.store.clone(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
    let mut settling = Vec::new();
    // Both have taken their steps out of the open ones before either learns of the other.
    f.in_transaction("SELECT FROM outbox.sagas FOR UPDATE", async || {
        settling.push(tokio::spawn(async move { settle(&*store, &first).await }));
        settling.push(tokio::spawn(async move { settle(&*other, &second).await }));
        let both_wait = async || f.sql(&format!("{waiting} AND datname = current_database()")).unwrap() == "2";
        eventually("both wait for the run", SOON, both_wait).await;
    })
    .await;
    for task in settling {
        task.await.unwrap();
    }
    let signals = f.store.signals(SignalSeq::START, 100).await.unwrap();
    let ends: Vec<_> = signals.iter().filter(|signal| signal.signal == "saga_end.Big").collect();
    assert!(ends.len() == 1 && ends[0].data["outcome"] == "ok", "{ends:?}");
    let saga = f.store.overview().await.unwrap().sagas.remove("Big").unwrap();
    assert_eq!((saga.began, saga.ended_ok, saga.ended_err), (1, 1, 0));
    assert_eq!(f.item(ItemId::new(1)).await.status, f.item(ItemId::new(2)).await.status);
}
