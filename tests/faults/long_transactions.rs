//! How long the transactions of a host last beside many items, on each engine: what it holds meanwhile, such as the
//! writer of a SQLite file, applications wait for.
//!
//! `make soak` measures them beside a million items, and prints the longest of each operation.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;

use outbox::core::OnDead;
use outbox::item::{ItemId, Status};
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::sqlite::bench_support::longest_transaction;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::{Action, BatchMode, Claim, EffectKeys, LeasePolicy, RatedType, Retention, Store};

use super::{job, run_job};
use crate::support::postgres::Database;
use crate::support::{
    Backend, Fixture, TestClock, TestDb, done, eventually, is_soak, item, on_each_backend, report, request,
};

on_each_backend! {
    the_transactions_of_operations_on_many_items_are_measured
}

/// The longest transactions that a host has on a server, looked at from outside each millisecond or two.
struct Sampler {
    longest: Arc<Longest>,
    thread: Option<JoinHandle<()>>,
}

/// The longest transactions since the last look.
#[derive(Default)]
struct Longest {
    is_over: AtomicBool,
    writing_us: AtomicU64,
    reading_us: AtomicU64,
    /// The last statement of each of the two.
    statements: Mutex<[String; 2]>,
}

/// The transactions of hosts. One that has no number has written nothing yet.
const RUNNING: &str = "SELECT backend_xid IS NOT NULL,
        (extract(epoch FROM clock_timestamp() - xact_start) * 1000000)::bigint, left(query, 60)
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'outbox' AND xact_start IS NOT NULL";

impl Sampler {
    fn start(database: &Database) -> Self {
        let (longest, url) = (Arc::<Longest>::default(), database.url());
        let shared = Arc::clone(&longest);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(shared.sample(&url));
        });
        Self { longest, thread: Some(thread) }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.longest.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

impl Longest {
    async fn sample(&self, url: &str) {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let statement = client.prepare(RUNNING).await.unwrap();
        while !self.is_over.load(Ordering::Relaxed) {
            for row in client.query(&statement, &[]).await.unwrap() {
                self.add(row.get(0), u64::try_from(row.get::<_, i64>(1)).unwrap_or(0), row.get(2));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn add(&self, is_writing: bool, micros: u64, statement: &str) {
        let longest = if is_writing { &self.writing_us } else { &self.reading_us };
        if longest.fetch_max(micros, Ordering::Relaxed) < micros {
            statement.clone_into(&mut self.statements.lock().unwrap()[usize::from(!is_writing)]);
        }
    }
}

/// A store whose transactions are measured.
struct Measured {
    /// Ends before the database does.
    watch: Watch,
    f: Fixture,
}

enum Watch {
    Sqlite(Arc<SqliteStore>),
    Postgres(Sampler),
}

impl Measured {
    async fn open(backend: Backend) -> Self {
        let (test_db, clock) = (TestDb::new(backend), TestClock::new());
        let (store, watch) = match &test_db {
            TestDb::Sqlite(folder) => {
                let options = SqliteOptions { instance: "pod-1".into(), clock: clock.source(), alerts: None };
                let store = SqliteStore::open(&folder.file(), options).unwrap();
                (Arc::clone(&store) as Arc<dyn Store>, Watch::Sqlite(store))
            }
            TestDb::Postgres(database) => {
                let options = PostgresOptions { clock: Some(clock.source()), ..PostgresOptions::default() };
                let store = PostgresStore::open_existing(&database.url(), options).await.unwrap();
                (store as Arc<dyn Store>, Watch::Postgres(Sampler::start(database)))
            }
        };
        Self { watch, f: Fixture { store, clock, test_db } }
    }

    /// Prints the longest transaction since the last call.
    fn report(&self, what: &str) {
        let took = match &self.watch {
            Watch::Sqlite(store) => format!("{:.1} ms", longest_transaction(store).as_secs_f64() * 1e3),
            Watch::Postgres(Sampler { longest, .. }) => {
                let statements = std::mem::take(&mut *longest.statements.lock().unwrap());
                let [writing, reading] = [&longest.writing_us, &longest.reading_us]
                    .map(|micros| Duration::from_micros(micros.swap(0, Ordering::Relaxed)).as_secs_f64() * 1e3);
                format!("writing {writing:.1} ms, reading {reading:.1} ms {statements:?}")
            }
        };
        report(&format!("{what}: the longest transaction lasted {took}"));
    }
}

/// Inserts items as an application does, of which one in ten has one of a thousand ordering keys and one in ten is a
/// step of one of a thousand sagas.
fn fill(f: &Fixture, backend: Backend, items: u32) {
    let numbers = match backend {
        Backend::Sqlite => {
            format!("WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {items})")
        }
        Backend::Postgres => format!("WITH t (n) AS (SELECT generate_series(1, {items}))"),
    };
    let insert = "INSERT INTO outbox_items (type, idem_key, payload, ordering_key, saga, cid)
        SELECT 'mail', 'k' || n, '{}', CASE WHEN n % 10 = 1 THEN 'line-' || n % 1000 END,
               CASE WHEN n % 10 = 2 THEN 'S' END, CASE WHEN n % 10 = 2 THEN 'run-' || n % 1000 END FROM t";
    f.sql(&match backend {
        Backend::Sqlite => insert.replace("SELECT 'mail'", &format!("{numbers} SELECT 'mail'")),
        Backend::Postgres => format!("{numbers} {insert}"),
    })
    .unwrap();
}

async fn drain(store: &dyn Store, claims: u32) -> usize {
    let mut settled = 0;
    for _ in 0..claims {
        let claimed = store.claim(&request(&["mail"], 250)).await.unwrap().claims;
        let references: Vec<_> = claimed.iter().map(Claim::reference).collect();
        for ended in join_all(references.iter().map(|claim| store.settle(claim, done()))).await {
            ended.unwrap();
            settled += 1;
        }
    }
    settled
}

mod on_each {
    use super::*;

    pub(super) async fn the_transactions_of_operations_on_many_items_are_measured(backend: Backend) {
        let (items, rounds) = if is_soak() { (1_000_000, 100) } else { (2_000, 2) };
        let measured = Measured::open(backend).await;
        let (f, store) = (&measured.f, &*measured.f.store);
        fill(f, backend, items);
        for batch in 0..rounds {
            let new = (0..100).map(|n| item(&format!("new-{batch}-{n}"))).collect();
            store.enqueue(new, BatchMode::PerItem).await.unwrap();
        }
        measured.report("enqueue");
        assert!(drain(store, rounds).await > 0);
        measured.report("claim and settle");
        for _ in 0..rounds {
            store.claim(&request(&["mail"], 250)).await.unwrap();
        }
        f.clock.advance(Duration::from_mins(2));
        while store.expire_leases(&[]).await.unwrap() > 0 {}
        measured.report("claim and expire");
        let dead = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Break };
        assert!(run_job(store, job(dead, Status::Pending), u32::MAX).await > u64::from(items) / 2);
        measured.report("dead-letter");
        let replay = job(Action::Replay { keys: EffectKeys::Same }, Status::Dlq);
        assert!(run_job(store, replay, rounds * 5).await > 0);
        measured.report("replay");
        store.run_maintenance(&Retention::default()).await.unwrap();
        measured.report("maintenance");
        f.clock.advance(Duration::from_hours(1));
        let briefly = Some(Duration::from_secs(1));
        let retention = Retention { done: briefly, dead: briefly, signals: briefly, ..Retention::default() };
        for _ in 0..rounds {
            store.run_maintenance(&retention).await.unwrap();
        }
        measured.report("retention");
        let mut rated = request(&["mail"], 1);
        rated.types[0].rate = Some(1.0);
        store.claim(&rated).await.unwrap();
        let types =
            ["mail", "idle"].map(|name| RatedType { item_type: name.into(), rate: Some(1.0), rate_per_key: Some(1.0) });
        store.overview().await.unwrap();
        assert!(store.reached_rates(&types).await.unwrap().contains_key("mail"));
        store.get(ItemId::new(1)).await.unwrap();
        measured.report("overview");
    }

    // A measure that sees nothing would report that every transaction is short.
    #[tokio::test]
    async fn a_transaction_that_lasts_is_seen_on_a_server() {
        let measured = Measured::open(Backend::Postgres).await;
        let TestDb::Postgres(database) = &measured.f.test_db else { unreachable!() };
        let separator = if database.url().contains('?') { '&' } else { '?' };
        let held = format!("{}{separator}application_name=outbox", database.url());
        let (client, connection) = tokio_postgres::connect(&held, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let insert = "BEGIN; INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', 'k', '')";
        client.batch_execute(insert).await.unwrap();
        let Watch::Postgres(sampler) = &measured.watch else { unreachable!() };
        let is_seen = async || sampler.longest.writing_us.load(Ordering::Relaxed) >= 50_000;
        eventually("the sampler sees it", Duration::from_mins(1), is_seen).await;
        client.batch_execute("ROLLBACK").await.unwrap();
    }

    #[tokio::test]
    async fn a_transaction_is_measured_in_a_file() {
        let measured = Measured::open(Backend::Sqlite).await;
        let Watch::Sqlite(store) = &measured.watch else { unreachable!() };
        longest_transaction(store);
        measured.f.enqueue(item("k")).await;
        assert!(longest_transaction(store) > Duration::ZERO);
        assert_eq!(longest_transaction(store), Duration::ZERO, "it is that since the last look");
    }
}
