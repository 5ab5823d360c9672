//! What PostgreSQL is asked to do for an item, as counts: commits, bytes of the write-ahead log, rows, pages. Times are
//! the bench's.

use std::time::Duration;

use futures_util::future::join_all;

use outbox::item::NewItem;
use outbox::store::{BatchMode, Claim};

use super::SOON;
use crate::faults::close;
use crate::support::postgres::{Cluster, Database, Durability};
use crate::support::{Backend, Fixture, TestDb, done, eventually, item, report, request, retry, with_streaks};

/// Items in a batch: as many as one lease holds.
const BATCH: usize = 250;
const BATCHES: usize = 20;

/// A number that a query of the superuser returns.
fn number(database: &Database, query: &str) -> i64 {
    let url = database.url_of("postgres");
    crate::support::postgres::psql(&url, query).unwrap().parse().unwrap()
}

/// The position in the write-ahead log, and the number of transactions that wrote, in the whole cluster.
fn written(database: &Database) -> (i64, i64) {
    let log = number(database, "SELECT pg_current_wal_insert_lsn() - '0/0'");
    (log, number(database, "SELECT pg_current_xact_id()::text"))
}

async fn settle(f: &Fixture, claims: &[Claim]) {
    let settled = claims.iter().map(async |claim| f.store.settle(&claim.reference(), done()).await.unwrap());
    join_all(settled).await;
}

#[tokio::test]
async fn an_item_costs_few_bytes_of_the_log_and_a_batch_one_commit() {
    let cluster = Cluster::start(Durability::Hasty);
    // Which pages are written whole depends on when a checkpoint was, and autovacuum writes too.
    for setting in ["full_page_writes", "autovacuum"] {
        cluster.sql("postgres", &format!("ALTER SYSTEM SET {setting} = off")).unwrap();
    }
    cluster.sql("postgres", "SELECT pg_reload_conf()").unwrap();
    let database = std::sync::Arc::new(cluster.database());
    let f = Fixture::on(TestDb::Postgres(std::sync::Arc::clone(&database))).await;
    let items = |batch: usize| (0..BATCH).map(|n| item(&format!("{batch}-{n:03}"))).collect();
    let count = i64::try_from(BATCH * BATCHES).unwrap();

    let before = written(&database);
    for batch in 0..BATCHES {
        f.store.enqueue(items(batch), BatchMode::PerItem).await.unwrap();
    }
    let enqueued = written(&database);
    let wanted = || request(&["mail"], u32::try_from(BATCH).unwrap());
    let mut claims = f.store.claim(&wanted()).await.unwrap().claims;
    for _ in 0..BATCHES {
        assert_eq!(claims.len(), BATCH);
        let wanted = wanted();
        let ((), next) = tokio::join!(settle(&f, &claims), f.store.claim(&wanted));
        claims = next.unwrap().claims;
    }
    assert!(claims.is_empty());
    let handled = written(&database);

    let (per_enqueue, per_item) = ((enqueued.0 - before.0) / count, (handled.0 - enqueued.0) / count);
    report(&format!("bytes of the log: {per_enqueue} for an enqueue, {per_item} for a claim with its settlement"));
    assert!(per_enqueue <= 800, "{per_enqueue} B of the log for an enqueue");
    assert!(per_item <= 380, "{per_item} B of the log for a claim and its settlement");
    // One of the numbers is that of the query itself.
    let commits = handled.1 - enqueued.1 - 1;
    assert_eq!(commits, i64::try_from(BATCHES).unwrap() + 1, "each batch, and the first claim");
    let rows = "SELECT coalesce(sum(n_tup_del + n_tup_upd), 0) FROM pg_stat_user_tables WHERE relname = 'queue'";
    eventually("the server has counted all rows", SOON, async || number(&database, rows) >= count).await;
    assert_eq!(number(&database, rows), count, "an item leaves one dead row in the queue");
}

#[tokio::test]
async fn a_claim_looks_at_the_queue_once_also_where_the_host_serves_types_without_items() {
    let cluster = Cluster::start(Durability::Hasty);
    cluster.sql("postgres", "ALTER SYSTEM SET track_functions = 'pl'").unwrap();
    cluster.sql("postgres", "SELECT pg_reload_conf()").unwrap();
    let database = std::sync::Arc::new(cluster.database());
    let f = Fixture::on(TestDb::Postgres(std::sync::Arc::clone(&database))).await;
    let items = (0..200).map(|n| item(&n.to_string())).collect();
    f.store.enqueue(items, BatchMode::PerItem).await.unwrap();
    for claimed in [32, 31, 31, 31] {
        let claims = f.store.claim(&request(&["mail", "sms"], 32)).await.unwrap().claims;
        assert_eq!(claims.len(), claimed, "the first claim does not know yet that a type has no items");
    }
    let looks = "SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'claim'";
    eventually("the server has counted all calls", SOON, async || number(&database, looks) >= 5).await;
    assert_eq!(number(&database, looks), 5, "two for the first claim");
}

#[tokio::test]
async fn a_claim_that_refuses_items_in_each_round_reads_no_item_twice() {
    let Fixture { store, clock, test_db } = Fixture::new(Backend::Postgres).await;
    let TestDb::Postgres(database) = &test_db else { unreachable!() };
    // Every second item fails, and has no attempt left in the next claim.
    let delay = |n: u64| Duration::from_millis(if n.is_multiple_of(2) { 0 } else { 1_000 + n });
    let items = (0..200).map(|n| NewItem { delay: delay(n), ..item(&format!("{n:03}")) }).collect();
    store.enqueue(items, BatchMode::PerItem).await.unwrap();
    let claims = store.claim(&request(&["mail"], 200)).await.unwrap().claims;
    assert_eq!(claims.len(), 100);
    for (n, claim) in (0..).zip(&claims) {
        store.settle(&claim.reference(), retry(Duration::from_millis(1_000 + 2 * n))).await.unwrap();
    }
    clock.advance(Duration::from_secs(2));
    close(database, vec![store]).await;

    let read = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE relname = 'items'";
    let before = number(database, read);
    let store = test_db.open("pod-1", &clock, None).await;
    let mut without_retries = request(&["mail"], 100);
    without_retries.types[0].max_retries = 0;
    let claims = store.claim(&without_retries).await.unwrap().claims;
    close(database, vec![store]).await;
    let read = number(database, read) - before;
    assert!(claims.iter().all(|claim| claim.item.attempts == 1));
    assert!(claims.is_sorted_by_key(|claim| claim.item.available_at));
    report(&format!("a claim of {} items of 200 read {read} rows of items", claims.len()));
    assert!(claims.len() > 90, "{}", claims.len());
    assert!(read <= 400, "{read} rows of items were read");
}

/// The number of pages that a call of a function looks at, which is rolled back.
fn pages_of(f: &Fixture, call: &str) -> u64 {
    let explain = format!("BEGIN; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM {call}; ROLLBACK");
    // The first call in a session also reads what the functions are.
    let told = f.sql(&format!("{explain}; {explain}")).unwrap();
    let last = told.rfind("\n[").map_or(told.as_str(), |start| &told[start..]);
    let plan: serde_json::Value = serde_json::from_str(last).unwrap();
    let plan = &plan[0]["Plan"];
    plan["Shared Hit Blocks"].as_u64().unwrap() + plan["Shared Read Blocks"].as_u64().unwrap()
}

/// The number of pages that a claim of items that are due at `lowest` or later looks at.
fn pages_of_claim(f: &Fixture, lowest: i64) -> u64 {
    pages_of(
        f,
        &format!(
            "outbox.claim('{{mail}}', '{{\"\"}}', '{{10}}', '{{{lowest}}}', '{{1}}', '{{7}}', '{{9}}', 'me', 9000000000000, 0, 0)"
        ),
    )
}

#[tokio::test]
async fn a_line_of_which_a_snapshot_keeps_the_claimed_rows_is_read_once_for_many_fronts() {
    let f = Fixture::new(Backend::Postgres).await;
    let TestDb::Postgres(database) = &f.test_db else { unreachable!() };
    f.sql(
        "INSERT INTO outbox.items (type, idem_key, payload, ordering_key)
         SELECT 'mail', 'k' || n, '', 'line' FROM generate_series(1, 21000) AS n;
         ANALYZE outbox.queue",
    )
    .unwrap();
    let snapshot = database.connect().await;
    snapshot.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox.items").await.unwrap();
    f.sql(
        "WITH gone AS (DELETE FROM outbox.queue WHERE id <= 20000 RETURNING id, turn)
         INSERT INTO outbox.done (id, done_at, epoch, turn) SELECT id, 1, 0, turn FROM gone;
         INSERT INTO outbox.lanes (ordering_key, id, turn) SELECT 'line', id, turn FROM outbox.done WHERE id = 20000",
    )
    .unwrap();
    let whole = pages_of(&f, "outbox.find_front('{line}', true)");
    f.sql("SELECT outbox.find_front('{line}', true)").unwrap();
    let claim = async || f.store.claim(&with_streaks(request(&["mail"], 4), 4)).await.unwrap().claims;
    settle(&f, &claim().await).await;
    f.sql("UPDATE outbox.lanes SET (id, turn) = (SELECT id, turn FROM outbox.done WHERE id = 20000)").unwrap();
    let next = pages_of(&f, "outbox.find_front('{line}', true)");
    report(&format!("pages for the front of a line behind 20,000 claimed rows: {whole}, then {next}"));
    assert!(next * 5 < whole, "{whole} {next}");
    f.sql("SELECT outbox.find_front('{line}')").unwrap();
    let ids: Vec<_> = claim().await.iter().map(|claim| claim.item.id.get()).collect();
    assert_eq!(ids, [20_005, 20_006, 20_007, 20_008]);
}

#[tokio::test]
async fn a_long_line_whose_items_are_claimed_one_by_one_is_looked_at_after_a_few_fronts() {
    let f = Fixture::new(Backend::Postgres).await;
    let TestDb::Postgres(database) = &f.test_db else { unreachable!() };
    f.sql(
        "INSERT INTO outbox.items (type, idem_key, payload, ordering_key)
         SELECT 'mail', 'k' || n, '', 'line' FROM generate_series(1, 200) AS n",
    )
    .unwrap();
    let mut fronts = 0;
    while number(database, "SELECT count(*) FROM outbox.line_looks") == 0 {
        let claims = f.store.claim(&request(&["mail"], 1)).await.unwrap().claims;
        settle(&f, &claims).await;
        fronts += 1;
        assert!(fronts <= 40, "no look after {fronts} fronts");
    }
    report(&format!("a line of 200 is looked at after {fronts} fronts"));
}

#[tokio::test]
async fn dead_rows_that_a_snapshot_keeps_cost_a_bounded_look_nothing_and_hide_no_late_item() {
    let f = Fixture::new(Backend::Postgres).await;
    let TestDb::Postgres(database) = &f.test_db else { unreachable!() };
    f.sql(
        "INSERT INTO outbox.items (type, idem_key, payload, available_at)
         SELECT 'mail', 'k' || n, '', 978307200000 + n FROM generate_series(1, 40000) AS n;
         ANALYZE outbox.queue",
    )
    .unwrap();
    let snapshot = database.connect().await;
    let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()";
    snapshot.batch_execute(hold).await.unwrap();
    f.sql(
        "WITH gone AS (DELETE FROM outbox.queue RETURNING id)
         INSERT INTO outbox.done (id, done_at, epoch) SELECT id, 1, 0 FROM gone;
         INSERT INTO outbox.leases (token, type, pod, claimed_at, lease_until, epoch, count, ids)
         SELECT n, 'mail', 'me', 1, 1, 0, 1, ARRAY[n] FROM generate_series(1, 20000) AS n;
         DELETE FROM outbox.leases",
    )
    .unwrap();
    let limits = pages_of(&f, "outbox.claim_limits('{mail}', '{f}', 9000000000000)");
    assert!(limits < 20, "{limits} pages to learn that nothing limits a type");
    let (full, bounded) = (pages_of_claim(&f, 0), pages_of_claim(&f, 978_307_250_000));
    report(&format!("pages of a claim beside 40,000 dead rows: {full} in full, {bounded} with a bound"));
    assert!(bounded * 10 < full, "{full} {bounded}");

    f.sql("INSERT INTO outbox.items (type, idem_key, payload, available_at) VALUES ('mail', 'new', '', 978307260000)")
        .unwrap();
    assert_eq!(f.store.claim(&request(&["mail"], 1)).await.unwrap().claims.len(), 1, "the first look is a full one");
    f.sql("INSERT INTO outbox.items (type, idem_key, payload, available_at) VALUES ('mail', 'late', '', 978307200005)")
        .unwrap();
    let mut claims = Vec::new();
    eventually("a full look finds what was committed late", SOON, async || {
        let batch = f.store.claim(&request(&["mail"], 1)).await.unwrap();
        assert!(!batch.claims.is_empty() || batch.next_available_in.is_some(), "when the next full look is");
        claims.extend(batch.claims);
        !claims.is_empty()
    })
    .await;
    assert_eq!(claims[0].item.idem_key, "late");
    f.sql("INSERT INTO outbox.items (type, idem_key, payload, available_at) VALUES ('mail', 'next', '', 978307270000)")
        .unwrap();
    f.clock.advance(Duration::from_secs(1));
    assert_eq!(f.store.claim(&request(&["mail"], 1)).await.unwrap().claims.len(), 1);
}
