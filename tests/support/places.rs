//! What holds between the tables of an outbox after every commit: each item is in exactly one place, each ordering key
//! that somebody waits for has an owner, and whatever is derived from the places agrees with them.
//!
//! The owners of databases ([`SqliteFolder`] and [`Database`]) run these checks when they
//! are dropped, so that every test of a store ends with them. Each engine checks with one statement, which reads one
//! snapshot, so that it does not matter what other processes do meanwhile. This file knows the tables and no store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::postgres::{Database, psql};

/// Makes every item in the queue DONE, without a store; statements for [`TestDb::sql`](super::TestDb::sql). No item may
/// have an ordering key, a saga or a past.
pub(crate) const ALL_DONE: &str = "INSERT INTO outbox_done (id, done_at, epoch) SELECT id, 1, 0 FROM outbox_queue;
     DELETE FROM outbox_queue;";

/// Selects a sentence for each fault, with SQLite's table names. The words in braces differ between the engines.
const FAULTS: &str = "
WITH leased (id, token) AS ({LEASED}),
streak (ordering_key, front, id) AS ({STREAK}),
living (id) AS (SELECT id FROM outbox_queue UNION ALL SELECT id FROM leased),
place (id, name) AS (
    SELECT id, 'queue' FROM outbox_queue UNION ALL SELECT id, 'leases' FROM leased
    UNION ALL SELECT id, 'done' FROM outbox_done UNION ALL SELECT id, 'dead' FROM outbox_dead)
SELECT 'item ' || id || ' is in ' || places || ' places'
FROM (SELECT id, CASE WHEN id IN (SELECT id FROM outbox_queue) THEN 1 ELSE 0 END
                 + CASE WHEN id IN (SELECT id FROM leased) THEN 1 ELSE 0 END
                 + CASE WHEN id IN (SELECT id FROM outbox_done) THEN 1 ELSE 0 END
                 + CASE WHEN id IN (SELECT id FROM outbox_dead) THEN 1 ELSE 0 END AS places
      FROM outbox_items) AS item WHERE places <> 1
UNION ALL
SELECT 'item ' || id || ' is in several leases' FROM leased GROUP BY id HAVING count(*) > 1
UNION ALL
SELECT 'no item has the id ' || place.id || ', which is in ' || place.name
FROM place WHERE NOT EXISTS (SELECT 1 FROM outbox_items AS item WHERE item.id = place.id)
UNION ALL
SELECT 'the lane of key ' || lane.ordering_key || ' belongs to item ' || lane.id || ', which has no use for it'
FROM outbox_lanes AS lane
WHERE NOT EXISTS (
    SELECT 1 FROM outbox_items AS item WHERE item.id = lane.id AND item.ordering_key = lane.ordering_key
    AND (EXISTS (SELECT 1 FROM living WHERE living.id = item.id)
         OR EXISTS (SELECT 1 FROM outbox_dead AS dead WHERE dead.id = item.id AND dead.blocks_key)))
UNION ALL
SELECT 'item ' || item.id || ' is claimed and its key ' || item.ordering_key || ' is not'
FROM outbox_items AS item JOIN leased ON leased.id = item.id
WHERE item.ordering_key IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM outbox_lanes AS lane JOIN leased AS owner ON owner.id = lane.id
    WHERE lane.ordering_key = item.ordering_key)
UNION ALL
SELECT 'item ' || item.id || ' is claimed and neither in front of its key ' || item.ordering_key || ' nor in a streak'
FROM outbox_items AS item JOIN leased ON leased.id = item.id
WHERE item.ordering_key IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM outbox_lanes AS lane WHERE lane.id = item.id)
  AND NOT EXISTS (SELECT 1 FROM streak WHERE streak.id = item.id AND streak.ordering_key = item.ordering_key)
UNION ALL
SELECT 'item ' || streak.id || ' is in a streak behind item ' || streak.front || ' and not in its lease'
FROM streak LEFT JOIN leased ON leased.id = streak.id LEFT JOIN leased AS owner ON owner.id = streak.front
WHERE coalesce(leased.token <> owner.token, leased.token IS NULL OR owner.token IS NULL)
UNION ALL
SELECT 'dead item ' || dead.id || ' blocks the key ' || dead.ordering_key || ', which has no lane'
FROM outbox_dead AS dead
WHERE dead.blocks_key
  AND NOT EXISTS (SELECT 1 FROM outbox_lanes AS lane WHERE lane.ordering_key = dead.ordering_key)
UNION ALL
SELECT 'item ' || waiting.id || ' is held and nothing of the key ' || waiting.ordering_key || ' is in front of it'
FROM outbox_queue AS waiting
WHERE waiting.held
  AND NOT EXISTS (SELECT 1 FROM outbox_lanes AS lane
                  WHERE lane.ordering_key = waiting.ordering_key AND lane.id <> waiting.id)
  AND NOT EXISTS (SELECT 1 FROM outbox_queue AS earlier
                  WHERE earlier.ordering_key = waiting.ordering_key AND NOT earlier.held AND {EARLIER})
UNION ALL
SELECT 'item ' || item.id || ' is unfinished and not open in its saga ' || item.saga
FROM outbox_items AS item JOIN living ON living.id = item.id
WHERE item.saga IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM outbox_saga_open AS step
    WHERE step.saga = item.saga AND step.cid = item.cid AND step.id = item.id)
UNION ALL
SELECT 'item ' || step.id || ' is open in the saga ' || step.saga || ' and not unfinished there'
FROM outbox_saga_open AS step
WHERE NOT EXISTS (
    SELECT 1 FROM outbox_items AS item JOIN living ON living.id = item.id
    WHERE item.id = step.id AND item.saga = step.saga AND item.cid = step.cid)
UNION ALL
SELECT 'the queue is wrong about whether item ' || queue.id || ' has a past'
FROM outbox_queue AS queue LEFT JOIN outbox_past AS past ON past.id = queue.id WHERE queue.again = (past.id IS NULL)
UNION ALL
SELECT 'the queue is wrong about the losses of item ' || queue.id
FROM outbox_queue AS queue LEFT JOIN outbox_past AS past ON past.id = queue.id
WHERE queue.losses <> coalesce(past.losses, 0)
UNION ALL
SELECT 'there is a past of item ' || past.id || ', which does not exist'
FROM outbox_past AS past WHERE NOT EXISTS (SELECT 1 FROM outbox_items AS item WHERE item.id = past.id)
UNION ALL
SELECT 'dead item ' || dead.id || ' has another last error than its past'
FROM outbox_dead AS dead LEFT JOIN outbox_past AS past ON past.id = dead.id
WHERE coalesce(past.last_error, '') <> coalesce(dead.last_error, '')
{FURTHER}";

/// What only SQLite promises: the lane of a key is known from the insert on, and a lease counts its items.
const FURTHER_ON_SQLITE: &str = "
UNION ALL
SELECT 'item ' || queue.id || ' does not own the lane of its key ' || queue.ordering_key || ' and is not held'
FROM outbox_queue AS queue
WHERE NOT queue.held AND queue.ordering_key IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM outbox_lanes AS lane WHERE lane.ordering_key = queue.ordering_key AND lane.id = queue.id)
UNION ALL
SELECT 'lease ' || token || ' of ' || ids || ' counts ' || count || ' items'
FROM outbox_leases WHERE count <> json_array_length(ids)";

/// The statement for SQLite.
fn statement_on_sqlite() -> String {
    FAULTS
        .replace("{LEASED}", "SELECT entry.value, token FROM outbox_leases, json_each(outbox_leases.ids) AS entry")
        .replace(
            "{STREAK}",
            "SELECT ordering_key, lane.id, entry.value FROM outbox_lanes AS lane, json_each(lane.streak) AS entry",
        )
        .replace("{EARLIER}", "earlier.id < waiting.id")
        .replace("{FURTHER}", FURTHER_ON_SQLITE)
}

/// The statement for PostgreSQL.
fn statement_on_postgres() -> String {
    FAULTS
        .replace("{LEASED}", "SELECT unnest(ids), token FROM outbox_leases")
        .replace("{STREAK}", "SELECT ordering_key, id, unnest(streak) FROM outbox_lanes")
        .replace("{EARLIER}", "(earlier.turn, earlier.id) < (waiting.turn, waiting.id)")
        .replace("{FURTHER}", "")
        .replace("outbox_", "outbox.")
}

/// A temporary folder for the outbox `outbox.sqlite`, which is checked and removed when the folder is dropped.
#[derive(Debug)]
pub(crate) struct SqliteFolder(tempfile::TempDir);

impl SqliteFolder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file of the outbox, whether or not it exists.
    pub(crate) fn file(&self) -> PathBuf {
        self.path().join("outbox.sqlite")
    }

    /// What is wrong between the tables. A file without the tables of an outbox has no faults.
    pub(crate) fn faults(&self) -> Vec<String> {
        if !self.file().exists() {
            return Vec::new();
        }
        let connection = Connection::open(self.file()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        let found = connection.prepare(&statement_on_sqlite()).and_then(|mut select| {
            let sentences = select.query_map([], |row| row.get(0))?;
            sentences.collect()
        });
        match found {
            Err(err) if err.to_string().contains("no such table: ") => Vec::new(),
            found => found.unwrap(),
        }
    }
}

impl Drop for SqliteFolder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            demand_none(&self.faults());
        }
    }
}

impl Database {
    /// What is wrong between the tables. A database without the tables of an outbox has no faults, and neither has a
    /// stopped server.
    pub(crate) fn faults(&self) -> Vec<String> {
        // Without these settings the server would compile the statement, which takes longer than to run it, and would
        // read a million items again and again, because their ids do not fit into its memory for one step.
        let settings = "SET jit = off; SET work_mem = '256MB'; SET lock_timeout = '10s'";
        let check = format!("{settings}; {}", statement_on_postgres());
        let is_absent = |err: &str| {
            err.contains("connection to server") || err.contains("relation \"outbox.leases\" does not exist")
        };
        match psql(&self.url_of("postgres"), &check) {
            Ok(sentences) => sentences.lines().map(str::to_owned).collect(),
            Err(err) if is_absent(&err) => Vec::new(),
            Err(err) => vec![err],
        }
    }
}

/// Fails the test when there are faults.
pub(super) fn demand_none(faults: &[String]) {
    assert!(faults.is_empty(), "the tables of the outbox contradict each other:\n{}", faults.join("\n"));
}
