//! What hosts and operators do to many items is done in small transactions, on each engine: none touches more than a
//! bounded number of rows, whatever the number of items.

use std::sync::Arc;
use std::time::Duration;

use outbox::core::OnDead;
use outbox::item::{ItemId, NewItem, Status};
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::sqlite::bench_support::most_changes;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::{
    Action, BatchMode, Control, ControlRequest, EffectKeys, Execution, ExportPosition, LeasePolicy, Retention, Store,
};

use super::{job, run_job};
use crate::support::{Backend, Fixture, TestClock, TestDb, is_soak, item, on_each_backend, report, request};

on_each_backend! {
    no_transaction_of_a_host_touches_more_than_a_bounded_number_of_rows
}

/// The most rows that one transaction touches, those of triggers included. Most of the operations below touch more than
/// this in all.
const ROWS_MAX: u64 = 1_000;
/// The same where rows are only deleted, or only inserted.
const PLAIN_ROWS_MAX: u64 = 2_100;

/// A store whose transactions are measured.
struct Measured {
    f: Fixture,
    sqlite: Option<Arc<SqliteStore>>,
}

impl Measured {
    async fn open(backend: Backend) -> Self {
        let (test_db, clock) = (TestDb::new(backend), TestClock::new());
        match &test_db {
            TestDb::Sqlite(folder) => {
                let options = SqliteOptions { instance: "pod-1".into(), clock: clock.source(), alerts: None };
                let store = SqliteStore::open(&folder.file(), options).unwrap();
                Self { f: Fixture { store: Arc::clone(&store) as Arc<dyn Store>, clock, test_db }, sqlite: Some(store) }
            }
            TestDb::Postgres(database) => {
                database.sql(COUNT_ROWS).unwrap();
                let options = PostgresOptions { clock: Some(clock.source()), ..PostgresOptions::default() };
                let store = PostgresStore::open_existing(&database.url(), options).await.unwrap();
                Self { f: Fixture { store, clock, test_db }, sqlite: None }
            }
        }
    }

    /// The rows that the largest transaction has touched since the last call, except the enqueues of the test.
    fn largest(&self) -> u64 {
        match &self.sqlite {
            Some(store) => most_changes(store),
            None => self.f.sql("SELECT coalesce(max(rows), 0) FROM steps.touched").unwrap().parse().unwrap(),
        }
    }

    fn expect_small(&self, what: &str) {
        self.expect_at_most(ROWS_MAX, what);
    }

    fn expect_at_most(&self, most: u64, what: &str) {
        let rows = self.largest();
        report(&format!("{what}: the largest transaction touched {rows} rows"));
        assert!(rows <= most, "{what}: a transaction touched {rows} rows");
    }
}

/// Counts the rows that each transaction touches, in a table of the test.
const COUNT_ROWS: &str = "
CREATE SCHEMA steps;
CREATE TABLE steps.touched (tx bigint PRIMARY KEY, rows bigint NOT NULL);
GRANT USAGE ON SCHEMA steps TO PUBLIC;
GRANT ALL ON steps.touched TO PUBLIC;
CREATE FUNCTION steps.count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO steps.touched VALUES (txid_current(), 1)
    ON CONFLICT (tx) DO UPDATE SET rows = steps.touched.rows + 1;
    RETURN NULL;
END $$;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r' LOOP
        EXECUTE format('CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE ON outbox.%I
                        FOR EACH ROW EXECUTE FUNCTION steps.count()', name);
    END LOOP;
END $$;";

/// Enqueues items: steps of one saga, and items of one ordering key.
async fn enqueue(store: &dyn Store, items: u64) {
    let new = |n: u64| {
        let (saga, cid) = (n.is_multiple_of(2).then(|| "S".into()), n.is_multiple_of(2).then(|| "c".into()));
        NewItem { saga, cid, ordering_key: (n % 4 == 1).then(|| "line".into()), ..item(&format!("k{n}")) }
    };
    for first in (0..items).step_by(100) {
        store.enqueue((first..first + 100).map(new).collect(), BatchMode::PerItem).await.unwrap();
    }
}

mod on_each {
    use super::*;

    pub(super) async fn no_transaction_of_a_host_touches_more_than_a_bounded_number_of_rows(backend: Backend) {
        let items = if is_soak() { 100_000 } else { 1_600 };
        let measured = Measured::open(backend).await;
        let (f, store) = (&measured.f, &*measured.f.store);
        enqueue(store, items).await;
        measured.expect_small("enqueue");
        f.clock.advance(Duration::from_secs(1));
        while !store.claim(&request(&["mail"], 250)).await.unwrap().claims.is_empty() {}
        measured.expect_small("claim");
        f.clock.advance(Duration::from_mins(2));
        while store.expire_leases(&[]).await.unwrap() > 0 {}
        measured.expect_small("expire");
        let dead = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Break };
        assert_eq!(run_job(f, job(dead, Status::Pending), u32::MAX).await, items);
        measured.expect_small("dead-letter");
        let unblock = ControlRequest {
            control: Control::Unblock { ordering_key: "line".into() },
            actor: "ada@host".into(),
            reason: None,
            execution: Execution::Apply,
        };
        assert_eq!(store.control(&unblock).await.unwrap().items.len() as u64, items / 4);
        measured.expect_small("unblock");
        assert_eq!(run_job(f, job(Action::Restore, Status::Dlq), u32::MAX).await, items);
        measured.expect_small("restore");
        assert_eq!(run_job(f, job(dead, Status::Pending), u32::MAX).await, items);
        assert_eq!(run_job(f, job(Action::Replay { keys: EffectKeys::Same }, Status::Dlq), u32::MAX).await, items);
        measured.expect_small("replay");
        import(store, backend).await;
        assert_eq!(run_job(f, job(dead, Status::Pending), u32::MAX).await, items);
        f.clock.advance(Duration::from_hours(1));
        let briefly = Some(Duration::from_secs(1));
        let retention = Retention { done: briefly, dead: briefly, signals: briefly, ..Retention::default() };
        while store.get(ItemId::new(1)).await.unwrap().is_some() {
            store.run_maintenance(&retention).await.unwrap();
        }
        measured.expect_at_most(PLAIN_ROWS_MAX, "retention");
    }

    /// Imports everything into another store.
    async fn import(store: &dyn Store, backend: Backend) {
        let target = Measured::open(backend).await;
        let mut snapshot = store.begin_export().await.unwrap();
        let mut next = Some(ExportPosition::START);
        while let Some(position) = next {
            let page = snapshot.page(position, 200).await.unwrap();
            for records in page.records.chunks(target.f.store.import_size()) {
                target.f.store.import(records.to_vec(), Execution::Apply).await.unwrap();
            }
            next = page.next;
        }
        target.expect_at_most(PLAIN_ROWS_MAX, "import");
    }
}
