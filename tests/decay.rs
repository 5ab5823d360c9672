//! The cost of claims and settlements on PostgreSQL beside many items that are finished or not due for long, and after
//! many items have passed through. The cost is the number of pages that the server read, which does not depend on the
//! load of the machine; `make soak` also reports the time.

use std::time::{Duration, Instant};

use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{BatchMode, Retention, Store};

use crate::support::places::ALL_DONE;
use crate::support::postgres::{Cluster, Database, Durability};
use crate::support::{done, eventually, is_soak, item, report, request};

/// The number of items in one claim.
const BATCH: u32 = 100;
/// The largest ratio of two costs that counts as equal: 20 % allow for noise in the page counts.
const SAME: f64 = 1.2;
/// The number of claims in vain whose pages are counted.
const VAIN_LOOKS: u32 = 20;
/// The largest ratio of the pages of two claims in vain that counts as few: beside many items each look-up reads one or
/// two levels of an index more, where it reads one or two levels in all beside none.
const LEVELS: f64 = 3.0;

/// The cost of claiming and settling one item.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// The pages of [`TABLES`] and their indexes that the server read, of 8 KiB each.
    pages: f64,
    time: Duration,
}

impl Cost {
    fn words(self) -> String {
        format!("{:.1} pages and {:.0} µs an item", self.pages, self.time.as_secs_f64() * 1e6)
    }
}

async fn open(database: &Database) -> std::sync::Arc<dyn Store> {
    PostgresStore::open_existing(&database.url(), PostgresOptions::default()).await.unwrap()
}

/// Enqueues `items` items with new idempotency keys.
async fn enqueue(database: &Database, items: u32) {
    let store = open(database).await;
    for first in (0..items).step_by(1_000) {
        let new = (first..items.min(first + 1_000)).map(|_| item(&uuid::Uuid::now_v7().to_string()));
        store.enqueue(new.collect(), BatchMode::PerItem).await.unwrap();
    }
    gone(database, store).await;
}

/// Claims and settles `items` ready items, and returns the cost of one.
async fn handle(database: &Database, items: u32) -> Cost {
    let before = pages(database);
    let store = open(database).await;
    let begun = Instant::now();
    let mut left = items;
    while left > 0 {
        let claims = store.claim(&request(&["mail"], BATCH.min(left))).await.unwrap().claims;
        let references: Vec<_> = claims.iter().map(outbox::store::Claim::reference).collect();
        let settling = references.iter().map(|claim| store.settle(claim, done()));
        futures_util::future::try_join_all(settling).await.unwrap();
        left -= u32::try_from(claims.len()).unwrap();
    }
    let time = begun.elapsed() / items;
    gone(database, store).await;
    Cost { pages: (pages(database) - before) / f64::from(items), time }
}

/// Closes the store, and waits until the server has added the work of its connections to the statistics.
async fn gone(database: &Database, store: std::sync::Arc<dyn Store>) {
    drop(store);
    let others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outbox'
                  AND datname = current_database()";
    eventually("the connections are closed", Duration::from_secs(30), async || database.sql(others).unwrap() == "0")
        .await;
}

/// The tables that claims and settlements read and write.
const TABLES: [&str; 8] = ["items", "queue", "leases", "lanes", "done", "dead", "past", "handlers"];

/// What autovacuum does with these tables.
fn vacuum() -> String {
    format!("VACUUM ANALYZE {}", TABLES.map(|table| format!("outbox.{table}")).join(", "))
}

fn pages(database: &Database) -> f64 {
    let read = format!(
        "SELECT sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0))
         FROM pg_statio_user_tables WHERE schemaname = 'outbox' AND relname IN ('{}')",
        TABLES.join("', '")
    );
    database.sql(&read).unwrap().parse().unwrap()
}

/// Databases in which the costs of claims and settlements are compared.
struct Pair {
    empty: Database,
    full: Database,
}

impl Pair {
    /// `furnish` is the statement that fills one of them.
    fn new(furnish: &str) -> Self {
        let cluster = if is_soak() { Cluster::start(Durability::Honest) } else { Cluster::shared() };
        let (empty, full) = (cluster.database(), cluster.database());
        full.sql(&furnish.replace("outbox_", "outbox.")).unwrap();
        full.sql(&vacuum()).unwrap();
        Self { empty, full }
    }

    /// Demands that `items` items cost the same in both.
    async fn demand_equal_costs(&self, items: u32, what: &str) {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            for (database, costs) in [(&self.empty, &mut alone), (&self.full, &mut beside)] {
                enqueue(database, items).await;
                costs.push(handle(database, items).await);
            }
        }
        let (alone, beside) = (cheapest(&alone), cheapest(&beside));
        report(&format!("alone {}; beside {what} {}", alone.words(), beside.words()));
        assert!(beside.pages <= SAME * alone.pages, "{beside:?} beside {what}, {alone:?} without");
    }
}

#[tokio::test]
async fn finished_items_beside_a_queue_cost_its_claims_and_settlements_nothing() {
    let (finished, items) = if is_soak() { (1_000_000, 50_000) } else { (20_000, 2_000) };
    let done = format!(
        "INSERT INTO outbox_items (type, idem_key, payload) SELECT 'mail', 'old-' || n, '{{}}'
         FROM generate_series(1, {finished}) AS n; {ALL_DONE}"
    );
    Pair::new(&done).demand_equal_costs(items, &format!("{finished} DONE items")).await;
}

/// The pages of a claim that finds nothing, which an idle worker makes.
async fn look_in_vain(database: &Database) -> f64 {
    let (before, store) = (pages(database), open(database).await);
    for _ in 0..VAIN_LOOKS {
        assert!(store.claim(&request(&["mail"], BATCH)).await.unwrap().claims.is_empty());
    }
    gone(database, store).await;
    (pages(database) - before) / f64::from(VAIN_LOOKS)
}

#[tokio::test]
async fn items_that_are_due_in_a_year_cost_claims_and_settlements_nothing() {
    let (late, items) = if is_soak() { (1_000_000, 50_000) } else { (20_000, 2_000) };
    let due_in_a_year = format!(
        "INSERT INTO outbox_items (type, idem_key, payload, available_at)
         SELECT 'mail', 'late-' || n, '{{}}', outbox_now() + 365 * 24 * 3600 * 1000::bigint
         FROM generate_series(1, {late}) AS n"
    );
    let (pair, what) = (Pair::new(&due_in_a_year), format!("{late} items due in a year"));
    pair.demand_equal_costs(items, &what).await;
    let (alone, beside) = (look_in_vain(&pair.empty).await, look_in_vain(&pair.full).await);
    report(&format!("a claim in vain: alone {alone:.1} pages; beside {what} {beside:.1} pages"));
    assert!(beside <= LEVELS * alone, "{beside} pages of a claim in vain beside {what}, {alone} without");
}

#[tokio::test]
async fn the_numbers_of_a_long_queue_are_told_without_reading_it() {
    let sizes = if is_soak() { [20_000, 1_000_000] } else { [15_000, 60_000] };
    let mut costs = Vec::new();
    for items in sizes {
        let database = Cluster::shared().database();
        let fill = format!(
            "INSERT INTO outbox.items (type, idem_key, payload)
             SELECT 'type-' || n % 7, 'k' || n, '{{}}' FROM generate_series(1, {items}) AS n"
        );
        database.sql(&fill).unwrap();
        database.sql(&vacuum()).unwrap();
        let store = open(&database).await;
        store.run_maintenance(&Retention::default()).await.unwrap();
        gone(&database, store).await;
        let mut read = Vec::new();
        for _ in 0..3 {
            let (before, store) = (pages(&database), open(&database).await);
            let overview = store.overview().await.unwrap();
            assert_eq!((overview.by_status["PENDING"], overview.oldest_pending_ms.len()), (items, 7));
            gone(&database, store).await;
            read.push(pages(&database) - before);
        }
        costs.push(read.into_iter().fold(f64::INFINITY, f64::min));
    }
    report(&format!("the numbers of {sizes:?} waiting items: {costs:?} pages"));
    assert!(costs[1] <= SAME * costs[0], "{costs:?}");
}

/// The lowest number of pages and the shortest time. Other work on the machine adds time, and a vacuum adds pages.
fn cheapest(costs: &[Cost]) -> Cost {
    let pages = costs.iter().map(|cost| cost.pages).fold(f64::INFINITY, f64::min);
    Cost { pages, time: costs.iter().map(|cost| cost.time).min().unwrap() }
}

#[tokio::test]
async fn a_table_that_many_items_have_passed_through_costs_what_it_did_at_first() {
    let (slices, items) = if is_soak() { (10, 200_000) } else { (5, 2_000) };
    let cluster = if is_soak() { Cluster::start(Durability::Honest) } else { Cluster::shared() };
    let database = cluster.database();
    let mut costs = Vec::new();
    for slice in 1..=slices {
        enqueue(&database, items).await;
        costs.push(handle(&database, items).await);
        report(&format!("{} items: {}", slice * items, costs.last().unwrap().words()));
        if !is_soak() {
            // Autovacuum does the same when there are 5,000 dead rows, but it checks only once a minute.
            database.sql(&vacuum()).unwrap();
        }
    }
    let (first, last) = (costs[0], costs[slices as usize - 1]);
    assert!(last.pages <= SAME * first.pages, "{last:?} at last, {first:?} at first: {costs:?}");
}
