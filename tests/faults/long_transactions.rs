//! How long the transactions of a host last in an outbox with many items, on each engine. A transaction holds locks, such
//! as the write lock of a SQLite file, and applications wait for them.
//!
//! `make soak` runs each operation in an outbox with a million items, prints its longest transaction, and fails when one
//! lasts longer than [`LIMIT`]. The time that a server waits for its disk or for vacuum does not count, because a host
//! cannot shorten it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;

use outbox::core::{OnDead, SuspectRoom};
use outbox::item::{ItemId, Status};
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::sqlite::bench_support::longest_transaction;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::{
    Action, BatchMode, Claim, ClaimRequest, Control, ControlRequest, EffectKeys, Execution, ExportPosition,
    LeasePolicy, OperateRequest, RatedType, Retention, Selection, SettleRequest, Store,
};

use super::transaction_sampler::{Longest, Sampler};
use super::{job, run_job};
use crate::support::{
    Backend, Fixture, TestClock, TestDb, done, eventually, is_soak, item, on_each_backend, report, request, retry,
    with_streaks,
};

on_each_backend! {
    the_transactions_of_operations_on_many_items_are_measured
}

/// The longest that a transaction may last.
const LIMIT: Duration = Duration::from_millis(50);

/// A store whose transactions are measured.
struct Measured {
    /// Ends before the database does.
    watch: Watch,
    f: Fixture,
    too_long: Mutex<Vec<String>>,
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
        Self { watch, f: Fixture { store, clock, test_db }, too_long: Mutex::default() }
    }

    /// Prints the longest transaction since the last call.
    fn report(&self, what: &str) {
        let (longest, took) = match &self.watch {
            Watch::Sqlite(store) => {
                let longest = longest_transaction(store);
                (longest, format!("{:.1} ms", longest.as_secs_f64() * 1e3))
            }
            Watch::Postgres(sampler) => {
                let Longest { writing, reading } = sampler.take();
                (writing.of_host(), format!("{writing}\n  reading {reading}"))
            }
        };
        report(&format!("{what}: the longest transaction lasted {took}"));
        if longest > LIMIT {
            self.too_long.lock().unwrap().push(format!("{what}: {longest:?}"));
        }
    }

    /// Demands, at the size of the soak, that no transaction lasted for too long.
    fn expect_short(&self) {
        let too_long = self.too_long.lock().unwrap();
        assert!(!is_soak() || too_long.is_empty(), "{too_long:?}");
    }
}

/// Inserts items as an application does. Of those of the type `mail`, one in ten has one of a hundred ordering keys, and
/// one in ten is a step of one of a hundred sagas. There are a hundredth as many items of the type `step`, each in a saga
/// of its own, and as many of the type `spent`, of each of which one attempt will fail.
fn fill(f: &Fixture, backend: Backend, items: u32) {
    let insert = |columns: &str, items: u32| {
        let numbers = match backend {
            Backend::Sqlite => {
                format!("WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {items})")
            }
            Backend::Postgres => format!("WITH t (n) AS (SELECT generate_series(1, {items}))"),
        };
        let into = "INSERT INTO outbox_items (type, idem_key, payload, ordering_key, saga, cid)";
        f.sql(&match backend {
            Backend::Sqlite => format!("{into} {numbers} SELECT {columns} FROM t"),
            Backend::Postgres => format!("{numbers} {into} SELECT {columns} FROM t"),
        })
        .unwrap();
    };
    let mail = "'mail', 'k' || n, '{}', CASE WHEN n % 10 = 1 THEN 'line-' || (n % 1000) END,
                CASE WHEN n % 10 = 2 THEN 'S' END, CASE WHEN n % 10 = 2 THEN 'run-' || (n % 1000) END";
    insert(mail, items);
    insert("'step', 'step-' || n, '{}', 'line-' || n, 'S', 'step-' || n", items / 100);
    insert("'spent', 'spent-' || n, '{}', NULL, NULL, NULL", items / 100);
}

/// Makes this number of claims, and settles every claimed item in the same way. Returns how many items it settled.
async fn drain(store: &dyn Store, claim: impl Fn() -> ClaimRequest, end: SettleRequest, claims: u32) -> usize {
    let mut settled = 0;
    for _ in 0..claims {
        let claimed = store.claim(&claim()).await.unwrap().claims;
        let references: Vec<_> = claimed.iter().map(Claim::reference).collect();
        for ended in join_all(references.iter().map(|claim| store.settle(claim, end.clone()))).await {
            ended.unwrap();
            settled += 1;
        }
    }
    settled
}

/// A claim of everything, as a worker makes it.
fn everything() -> ClaimRequest {
    with_streaks(request(&["mail", "step"], 600), 16)
}

/// A job whose items are of this type.
fn job_of(item_type: &str, action: Action, status: Status) -> OperateRequest {
    let mut request = job(action, status);
    let Selection::Filter(filter) = &mut request.selection else { unreachable!() };
    filter.r#type = Some(item_type.into());
    request
}

const DEAD: Action = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Break };
const REPLAY: Action = Action::Replay { keys: EffectKeys::Same };

impl Measured {
    async fn measure_enqueues(&self, rounds: u32) {
        for batch in 0..rounds {
            let new = (0..100).map(|n| item(&format!("new-{batch}-{n}"))).collect();
            self.f.store.enqueue(new, BatchMode::PerItem).await.unwrap();
        }
        self.report("enqueue");
    }

    async fn measure_claims(&self, items: u32, rounds: u32) {
        let (store, few) = (&*self.f.store, (items / 200).min(250));
        assert!(drain(store, || request(&["mail"], 250), done(), rounds).await > 0);
        self.report("claim and settle");
        assert!(drain(store, || request(&["step"], few), done(), rounds / 4).await > 0);
        self.report("claim and settle runs of sagas");
        assert!(drain(store, || request(&["spent"], few), retry(Duration::ZERO), rounds / 2).await > 0);
        self.report("claim and retry");
        self.f.clock.advance(Duration::from_secs(1));
        let without_retries = || {
            let mut request = request(&["spent"], 250);
            request.types[0].max_retries = 0;
            request
        };
        while store.claim(&without_retries()).await.unwrap().next_available_in == Some(Duration::ZERO) {}
        self.report("claim what has no attempt left");
    }

    async fn measure_lost_claims(&self, rounds: u32) {
        let store = &*self.f.store;
        for _ in 0..rounds / 4 {
            let lost = everything();
            assert!(!store.claim(&lost).await.unwrap().claims.is_empty());
            store.abandon(&lost.tokens()).await.unwrap();
        }
        self.report("claim and abandon");
        for _ in 0..rounds / 4 {
            store.claim(&everything()).await.unwrap();
        }
        self.report("claim");
        self.f.clock.advance(Duration::from_mins(2));
        while store.expire_leases(&[]).await.unwrap() > 0 {}
        self.report("expire");
    }

    async fn measure_jobs(&self, items: u32, rounds: u32) {
        let store = &*self.f.store;
        let mut work = request(&["mail"], 250);
        work.suspects.room = SuspectRoom::None;
        store.claim(&work).await.unwrap();
        let release = Action::Release { lease: LeasePolicy::Break };
        assert!(run_job(&self.f, job(release, Status::Claimed), rounds).await > 0);
        self.report("release");
        assert!(run_job(&self.f, job(DEAD, Status::Pending), u32::MAX).await > u64::from(items) / 2);
        self.report("dead-letter");
        let control = Control::Unblock { ordering_key: "line-991".into() };
        let unblock = ControlRequest { control, actor: "ada@host".into(), reason: None, execution: Execution::Apply };
        assert!(!store.control(&unblock).await.unwrap().items.is_empty());
        self.report("unblock");
        assert!(run_job(&self.f, job_of("mail", REPLAY, Status::Dlq), rounds).await > 0);
        self.report("replay");
        assert!(run_job(&self.f, job_of("mail", Action::Restore, Status::Dlq), rounds).await > 0);
        self.report("restore");
        let later = Action::Reschedule { at: self.f.clock.now() };
        assert!(run_job(&self.f, job_of("mail", later, Status::Pending), rounds).await > 0);
        self.report("reschedule");
        assert!(run_job(&self.f, job_of("step", Action::Purge, Status::Dlq), rounds).await > 0);
        self.report("purge");
    }

    async fn measure_upkeep(&self, rounds: u32) {
        let store = &*self.f.store;
        store.run_maintenance(&Retention::default()).await.unwrap();
        self.report("maintenance");
        self.f.clock.advance(Duration::from_hours(1));
        let briefly = Some(Duration::from_secs(1));
        let retention = Retention { done: briefly, dead: briefly, signals: briefly, audit: briefly, history: briefly };
        for _ in 0..rounds {
            store.run_maintenance(&retention).await.unwrap();
        }
        self.report("retention");
    }

    async fn measure_transfer(&self, backend: Backend, pages: u32) {
        let target = Self::open(backend).await;
        let mut snapshot = self.f.store.begin_export().await.unwrap();
        let mut next = Some(ExportPosition::START);
        for _ in 0..pages {
            let Some(position) = next else { break };
            let page = snapshot.page(position, 200).await.unwrap();
            for records in page.records.chunks(target.f.store.import_size()) {
                target.f.store.import(records.to_vec(), Execution::Apply).await.unwrap();
            }
            next = page.next;
        }
        target.report("import");
        drop(snapshot);
        self.report("export");
        target.expect_short();
    }

    async fn measure_reads(&self) {
        let store = &*self.f.store;
        let mut rated = request(&["mail"], 1);
        rated.types[0].rate = Some(1.0);
        store.claim(&rated).await.unwrap();
        let types =
            ["mail", "idle"].map(|name| RatedType { item_type: name.into(), rate: Some(1.0), rate_per_key: Some(1.0) });
        store.overview().await.unwrap();
        assert!(store.reached_rates(&types).await.unwrap().contains_key("mail"));
        store.get(ItemId::new(1)).await.unwrap();
        self.report("overview");
    }
}

mod on_each {
    use super::*;

    pub(super) async fn the_transactions_of_operations_on_many_items_are_measured(backend: Backend) {
        let (items, rounds) = if is_soak() { (1_000_000, 100) } else { (2_000, 4) };
        let measured = Measured::open(backend).await;
        fill(&measured.f, backend, items);
        measured.measure_enqueues(rounds).await;
        measured.measure_claims(items, rounds).await;
        measured.measure_lost_claims(rounds).await;
        measured.measure_jobs(items, rounds).await;
        measured.measure_upkeep(rounds).await;
        measured.measure_transfer(backend, rounds / 2).await;
        measured.measure_reads().await;
        measured.expect_short();
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
        let is_seen = async || sampler.take().writing.of_host() >= LIMIT;
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
