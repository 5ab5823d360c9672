//! What several test files share: stores with a clock that the test moves, and polling with a deadline.

pub(crate) mod downstream;
pub(crate) mod guests;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod plugins;
pub(crate) mod stage;
mod warm;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use outbox::item::{Class, Failure, HostWrites, Item, ItemId, NewItem, OnDead, Status};
use outbox::store::sqlite::{Alerts, SqliteOptions, SqliteStore};
use outbox::store::{Claim, ClaimRequest, Filter, Page, Settled, Settlement, Store, TypeClaim};

/// Where the tests' clocks start.
pub(crate) const START: i64 = 1_800_000_000_000;

/// A clock that moves only when a test says so.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn source(&self) -> outbox::store::sqlite::Clock {
        let clock = Arc::clone(&self.0);
        Arc::new(move || clock.load(Ordering::SeqCst))
    }
}

/// A real store in a folder of its own.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: TestClock,
    pub(crate) path: PathBuf,
    dir: Arc<tempfile::TempDir>,
}

impl Fixture {
    pub(crate) fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.sqlite");
        let clock = TestClock::new();
        let store = open(&path, "pod-1", &clock);
        Self { store, clock, path, dir: Arc::new(dir) }
    }

    /// A store that announces what happens as items of this type.
    pub(crate) fn sqlite_with_alerts(item_type: &str) -> Self {
        let fixture = Self::sqlite();
        let alerts = Some(Alerts { item_type: item_type.into(), every: Duration::from_mins(5) });
        let options = SqliteOptions { instance: "pod-1".into(), clock: fixture.clock.source(), alerts };
        Self { store: SqliteStore::open(&fixture.path, options).unwrap(), ..fixture }
    }

    /// Another process's view of the same outbox.
    pub(crate) fn second(&self) -> Arc<dyn Store> {
        open(&self.path, "pod-2", &self.clock)
    }

    /// The same outbox with another process's view of it.
    pub(crate) fn another(&self) -> Self {
        Self { store: self.second(), clock: self.clock.clone(), path: self.path.clone(), dir: Arc::clone(&self.dir) }
    }

    pub(crate) async fn enqueue(&self, item: NewItem) -> ItemId {
        let enqueued = self.store.enqueue(vec![item], outbox::store::Write::Each).await.unwrap();
        enqueued.ids[0].unwrap()
    }

    pub(crate) async fn item(&self, id: ItemId) -> Item {
        self.store.show(id).await.unwrap().unwrap().item
    }

    pub(crate) async fn status(&self, id: ItemId) -> Status {
        self.item(id).await.status
    }

    /// Claims at most `limit` items of one type on ordinary terms.
    pub(crate) async fn claim(&self, item_type: &str, limit: u32) -> Vec<Claim> {
        self.store.claim(&request(&[item_type], limit)).await.unwrap().claims
    }

    pub(crate) async fn claim_one(&self, item_type: &str) -> Claim {
        self.claim(item_type, 1).await.pop().expect("an item is ready")
    }
}

fn open(path: &std::path::Path, instance: &str, clock: &TestClock) -> Arc<dyn Store> {
    let options = SqliteOptions { instance: instance.into(), clock: clock.source(), alerts: None };
    SqliteStore::open(path, options).unwrap()
}

/// A claim of the given types with a lease of a minute and two retries.
pub(crate) fn request(types: &[&str], limit: u32) -> ClaimRequest {
    let terms = |item_type: &&str| TypeClaim {
        item_type: (*item_type).into(),
        limit: u32::MAX,
        lease: Duration::from_mins(1),
        max_retries: 2,
        concurrency: None,
        rate: None,
        on_dead: OnDead::Block,
    };
    ClaimRequest { claimed_by: "pod-1".into(), limit, types: types.iter().map(terms).collect() }
}

pub(crate) fn done() -> Settled {
    settled(Settlement::Done { result: None, writes: HostWrites::default() })
}

pub(crate) fn failure() -> Failure {
    Failure::new(Class::Retryable, "upstream.503", "the receiver is down")
}

pub(crate) fn retry(delay: Duration) -> Settled {
    settled(Settlement::Retry { failure: failure(), delay })
}

pub(crate) fn dead() -> Settled {
    settled(Settlement::Dead { failure: failure(), on_dead: OnDead::Block })
}

pub(crate) fn settled(settlement: Settlement) -> Settled {
    Settled { settlement, maybe_executed: false, stderr: None, handler_digest: None }
}

pub(crate) fn item(key: &str) -> NewItem {
    NewItem::new("mail", key, r#"{"to":"a"}"#)
}

pub(crate) async fn all(store: &dyn Store) -> Vec<Item> {
    store.list(&Filter::default(), &Page { limit: 10_000, before: None }).await.unwrap()
}

/// The fenced blocks of one language in a document.
pub(crate) fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// Whether the suite runs at the sizes of `make soak` instead of the everyday ones.
pub(crate) fn is_soak() -> bool {
    std::env::var_os("OUTBOX_SOAK").is_some()
}

/// Prints a figure for whoever runs the soak.
#[expect(clippy::print_stdout, reason = "figures are what the soak is run for")]
pub(crate) fn report(figure: &str) {
    println!("{figure}");
}

/// Waits until `check` holds; fails the test when it does not within the time given.
pub(crate) async fn eventually(what: &str, within: Duration, mut check: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
