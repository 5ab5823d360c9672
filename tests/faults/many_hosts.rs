//! PostgreSQL: several hosts on one database, whose transactions get in each other's way.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use outbox::item::NewItem;
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{BatchMode, Claim, Retention, Store};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::close;
use crate::support::postgres::{Cluster, Database};
use crate::support::{done, eventually, is_soak, item, report, request};

const HOSTS: usize = 3;

/// The limit for every expected event; it allows for a busy machine.
const SOON: Duration = Duration::from_mins(2);

/// How long nothing may happen while items are left. Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

async fn open(database: &Database, instance: usize) -> Arc<dyn Store> {
    let options = PostgresOptions { instance: format!("pod-{instance}"), ..PostgresOptions::default() };
    PostgresStore::open_existing(&database.url(), options).await.unwrap()
}

async fn open_all(database: &Database, hosts: usize) -> Vec<Arc<dyn Store>> {
    join_all((0..hosts).map(|instance| open(database, instance))).await
}

/// What a claim found.
enum Found {
    Items,
    /// `next` is the time until another claim may find something, if the store expects that.
    Nothing {
        next: Option<Duration>,
    },
}

/// What hosts do together: handle items, until there are no more.
struct Work {
    items: usize,
    /// The keys of the items in the order of their claims.
    claimed: RefCell<Vec<String>>,
    handled: Cell<usize>,
    calls: Cell<usize>,
    finished: CancellationToken,
}

impl Work {
    fn of(items: usize) -> Self {
        let (claimed, handled, calls) = (RefCell::default(), Cell::new(0), Cell::new(0));
        Self { items, claimed, handled, calls, finished: CancellationToken::new() }
    }

    /// Claims, and makes DONE what it got.
    async fn handle(&self, store: &dyn Store, limit: u32) -> Found {
        self.calls.set(self.calls.get() + 1);
        let batch = store.claim(&request(&["mail"], limit)).await.unwrap();
        let keys = batch.claims.iter().map(|claim| claim.item.idem_key.clone());
        self.claimed.borrow_mut().extend(keys);
        let settling = batch.claims.iter().map(Claim::reference).map(async |claim| store.settle(&claim, done()).await);
        for settled in join_all(settling).await {
            settled.unwrap();
        }
        self.handled.set(self.handled.get() + batch.claims.len());
        if self.handled.get() >= self.items {
            self.finished.cancel();
        }
        if batch.claims.is_empty() { Found::Nothing { next: batch.next_available_in } } else { Found::Items }
    }

    /// Handles items as a worker does that never looks again by itself: after each claim it waits for a notice of the
    /// store, or for the time that the store named. Fails the test when nobody is woken for an item.
    async fn wait_and_handle(&self, store: &dyn Store) {
        let mut changes = store.subscribe();
        while !self.finished.is_cancelled() {
            changes.borrow_and_update();
            let next = match self.handle(store, 10).await {
                Found::Items => None,
                Found::Nothing { next } => next,
            };
            let before = self.handled.get();
            let wait = timeout(next.unwrap_or(PATIENCE), changes.changed());
            let noticed = self.finished.run_until_cancelled(wait).await;
            let is_forgotten = next.is_none() && matches!(noticed, Some(Err(_))) && self.handled.get() == before;
            assert!(!is_forgotten, "nobody was woken for item {before} of {}", self.items);
        }
    }
}

/// Handles items of one ordering key with this number of hosts. Returns the number of claims that it took.
async fn handle_hot_key(hosts: usize, items: usize) -> usize {
    let database = Cluster::shared().database();
    let stores = open_all(&database, hosts).await;
    let hot = |n| NewItem { ordering_key: Some("hot".into()), ..item(&format!("{n:05}")) };
    stores[0].enqueue((0..items).map(hot).collect(), BatchMode::PerItem).await.unwrap();
    let work = Work::of(items);
    // Whoever works on the line at first wakes nobody when it ends.
    let mut other = database.connect().await;
    let holding = other.transaction().await.unwrap();
    holding.batch_execute("SELECT pg_advisory_xact_lock(7206002, hashtext('hot'))").await.unwrap();
    let let_go = async {
        eventually("the hosts look at the line again and again", SOON, async || work.calls.get() >= 4 * hosts).await;
        holding.rollback().await.unwrap();
    };
    join(join_all(stores.iter().map(|store| work.wait_and_handle(&**store))), let_go).await;
    let claimed = work.claimed.take();
    assert!(claimed.len() == items && claimed.is_sorted(), "in order and once: {claimed:?}");
    work.calls.get()
}

#[tokio::test]
async fn items_of_one_key_go_on_at_once_with_several_hosts_without_many_claims_for_nothing() {
    let items = if is_soak() { 3_000 } else { 120 };
    let (alone, together) = (handle_hot_key(1, items).await, handle_hot_key(HOSTS, items).await);
    report(&format!("{items} items of one key: {alone} claims by one host, {together} by {HOSTS}"));
    // Each settlement wakes every host, and a host may find the key's line locked once more.
    assert!(together <= HOSTS * 4 * items, "{together} claims for {items} items");
}

/// Enqueues batches of steps of a few saga runs; every third step has an ordering key of its own.
async fn produce(store: &dyn Store, producer: usize, batches: usize, batch: usize) {
    for n in 0..batches {
        let step = |i: usize| NewItem {
            saga: Some("S".into()),
            cid: Some(format!("c{}", i % 7)),
            ordering_key: i.is_multiple_of(3).then(|| format!("o{producer}-{n}-{i}")),
            ..item(&format!("{producer}-{n}-{i}"))
        };
        store.enqueue((0..batch).map(step).collect(), BatchMode::PerItem).await.unwrap();
    }
}

async fn handle_all(store: &dyn Store, work: &Work) {
    while !work.finished.is_cancelled() {
        if let Found::Nothing { .. } = work.handle(store, 20).await {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

const AT_ONCE: Retention = Retention {
    done: Some(Duration::from_millis(1)),
    dead: None,
    signals: Some(Duration::from_millis(1)),
    audit: None,
    history: None,
};

async fn clean_up(store: &dyn Store, work: &Work) {
    while !work.finished.is_cancelled() {
        store.run_maintenance(&AT_ONCE).await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn hosts_that_delete_what_is_done_under_load_neither_deadlock_nor_repeat_an_item() {
    let (batches, batch) = if is_soak() { (30, 80) } else { (8, 40) };
    let database = Cluster::shared().database();
    let stores = open_all(&database, HOSTS).await;
    let work = Work::of(HOSTS * batches * batch);
    // What an application has locked stays, and holds up neither the hosts nor what else is to be deleted.
    stores[0].enqueue(vec![item("locked")], BatchMode::PerItem).await.unwrap();
    let claim = stores[0].claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
    stores[0].settle(&claim.reference(), done()).await.unwrap();
    let mut application = database.connect().await;
    let locking = application.transaction().await.unwrap();
    locking.batch_execute("SELECT FROM outbox.items FOR UPDATE").await.unwrap();
    let hosts = stores.iter().enumerate().map(async |(number, store)| {
        let handle_and_clean_up = join(handle_all(&**store, &work), clean_up(&**store, &work));
        join(produce(&**store, number, batches, batch), handle_and_clean_up).await
    });
    timeout(SOON, join_all(hosts)).await.expect("the backlog drains");
    let mut claims = BTreeMap::<_, usize>::new();
    work.claimed.take().into_iter().for_each(|key| *claims.entry(key).or_default() += 1);
    assert_eq!((claims.len(), claims.values().max()), (work.items, Some(&1)));
    let left_are = async |keys: &str| {
        stores[0].run_maintenance(&AT_ONCE).await.unwrap();
        database.sql("SELECT idem_key FROM outbox.items").unwrap() == keys
    };
    eventually("all others are deleted", SOON, async || left_are("locked").await).await;
    locking.rollback().await.unwrap();
    eventually("everything is deleted", SOON, async || left_are("").await).await;
    close(&database, stores).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(database.sql(deadlocks).unwrap(), "0");
}
