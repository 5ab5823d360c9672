//! How PostgreSQL finds the rows of the statements that are run often: in which indexes, and never by reading a large
//! table. The server counts what is found in each index and how often a table is read as a whole, also inside of
//! functions. So these tests run the real statements of a store, and hold on every version of the server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use outbox::item::{ItemId, Status};
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{Claim, Filter, JobPace, JobState, Page, RatedType, Retention, Selection, SettleRequest, Store};

use crate::store_contract::{REPLAY, operate_request};
use crate::support::places::ALL_DONE;
use crate::support::postgres::{Cluster, Database};
use crate::support::{TestClock, dead, done, eventually, request, retry};

/// The tables that grow with the number of items.
const LARGE: [&str; 7] = ["items", "queue", "done", "dead", "past", "attempts", "lanes"];

/// Items in every place: 30,000 DONE, 20,000 dead with a row of history each, 5,000 that wait, and 2,000 that wait with
/// 400 ordering keys. With fewer, reading a whole table would be the better plan for some statements.
fn fill(database: &Database) {
    let insert = "INSERT INTO outbox.items (type, idem_key, payload, ordering_key) SELECT 'mail', ";
    for sql in [
        format!("{insert} 'done-' || n, '{{}}', NULL FROM generate_series(1, 30000) AS n; {ALL_DONE}"),
        format!("{insert} 'dead-' || n, '{{}}', NULL FROM generate_series(1, 20000) AS n"),
        "INSERT INTO outbox.past (id, attempts, deliveries) SELECT id, 1, 1 FROM outbox.queue;
         INSERT INTO outbox.dead (id, dead_at, epoch, type) SELECT id, id, 0, type FROM outbox.queue;
         INSERT INTO outbox.attempts (item_id, delivery, attempt, started_at, ended_at, pod, class, code, message,
                                      maybe_executed)
         SELECT id, 1, 1, 1, 2, 'pod-1', 'rejected', 'c', 'refused', false FROM outbox.queue;
         DELETE FROM outbox.queue"
            .to_owned(),
        format!("{insert} 'plain-' || n, '{{}}', NULL FROM generate_series(1, 5000) AS n"),
        format!("{insert} 'keyed-' || n, '{{}}', 'key-' || n % 400 FROM generate_series(1, 2000) AS n"),
        "CREATE TABLE public.marker ()".to_owned(),
        "VACUUM ANALYZE".to_owned(),
    ] {
        database.sql(&sql.replace("outbox_", "outbox.")).unwrap();
    }
}

/// How many entries were found in each index of the large tables, and how often each of these tables was read as a
/// whole, since the statistics began. Searches that find nothing are left out: versions count them differently.
fn scans(database: &Database) -> BTreeSet<String> {
    let large = LARGE.join("', '");
    let sql = format!(
        "SELECT indexrelname || ' ' || idx_tup_read FROM pg_stat_user_indexes
         WHERE schemaname = 'outbox' AND relname IN ('{large}')
         UNION ALL SELECT 'ALL-OF-' || relname || ' ' || seq_scan FROM pg_stat_user_tables
         WHERE schemaname = 'outbox' AND relname IN ('{large}')"
    );
    database.sql(&sql).unwrap().lines().map(str::to_owned).collect()
}

/// What statements use, line by line.
struct Plans {
    database: Arc<Database>,
    used: Vec<String>,
}

impl Plans {
    fn new() -> Self {
        let database = Arc::new(Cluster::shared().database());
        fill(&database);
        Self { database, used: Vec::new() }
    }

    /// Notes the indexes in which `work` finds rows, and the large tables that it reads as a whole.
    async fn note<T>(&mut self, what: &str, work: impl AsyncFnOnce(&dyn Store) -> T) -> T {
        let before = scans(&self.database);
        let clock = Some(TestClock::new().source());
        let options = PostgresOptions { clock, ..PostgresOptions::default() };
        let store = PostgresStore::open_existing(&self.database.url(), options).await.unwrap();
        let result = work(&*store).await;
        drop(store);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outbox'
                    AND datname = current_database()";
        let is_closed = async || self.database.sql(open).unwrap() == "0";
        eventually("the store has closed its connections", Duration::from_secs(30), is_closed).await;
        self.wait_for_statistics().await;
        let after = scans(&self.database);
        let names = after.difference(&before).filter_map(|used| used.split(' ').next());
        self.used.push(format!("{what}: {}", names.collect::<Vec<_>>().join(" ")));
        result
    }

    /// Waits until the server has added up what was done before. Version 14 does this in a process of its own, in the
    /// order in which it is told.
    async fn wait_for_statistics(&self) {
        self.database.sql("SELECT count(*) FROM public.marker").unwrap();
        let marks = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'marker'";
        let marked = (self.used.len() + 1).to_string();
        let is_marked = async || self.database.sql(marks).unwrap() == marked;
        eventually("the server has added up what the store did", Duration::from_secs(30), is_marked).await;
    }

    #[track_caller]
    fn assert_are(&self, expected: &[&str]) {
        let used = self.used.join("\n");
        assert_eq!(used, expected.join("\n"), "these are the plans now:\n{used}");
        // The upkeep counts up to 10,000 items of the queue.
        let read = used.replace("retention: ALL-OF-queue", "");
        assert!(!read.contains("ALL-OF-"), "a whole table is read:\n{used}");
    }
}

async fn settle(store: &dyn Store, claims: &[Claim], request: &SettleRequest) {
    for claim in claims {
        store.settle(&claim.reference(), request.clone()).await.unwrap();
    }
}

async fn claim(store: &dyn Store) -> Vec<Claim> {
    store.claim(&request(&["mail"], 100)).await.unwrap().claims
}

#[tokio::test]
async fn the_statements_of_workers_and_of_the_upkeep_search_these_indexes() {
    let mut plans = Plans::new();
    let claims = plans.note("claim", async |store| claim(store).await).await;
    plans.note("done", async |store| settle(store, &claims[..50], &done()).await).await;
    let later = retry(Duration::from_hours(1));
    plans.note("retry", async |store| settle(store, &claims[50..60], &later).await).await;
    plans.note("dead", async |store| settle(store, &claims[60..70], &dead()).await).await;
    plans.database.sql("UPDATE outbox.leases SET lease_until = 1").unwrap();
    let ended = plans.note("end of leases", async |store| store.expire_leases(&[]).await.unwrap()).await;
    let age = Some(Duration::ZERO);
    let retention = Retention { done: age, dead: age, signals: age, audit: age, history: age };
    let report = plans.note("retention", async |store| store.run_maintenance(&retention).await.unwrap()).await;
    assert_eq!((claims.len(), ended, report.items), (100, 30, 500));
    plans.assert_are(&[
        "claim: items_pkey queue_ready",
        "done: ",
        "retry: items_pkey queue_pkey",
        "dead: items_pkey",
        "end of leases: items_pkey queue_pkey",
        "retention: ALL-OF-queue attempts_pkey dead_at dead_pkey items_pkey past_pkey",
    ]);
}

#[tokio::test]
async fn the_statements_for_fairness_keys_search_these_indexes() {
    let mut plans = Plans::new();
    let shared = "INSERT INTO outbox.items (type, idem_key, payload, fairness_key, available_at)
        SELECT 'mail', 'shared-' || n, '{}', 'tenant-' || n % 7, 0 FROM generate_series(1, 2000) AS n";
    plans.database.sql(shared).unwrap();
    plans.database.sql("VACUUM ANALYZE outbox.queue").unwrap();
    let claims = plans.note("claim", async |store| claim(store).await).await;
    assert!(claims.len() == 100 && claims.iter().any(|claim| claim.item.fairness_key.is_some()));
    plans.assert_are(&["claim: items_pkey queue_fair queue_fair_due queue_ready"]);
}

#[tokio::test]
async fn readers_look_for_used_up_rates_in_these_indexes_also_for_types_without_items() {
    let mut plans = Plans::new();
    let shared = "INSERT INTO outbox.items (type, idem_key, payload, fairness_key, available_at)
        SELECT 'push', 'shared-' || n, '{}', 'tenant-' || n % 7, 0 FROM generate_series(1, 40000) AS n;
        INSERT INTO outbox.rates (type, tokens, filled_at, per_second)
        SELECT kind, 0, outbox.now(), 1 FROM unnest(ARRAY['mail', 'push', 'idle']) AS kind";
    plans.database.sql(shared).unwrap();
    plans.database.sql("ANALYZE outbox.queue").unwrap();
    let rated = |rate, rate_per_key| {
        let of = |name: &str| RatedType { item_type: name.into(), rate, rate_per_key };
        ["mail", "push", "idle"].map(of)
    };
    for (what, types) in [("rate", rated(Some(1.0), None)), ("rate per key", rated(None, Some(1.0)))] {
        let before = rows_read(&plans.database);
        plans.note(what, async |store| store.reached_rates(&types).await.unwrap()).await;
        let read = rows_read(&plans.database) - before;
        assert!(read < 3_000, "{what}: {read} rows");
    }
    plans.assert_are(&["rate: queue_fair_due queue_ready", "rate per key: queue_fair_due queue_ready"]);
}

#[tokio::test]
async fn the_statements_for_ordering_keys_search_these_indexes() {
    let mut plans = Plans::new();
    let first = "UPDATE outbox.queue SET available_at = 0 WHERE ordering_key IS NOT NULL";
    plans.database.sql(&format!("{first}; ANALYZE outbox.queue")).unwrap();
    let claims = plans.note("claim", async |store| claim(store).await).await;
    assert!(claims.len() == 100 && claims.iter().all(|claim| claim.item.ordering_key.is_some()));
    plans.note("done", async |store| settle(store, &claims[..20], &done()).await).await;
    plans.note("dead", async |store| settle(store, &claims[20..40], &dead()).await).await;
    plans.assert_are(&[
        "claim: items_pkey lanes_pkey queue_line queue_pkey queue_ready",
        "done: done_pkey items_pkey lanes_pkey queue_line queue_pkey",
        "dead: dead_line dead_pkey items_pkey lanes_pkey queue_line queue_pkey",
    ]);
}

#[tokio::test]
async fn lists_and_numbers_search_these_indexes() {
    let mut plans = Plans::new();
    plans.note("claim", async |store| claim(store).await).await;
    for status in Status::ALL {
        let (filter, page) = (Filter { status: vec![status], ..Filter::default() }, Page { limit: 20, before: None });
        let list = async |store: &dyn Store| store.list(&filter, &page).await.unwrap().items.len();
        assert_eq!(plans.note(status.as_str(), list).await, 20);
    }
    assert!(plans.note("item", async |store| store.get(ItemId::new(1)).await.unwrap().is_some()).await);
    plans.assert_are(&[
        "claim: items_pkey queue_ready",
        "PENDING: items_pkey queue_pkey",
        "CLAIMED: items_pkey",
        "DONE: done_pkey items_pkey",
        "DLQ: dead_pkey items_pkey past_pkey",
        "item: done_pkey items_pkey",
    ]);
}

/// How many entries of indexes and rows of tables were read since the statistics began.
fn rows_read(database: &Database) -> i64 {
    let sql = "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'outbox')
                    + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE schemaname = 'outbox')";
    database.sql(sql).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_batch_of_a_job_reads_no_more_near_the_end_than_at_the_beginning_whatever_the_statistics_say() {
    let mut plans = Plans::new();
    // The statistics know no item of this type.
    plans.database.sql("UPDATE outbox.dead SET type = 'bulk'").unwrap();
    let filter = Filter { status: vec![Status::Dlq], r#type: Some("bulk".into()), ..Filter::default() };
    let replay = operate_request(REPLAY, Selection::Filter(filter));
    let mut read = Vec::new();
    for place in [0, 15_000] {
        let job = plans.note("begin", async |store| store.start_job(&replay, JobPace::default()).await.unwrap()).await;
        let id = job.unwrap().id;
        let skip = format!("UPDATE outbox.jobs SET position = (SELECT min(id) FROM outbox.dead) + {place}");
        plans.database.sql(&skip).unwrap();
        let before = rows_read(&plans.database);
        let job = plans.note("batch", async |store| store.run_job_batch(id).await.unwrap()).await;
        assert_eq!(job.unwrap().changed, 100);
        read.push(rows_read(&plans.database) - before);
        plans.database.sql("UPDATE outbox.jobs SET state = 'DONE', ended_at = began_at").unwrap();
    }
    assert!(read.iter().all(|read| *read < 10_000), "{read:?}");
}

#[tokio::test]
async fn a_batch_of_a_job_that_finds_little_reads_a_bounded_number_of_rows_and_the_next_one_goes_on() {
    let mut plans = Plans::new();
    let rare = "UPDATE outbox.dead SET type = 'rare' WHERE id = (SELECT max(id) FROM outbox.dead)";
    plans.database.sql(rare).unwrap();
    let filter = Filter { status: vec![Status::Dlq], r#type: Some("rare".into()), ..Filter::default() };
    let replay = operate_request(REPLAY, Selection::Filter(filter));
    let job = plans.note("begin", async |store| store.start_job(&replay, JobPace::default()).await.unwrap()).await;
    let (id, mut read) = (job.unwrap().id, Vec::new());
    let ended = loop {
        let before = rows_read(&plans.database);
        let job = plans.note("batch", async |store| store.run_job_batch(id).await.unwrap()).await.unwrap();
        read.push(rows_read(&plans.database) - before);
        if job.state != JobState::Running {
            break job;
        }
    };
    assert_eq!((ended.state, ended.changed), (JobState::Done, 1));
    assert!(read.len() > 2 && read.iter().all(|read| *read < 20_000), "{read:?}");
}
