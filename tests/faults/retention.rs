//! Retention beside what once kept it from running, or made it expensive.

use std::sync::Arc;
use std::time::Duration;

use outbox::item::NewItem;
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{BatchMode, Retention, Store};

use super::{close, rows_read};
use crate::support::postgres::{Cluster, Database};
use crate::support::{Backend, Fixture, done, item, on_each_backend, report};

on_each_backend! {
    a_job_that_cannot_be_read_does_not_stop_retention
    items_of_a_saga_that_goes_on_hide_no_later_ones_from_retention
}

/// Keeps DONE items for a second.
const BRIEFLY: Retention =
    Retention { done: Some(Duration::from_secs(1)), dead: None, signals: None, audit: None, history: None };

/// An unfinished step of the saga `Big`.
fn step(key: &str) -> NewItem {
    NewItem { saga: Some("Big".into()), cid: Some("one".into()), ..item(key) }
}

/// Makes every item in the queue DONE long ago, as a step of a saga that is not open any more.
const STEPS_DONE: &str = "INSERT INTO outbox_done (id, done_at, epoch) SELECT id, 1000, 0 FROM outbox_queue;
     DELETE FROM outbox_queue; DELETE FROM outbox_saga_open;";

/// Enqueues a saga with this number of steps that are DONE long ago, and one that is unfinished.
async fn furnish(store: &dyn Store, steps: u32, sql: impl Fn(&str)) {
    let new = (0..steps).map(|n| step(&format!("step-{n}"))).collect();
    store.enqueue(new, BatchMode::PerItem).await.unwrap();
    sql(STEPS_DONE);
    store.enqueue(vec![step("last")], BatchMode::PerItem).await.unwrap();
}

async fn open(database: &Database) -> Arc<dyn Store> {
    PostgresStore::open_existing(&database.url(), PostgresOptions::default()).await.unwrap()
}

/// Enqueues 30,000 unfinished steps of runs that retention has nothing to do with.
const OTHER_STEPS: &str = "INSERT INTO outbox.items (type, idem_key, payload, saga, cid)
     SELECT 'mail', 'other-' || n, '', 'Other', 'c' || n % 1000 FROM generate_series(1, 30000) AS n";

/// What one piece of retention reads on PostgreSQL beside a saga with this number of finished steps, and beside many
/// unfinished ones of other sagas, of which the statistics of the server do not know yet.
async fn cost_on_postgres(steps: u32) -> f64 {
    let database = Cluster::shared().database();
    let store = open(&database).await;
    furnish(&*store, steps, |sql| drop(database.sql(&sql.replace("outbox_", "outbox.")).unwrap())).await;
    database.sql("VACUUM ANALYZE outbox.items, outbox.done, outbox.saga_open, outbox.sagas").unwrap();
    database.sql(OTHER_STEPS).unwrap();
    // The first piece of maintenance counts what waits.
    store.run_maintenance(&Retention::default()).await.unwrap();
    close(&database, vec![store]).await;
    let before = rows_read(&database);
    let store = open(&database).await;
    assert_eq!(store.run_maintenance(&BRIEFLY).await.unwrap().items, 0, "a step is unfinished");
    close(&database, vec![store]).await;
    rows_read(&database) - before
}

#[tokio::test]
async fn retention_on_postgresql_reads_a_saga_with_an_unfinished_step_once() {
    let steps = 1_600_u32;
    let rows = cost_on_postgres(steps).await;
    report(&format!("retention reads {rows} rows beside {steps} finished steps of an open saga"));
    assert!(rows <= 8.0 * f64::from(steps), "{rows} rows");
}

mod on_each {
    use super::*;

    pub(super) async fn items_of_a_saga_that_goes_on_hide_no_later_ones_from_retention(backend: Backend) {
        let f = Fixture::new(backend).await;
        // More than one look reads.
        furnish(&*f.store, 6_000, |sql| drop(f.sql(sql).unwrap())).await;
        let old = f.enqueue(item("old")).await;
        let claims = f.claim("mail", 9).await;
        let claim = claims.iter().find(|claim| claim.item.id == old).unwrap();
        f.store.settle(&claim.reference(), done()).await.unwrap();
        f.clock.advance(Duration::from_mins(1));
        assert_eq!(f.store.run_maintenance(&BRIEFLY).await.unwrap().items, 0, "the first look ends before it");
        assert_eq!(f.store.run_maintenance(&BRIEFLY).await.unwrap().items, 1);
        assert!(f.store.get(old).await.unwrap().is_none());
    }

    pub(super) async fn a_job_that_cannot_be_read_does_not_stop_retention(backend: Backend) {
        let f = Fixture::new(backend).await;
        let old = f.enqueue(item("old")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        f.sql(
            "INSERT INTO outbox_jobs (action, filter, actor, state, began_at, next_at, last_id, matched)
             VALUES ('\"replay-of-the-future\"', '{\"no_such\":1}', 'ada', 'RUNNING', 1, 1, 9, 1)",
        )
        .unwrap();
        f.clock.advance(Duration::from_mins(1));
        // Maintenance may tell of the job by an error.
        drop(f.store.run_maintenance(&BRIEFLY).await);
        assert!(f.store.get(old).await.unwrap().is_none(), "the old item stays");
    }
}
