//! Helpers of several test files: stores with a clock that the test moves, and polling with a deadline.

pub(crate) mod clock;
pub(crate) mod downstream;
pub(crate) mod guests;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod places;
pub(crate) mod plugins;
pub(crate) mod pooler;
pub(crate) mod postgres;
pub(crate) mod registry;
pub(crate) mod stage;
mod warm;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use outbox::core::{CrashBudget, Failure, FailureClass, HostWrites, KeyLimits, OnDead, Settlement, SuspectRoom};
use outbox::http::{HostStatus, HttpSettings, HttpState};
use outbox::item::{Item, ItemId, Millis, NewItem, Status};
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::engine::alerts::AlertSettings;
use outbox::store::{
    Claim, ClaimRequest, ClaimTerms, ClaimToken, Filter, Inspect, Page, Pod, SettleRequest, Store, SuspectTerms,
};

use tokio_util::sync::CancellationToken;

use places::SqliteFolder;
use pooler::Route;
use postgres::{Cluster, Database};

/// The first time of the tests' clocks, in milliseconds since 1970: it is in January 2027.
pub(crate) const START: Millis = Millis::new(1_800_000_000_000);

/// The time this many milliseconds after [`START`].
pub(crate) const fn after_start(millis: i64) -> Millis {
    Millis::new(START.get() + millis)
}

/// A clock that moves only when a test advances it.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START.get())))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Moves the clock by these milliseconds, forwards or back.
    pub(crate) fn jump(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> Millis {
        Millis::new(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn source(&self) -> outbox::store::Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

/// The engine on which a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// Runs each test of a module's `on_each` on every engine.
macro_rules! on_each_backend {
    ($($name:ident)*) => {
        $crate::support::on_each_backend!(@on sqlite Sqlite $($name)*);
        $crate::support::on_each_backend!(@on postgres Postgres $($name)*);
    };
    (@on $module:ident $backend:ident $($name:ident)*) => {
        mod $module { $(
            #[tokio::test]
            async fn $name() {
                super::on_each::$name($crate::support::Backend::$backend).await;
            }
        )* }
    };
}
pub(crate) use on_each_backend;

/// The database of a store. When the last handle is dropped, the database is removed, and the test fails if its
/// tables contradict each other; see [`places`].
#[derive(Clone)]
pub(crate) enum TestDb {
    Sqlite(Arc<SqliteFolder>),
    Postgres(Arc<Database>),
}

impl TestDb {
    pub(crate) fn new(backend: Backend) -> Self {
        match backend {
            Backend::Sqlite => Self::Sqlite(Arc::new(SqliteFolder::new())),
            Backend::Postgres => Self::Postgres(Arc::new(Cluster::shared().database())),
        }
    }

    /// The value of `OUTBOX_DB` for it.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Sqlite(folder) => folder.file().display().to_string(),
            Self::Postgres(database) => database.url(),
        }
    }

    /// Runs statements as another client of the database. Returns their output, or the reason of the refusal. The
    /// statements use the table names of SQLite.
    pub(crate) fn sql(&self, statements: &str) -> Result<String, String> {
        match self {
            Self::Sqlite(_) => sqlite3(&self.address(), statements),
            Self::Postgres(database) => database.sql(&statements.replace("outbox_", "outbox.")),
        }
    }

    /// What is wrong between the tables; see [`places`].
    pub(crate) fn faults(&self) -> Vec<String> {
        match self {
            Self::Sqlite(folder) => folder.faults(),
            Self::Postgres(database) => database.faults(),
        }
    }

    pub(crate) async fn open(
        &self,
        instance: &str,
        clock: &TestClock,
        alerts: Option<AlertSettings>,
    ) -> Arc<dyn Store> {
        let (instance, clock) = (instance.to_owned(), clock.source());
        match self {
            Self::Sqlite(_) => {
                let options = SqliteOptions { instance, clock, alerts };
                SqliteStore::open(self.address().as_ref(), options).unwrap()
            }
            Self::Postgres(database) => {
                let (url, listen_url) = Route::of_this_run().urls(database);
                let clock = Some(clock);
                let options = PostgresOptions { instance, clock, alerts, listen_url, ..PostgresOptions::default() };
                PostgresStore::open_existing(&url, options).await.unwrap()
            }
        }
    }
}

/// A real store with a database of its own.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: TestClock,
    pub(crate) test_db: TestDb,
}

impl Fixture {
    pub(crate) async fn new(backend: Backend) -> Self {
        Self::over(TestDb::new(backend), None).await
    }

    pub(crate) async fn sqlite() -> Self {
        Self::new(Backend::Sqlite).await
    }

    /// A store over this database.
    pub(crate) async fn on(test_db: TestDb) -> Self {
        Self::over(test_db, None).await
    }

    async fn over(test_db: TestDb, alerts: Option<AlertSettings>) -> Self {
        let clock = TestClock::new();
        let store = test_db.open("pod-1", &clock, alerts).await;
        Self { store, clock, test_db }
    }

    pub(crate) fn backend(&self) -> Backend {
        match self.test_db {
            TestDb::Sqlite(_) => Backend::Sqlite,
            TestDb::Postgres(_) => Backend::Postgres,
        }
    }

    /// The same outbox, opened so that it announces alerts as items of this type.
    pub(crate) async fn with_alerts(self, item_type: &str) -> Self {
        let alerts = Some(AlertSettings { item_type: item_type.into(), min_interval: Duration::from_mins(5) });
        Self { store: self.test_db.open("pod-1", &self.clock, alerts).await, ..self }
    }

    /// Opens the same outbox as another process would.
    pub(crate) async fn second(&self) -> Arc<dyn Store> {
        self.test_db.open("pod-2", &self.clock, None).await
    }

    /// A fixture of the same outbox, opened as another process would.
    pub(crate) async fn another(&self) -> Self {
        Self { store: self.second().await, clock: self.clock.clone(), test_db: self.test_db.clone() }
    }

    /// Runs statements on the same database as another client; see [`TestDb::sql`].
    pub(crate) fn sql(&self, statements: &str) -> Result<String, String> {
        self.test_db.sql(statements)
    }

    /// Runs a statement as another client, and runs `meanwhile` before that client commits.
    pub(crate) async fn in_transaction(&self, statement: &str, meanwhile: impl AsyncFnOnce()) {
        match &self.test_db {
            TestDb::Sqlite(_) => {
                let mut database = rusqlite::Connection::open(self.test_db.address()).unwrap();
                let tx = database.transaction().unwrap();
                tx.execute(statement, []).unwrap();
                meanwhile().await;
                tx.commit().unwrap();
            }
            TestDb::Postgres(database) => {
                let mut client = database.connect().await;
                let tx = client.transaction().await.unwrap();
                tx.batch_execute(&statement.replace("outbox_", "outbox.")).await.unwrap();
                meanwhile().await;
                tx.commit().await.unwrap();
            }
        }
    }

    /// The whole content of the database, as text.
    pub(crate) fn dump(&self) -> Vec<u8> {
        match &self.test_db {
            TestDb::Sqlite(_) => sqlite3(&self.test_db.address(), ".dump").unwrap().into_bytes(),
            TestDb::Postgres(database) => database.dump(),
        }
    }

    pub(crate) async fn enqueue(&self, item: NewItem) -> ItemId {
        let enqueued = self.store.enqueue(vec![item], outbox::store::BatchMode::PerItem).await.unwrap();
        enqueued.ids[0].unwrap()
    }

    pub(crate) async fn item(&self, id: ItemId) -> Item {
        self.store.get(id).await.unwrap().unwrap().item
    }

    pub(crate) async fn status(&self, id: ItemId) -> Status {
        self.item(id).await.status
    }

    /// Claims at most `limit` items of one type with the terms of [`request`], after a host has ended the leases that
    /// have run out.
    pub(crate) async fn claim(&self, item_type: &str, limit: u32) -> Vec<Claim> {
        self.store.expire_leases(&[]).await.unwrap();
        self.store.claim(&request(&[item_type], limit)).await.unwrap().claims
    }

    pub(crate) async fn claim_one(&self, item_type: &str) -> Claim {
        self.claim(item_type, 1).await.pop().expect("an item is ready")
    }
}

/// The routes of a host on the store of this fixture, whose process has this status.
pub(crate) fn router_over(f: &Fixture, status: HostStatus) -> axum::Router {
    outbox::http::router(HttpState {
        enqueue: f.store.clone(),
        inspect: f.store.clone(),
        operate: f.store.clone(),
        handler: crate::worker::Scripted::new(async |_| crate::worker::done()),
        settings: HttpSettings { is_durable: true, ..HttpSettings::default() }.fixed(),
        status: Arc::new(move || status.clone()),
        trials: None,
        stop: CancellationToken::new(),
    })
}

/// Runs statements in the `sqlite3` command-line tool, which stops at the first error.
pub(crate) fn sqlite3(path: &str, statements: &str) -> Result<String, String> {
    let output = std::process::Command::new("sqlite3")
        .args(["-bail", "-cmd", ".timeout 10000", path, statements])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A claim of the given types with a lease of a minute and two retries.
pub(crate) fn request(types: &[&str], limit: u32) -> ClaimRequest {
    let terms = |item_type: &&str| ClaimTerms {
        item_type: (*item_type).into(),
        token: ClaimToken::random(),
        limit: u32::MAX,
        lease: Duration::from_mins(1),
        max_retries: 2,
        concurrency: None,
        rate: None,
        per_key: KeyLimits::default(),
        streak: 1,
        on_dead: OnDead::Block,
    };
    request_of(types.iter().map(terms).collect(), limit)
}

/// A claim with these terms by a process that has nothing in flight.
pub(crate) fn request_of(types: Vec<ClaimTerms>, limit: u32) -> ClaimRequest {
    let suspects = SuspectTerms::new(SuspectRoom::Idle, CrashBudget::default());
    ClaimRequest { claimed_by: "pod-1".into(), limit, types, suspects }
}

/// The same claim, which may take up to `streak` items of one ordering key.
pub(crate) fn with_streaks(mut request: ClaimRequest, streak: u32) -> ClaimRequest {
    for terms in &mut request.types {
        terms.streak = streak;
    }
    request
}

pub(crate) fn done() -> SettleRequest {
    settled(Settlement::Done { result: None, writes: HostWrites::default() })
}

pub(crate) fn failure() -> Failure {
    Failure::new(FailureClass::Retryable, "upstream.503", "the receiver is down")
}

pub(crate) fn retry(delay: Duration) -> SettleRequest {
    settled(Settlement::Retry { failure: failure(), delay })
}

pub(crate) fn dead() -> SettleRequest {
    settled(Settlement::Dead { failure: failure(), on_dead: OnDead::Block })
}

pub(crate) fn settled(settlement: Settlement) -> SettleRequest {
    SettleRequest { settlement, maybe_executed: false, stderr: None, handler_digest: None, exchanges: None }
}

/// A ready process without plugins and breakers, for its heartbeat.
pub(crate) fn pod(instance: &str) -> Pod {
    let heartbeat_at = Millis::default();
    Pod { instance: instance.into(), role: None, ready: true, heartbeat_at, plugins: vec![], breakers: vec![] }
}

pub(crate) fn item(key: &str) -> NewItem {
    NewItem::new("mail", key, r#"{"to":"a"}"#)
}

/// An item with the ordering key `k`.
pub(crate) fn ordered(key: &str) -> NewItem {
    NewItem { ordering_key: Some("k".into()), ..item(key) }
}

pub(crate) async fn all(store: &dyn Store) -> Vec<Item> {
    listed(store, &Filter::default(), 10_000).await
}

/// The whole items of a listing, newest first.
pub(crate) async fn listed(store: &(impl Inspect + ?Sized), filter: &Filter, limit: u32) -> Vec<Item> {
    let mut items = Vec::new();
    for summary in store.list(filter, &Page { limit, before: None }).await.unwrap().items {
        items.push(store.get(summary.item.id).await.unwrap().unwrap().item);
    }
    items
}

/// The fenced blocks of one language in a document.
pub(crate) fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// Whether the suite runs at the sizes of `make soak` instead of the default ones.
pub(crate) fn is_soak() -> bool {
    std::env::var_os("OUTBOX_SOAK").is_some()
}

/// Prints a figure for the person who runs the soak.
#[expect(clippy::print_stdout, reason = "figures are what the soak is run for")]
pub(crate) fn report(figure: &str) {
    println!("{figure}");
}

/// Waits until `check` returns true; fails the test after the time `within`.
pub(crate) async fn eventually(what: &str, within: Duration, mut check: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
