//! A bulk action on many items while the worker handles them and the test kills the process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::host::{HostConfig, HostProcess};
use crate::support::places::SqliteFolder;
use crate::support::plugins::Wat;
use crate::support::{eventually, is_soak, report};

/// A set-up whose DLQ is full of items and whose handler answers `ok` at once.
struct Morgue {
    plan: HostConfig,
    dir: SqliteFolder,
    items: u32,
}

impl Morgue {
    /// Enqueues `items` items and dead-letters them with a bulk action. The dead items do not block their ordering
    /// keys, so only the replay itself keeps the order.
    fn of(items: u32) -> Self {
        let dir = SqliteFolder::new();
        std::fs::create_dir(dir.path().join("plugins.d")).unwrap();
        std::fs::write(dir.path().join("plugins.d/t.wasm"), Wat::default().bytes()).unwrap();
        let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path())
            .set("OUTBOX_VISIBILITY_SEC", "1")
            .set("OUTBOX_MAX_RETRIES", "40")
            .set("OUTBOX_BACKOFF_BASE_MS", "50");
        plan.json(&["migrate", "--json"]);
        let morgue = Self { plan, dir, items };
        morgue.fill();
        let dead = morgue.plan.json(&["dead", "--status", "PENDING", "--all", "--yes", "--skip-key", "--json"]);
        assert_eq!(dead["changed"], items);
        morgue
    }

    fn fill(&self) {
        let insert = "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
             INSERT INTO outbox_items (type, idem_key, payload, ordering_key, saga, cid)
             SELECT 't', 'item-' || n, '{}', 'key-' || (n % ?2), 'Bulk', 'run-' || (n % ?2) FROM number";
        let inserted = self.database().execute(insert, [self.items, self.items / 20]).unwrap();
        assert_eq!(inserted, self.items as usize);
    }

    fn path(&self) -> PathBuf {
        self.dir.file()
    }

    fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }

    fn count(&self, sql: &str) -> u64 {
        self.database().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Asserts that the progress which the job reports equals the changes to the items and in the audit trail.
    fn progress_is_true(&self, job: i64) -> u64 {
        let changed = self.count(&format!("SELECT changed FROM outbox_jobs WHERE id = {job}"));
        assert_eq!(self.count("SELECT count(*) FROM outbox_status WHERE replays = 1"), changed);
        let audited = format!("SELECT coalesce(sum(count), 0) FROM outbox_audit WHERE job = {job}");
        assert_eq!(self.count(&audited), changed);
        changed
    }

    /// The items of each ordering key in the order in which they became DONE.
    fn finished(&self) -> BTreeMap<String, Vec<i64>> {
        let database = self.database();
        let mut select = database
            .prepare(
                "SELECT item.ordering_key, item.id
                 FROM outbox_signals AS signal JOIN outbox_items AS item ON item.id = signal.data ->> 'item_id'
                 WHERE signal.signal = 'saga_step.Bulk.t' AND signal.data ->> 'outcome' = 'ok' ORDER BY signal.seq",
            )
            .unwrap();
        let mut finished: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for row in select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap() {
            let (key, id): (String, i64) = row.unwrap();
            finished.entry(key).or_default().push(id);
        }
        finished
    }
}

async fn job(host: &HostProcess, id: i64) -> Value {
    host.send("GET", &format!("/jobs/{id}"), &[], "").await.json()
}

#[tokio::test]
async fn a_bulk_replay_takes_every_item_once_and_in_order_however_often_the_process_is_killed() {
    // Without soak, this rate leaves time for three kills during 800 items.
    let (items, rate) = if is_soak() { (200_000, Value::Null) } else { (800, json!(800)) };
    let timeout = Duration::from_mins(if is_soak() { 30 } else { 2 });
    let morgue = Morgue::of(items);
    let begun = Instant::now();
    let mut host = morgue.plan.start("serve").await;
    let order = json!({ "filter": { "status": ["DLQ"] }, "background": true, "per_second": rate, "actor": "ada" });
    let headers = [("content-type", "application/json")];
    let replay = host.send("POST", "/items:replay", &headers, &order.to_string()).await;
    assert_eq!((replay.status.as_u16(), &replay.json()["matched"]), (202, &json!(items)), "{replay:?}");
    let id = replay.json()["id"].as_i64().unwrap();
    for kill in 1..=3 {
        let mark = u64::from(items) * kill / 4;
        let reached = async || job(&host, id).await["changed"].as_u64().unwrap() >= mark;
        eventually("the job comes further", timeout, reached).await;
        host.kill();
        let changed = morgue.progress_is_true(id);
        assert!(changed < u64::from(items), "the kill must come before the job's end");
        host = morgue.plan.start("serve").await;
        assert!(job(&host, id).await["changed"].as_u64().unwrap() >= changed);
    }
    eventually("the job ends", timeout, async || job(&host, id).await["state"] == "DONE").await;
    let replayed = begun.elapsed();
    let done = "SELECT count(*) FROM outbox_status WHERE status = 'DONE'";
    eventually("every item is done", timeout, async || morgue.count(done) == u64::from(items)).await;
    host.kill();
    assert_eq!(morgue.progress_is_true(id), u64::from(items));
    let audited = "SELECT count(*), count(DISTINCT item_id) FROM outbox_audit_items
                   JOIN outbox_audit USING (seq) WHERE action = 'replay' AND actor = 'ada (claimed)'";
    let audited: (u32, u32) = morgue.database().query_row(audited, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(audited, (items, items), "every item is audited once");
    let finished = morgue.finished();
    assert_eq!(finished.values().map(Vec::len).sum::<usize>(), items as usize);
    for (key, ids) in finished {
        assert!(ids.is_sorted(), "{key} was handled out of order: {ids:?}");
    }
    let lost = morgue.count("SELECT count(*) FROM outbox_attempts WHERE class = 'lost'");
    report(&format!(
        "{items} items replayed in {replayed:.0?} and done in {:.0?}, 3 kills, {lost} attempts lost with them",
        begun.elapsed()
    ));
}
