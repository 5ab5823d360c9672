//! Sagas on PostgreSQL: what a settlement reads beside many other steps.

use outbox::item::NewItem;
use outbox::store::{BatchMode, Claim};

use crate::faults::{close, rows_read};
use crate::support::{Backend, Fixture, TestDb, done, is_soak, item, report};

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
