//! The migration from schema 1: items in every status keep what they were, in their new places.

use rusqlite::types::Value;

use super::*;
use crate::migrate::versions::{SCHEMA, SCHEMA_1};

/// The statuses of schema 1, each with what can go along with it: retries, replays, ordering keys, sagas, histories.
const OLD_ITEMS: &str = "
INSERT INTO outbox_jobs (action, filter, actor, began_at, ended_at, state, next_at, last_id, matched)
VALUES ('{}', '{}', 'ada', 1, 2, 'DONE', 1, 0, 0);

INSERT INTO outbox_items (type, idem_key, payload, content_type, headers, metadata, cid, available_at, created_at)
VALUES ('mail', 'fresh', x'ff00', 'application/x', '{\"a\":\"b\"}', '{\"n\":1}', 'c', 1700000000000, 1700000000001);
INSERT INTO outbox_items (type, idem_key, payload) VALUES
    ('mail', 'retried', '{}'), ('mail', 'claimed', '{}'), ('mail', 'claimed again', '{}'), ('sms', 'claimed too', '{}'),
    ('mail', 'done', '{}'), ('mail', 'done again', '{}'), ('mail', 'dead', '{}'), ('mail', 'dead without words', '{}');
UPDATE outbox_items
SET attempts = 2, deliveries = 3, last_error = 'down', handler_digest = 'old', given_back_since = 5, epoch = 1,
    available_at = 1900000000000
WHERE idem_key = 'retried';
UPDATE outbox_items
SET status = 'CLAIMED', attempts = 1, deliveries = 1, claimed_at = 7, claimed_by = 'pod-1', claim_token = 't' || id,
    lease_until = 9
WHERE idem_key LIKE 'claimed%';
UPDATE outbox_items
SET attempts = 3, deliveries = 4, maybe_executed = 1, last_error = 'down', handler_digest = 'new'
WHERE idem_key = 'claimed again';
UPDATE outbox_items
SET status = 'DONE', attempts = 1, deliveries = 1, done_at = 11, result = x'fe', handler_digest = 'new'
WHERE idem_key LIKE 'done%';
UPDATE outbox_items SET attempts = 2, deliveries = 5, replays = 1, effects = 1, epoch = 1 WHERE idem_key = 'done again';
UPDATE outbox_items
SET status = 'DLQ', attempts = 3, deliveries = 3, dead_at = 13, fingerprint = 'f', last_error = 'refused',
    handler_digest = 'old', maybe_executed = 1
WHERE idem_key = 'dead';
UPDATE outbox_items SET status = 'DLQ', dead_at = 14 WHERE idem_key = 'dead without words';

INSERT INTO outbox_items (type, idem_key, payload, ordering_key) VALUES
    ('mail', 'a1', '', 'a'), ('mail', 'a2', '', 'a'), ('mail', 'a3', '', 'a'), ('mail', 'b1', '', 'b'),
    ('mail', 'b2', '', 'b'), ('mail', 'c1', '', 'c'), ('mail', 'c2', '', 'c'), ('mail', 'd1', '', 'd'),
    ('mail', 'd2', '', 'd');
UPDATE outbox_items
SET status = 'DLQ', attempts = 1, deliveries = 1, dead_at = 15, blocks_key = idem_key = 'a1', fingerprint = 'f',
    last_error = 'refused'
WHERE idem_key IN ('a1', 'd1');
UPDATE outbox_items SET available_at = 1900000000000 WHERE idem_key = 'b1';
UPDATE outbox_items
SET status = 'CLAIMED', attempts = 1, deliveries = 1, claimed_at = 7, claimed_by = 'pod-1', claim_token = 'c',
    lease_until = 9
WHERE idem_key = 'c1';

INSERT INTO outbox_items (type, idem_key, payload, saga, cid) VALUES
    ('mail', 's1', '', 'S', 'open'), ('mail', 's2', '', 'S', 'open'), ('mail', 's3', '', 'S', 'ended'),
    ('mail', 's4', '', 'S', 'ended');
UPDATE outbox_items SET status = 'DONE', attempts = 1, deliveries = 1, done_at = 17 WHERE idem_key IN ('s1', 's3');
UPDATE outbox_items
SET status = 'DLQ', attempts = 1, deliveries = 1, dead_at = 18, fingerprint = 'g', last_error = 'refused'
WHERE idem_key = 's4';
INSERT INTO outbox_sagas (saga, cid, run, began_at, ended_at) VALUES
    ('S', 'open', 1, 16, NULL), ('S', 'ended', 2, 16, 18);

INSERT INTO outbox_attempts
    (item_id, delivery, attempt, started_at, ended_at, pod, class, code, message, maybe_executed)
SELECT id, deliveries, attempts, 1, 2, 'pod-1', 'retryable', 'c', 'down', 0
FROM outbox_items WHERE last_error IS NOT NULL;
INSERT INTO outbox_counters (name, type, total) VALUES ('done', 'mail', 4);
";

/// The columns of an item in both schemas. A dead item of schema 1 could lack two of them.
const COLUMNS: &str = "id, idem_key, type, payload, content_type, headers, metadata, cid, saga, ordering_key, status, \
     attempts, deliveries, replays, effects, available_at, claimed_at, claimed_by, lease_until, given_back_since, \
     maybe_executed, blocks_key, held, epoch, coalesce(fingerprint, iif(status = 'DLQ', '', NULL)), \
     coalesce(last_error, iif(status = 'DLQ', '', NULL)), created_at, done_at, dead_at, result, handler_digest";

fn outbox(schema: &str) -> Connection {
    let database = Connection::open_in_memory().unwrap();
    database.execute_batch(schema).unwrap();
    database
}

fn old_outbox() -> Connection {
    let database = outbox(SCHEMA_1);
    database.execute_batch(OLD_ITEMS).unwrap();
    database
}

fn migrate_all(database: &Connection) -> Result<(), StoreError> {
    migrate(database, &outbox(SCHEMA_1), &outbox(SCHEMA))
}

fn migrated() -> Connection {
    let database = old_outbox();
    migrate_all(&database).unwrap();
    database
}

fn rows(database: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut select = database.prepare(sql).unwrap();
    let count = select.column_count();
    let read = |row: &rusqlite::Row<'_>| (0..count).map(|column| row.get(column)).collect();
    select.query_map([], read).unwrap().map(Result::unwrap).collect()
}

fn texts(database: &Connection, sql: &str) -> Vec<String> {
    let mut select = database.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_item_has_the_status_the_past_and_the_history_that_it_had() {
    let old = old_outbox();
    let before = rows(&old, &format!("SELECT {COLUMNS} FROM outbox_items ORDER BY id"));
    let statuses = texts(&old, "SELECT DISTINCT status FROM outbox_items ORDER BY 1");
    assert_eq!(statuses, ["CLAIMED", "DLQ", "DONE", "PENDING"]);
    let jobs =
        "SELECT id, action, filter, actor, reason, per_second, state, began_at, ended_at, next_at, position, last_id,
                       matched, changed, refused, sample, refusals
                FROM outbox_jobs";
    let kept = ["SELECT * FROM outbox_attempts", "SELECT * FROM outbox_counters", jobs];
    let kept_before = kept.map(|sql| rows(&old, sql));
    migrate_all(&old).unwrap();
    let after = rows(&old, &format!("SELECT {COLUMNS} FROM outbox_status ORDER BY id"));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after);
    }
    assert_eq!(before.len(), after.len());
    assert_eq!(kept_before, kept.map(|sql| rows(&old, sql)));
}

#[test]
fn each_key_has_the_front_that_it_had_and_sagas_know_what_is_open_and_what_is_dead() {
    let database = migrated();
    let fronts = "SELECT lane.ordering_key || ':' || idem_key FROM outbox_lanes AS lane JOIN outbox_items USING (id)";
    assert_eq!(texts(&database, fronts), ["a:a1", "b:b1", "c:c1", "d:d2"]);
    let held = "SELECT idem_key FROM outbox_queue JOIN outbox_items USING (id) WHERE held = 1 ORDER BY id";
    assert_eq!(texts(&database, held), ["a2", "a3", "b2", "c2"]);
    let open = "SELECT idem_key FROM outbox_saga_open JOIN outbox_items USING (id)";
    assert_eq!(texts(&database, open), ["s2"]);
    let dead = "SELECT cid || ':' || dead FROM outbox_sagas ORDER BY cid";
    assert_eq!(texts(&database, dead), ["ended:1", "open:0"]);
}

#[test]
fn claims_of_one_moment_are_one_lease_that_nobody_can_settle_any_more() {
    let database = migrated();
    let leases = "SELECT type || ' ' || count || ' ' || ids FROM outbox_leases ORDER BY type";
    assert_eq!(texts(&database, leases), ["mail 3 [3,4,15]", "sms 1 [5]"]);
    let tokens = rows(&database, "SELECT count(DISTINCT token), min(token) > 0 FROM outbox_leases");
    assert_eq!(tokens, [[Value::Integer(2), Value::Integer(1)]]);
}

#[test]
fn only_items_whose_life_differs_from_the_usual_have_a_past() {
    let with_past = "SELECT idem_key FROM outbox_past JOIN outbox_items USING (id) ORDER BY id";
    let expected = ["retried", "claimed again", "done again", "dead", "dead without words", "a1", "d1", "s4"];
    assert_eq!(texts(&migrated(), with_past), expected);
}

/// The outbox's objects without the old columns of the items table, by name.
fn schema(database: &Connection) -> Vec<(String, String, Option<String>)> {
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT GLOB 'sqlite_stat*' ORDER BY name";
    let without_unused =
        |sql: String| sql.lines().filter(|line| !line.starts_with("    unused_")).collect::<Vec<_>>().join("\n");
    let mut select = database.prepare(sql).unwrap();
    let read =
        |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?.map(without_unused)));
    select.query_map([], read).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_migrated_file_has_the_schema_of_a_new_one_but_for_the_unused_columns() {
    let (migrated, new) = (migrated(), outbox(SCHEMA));
    let (left, right) = (schema(&migrated), schema(&new));
    for (migrated, new) in left.iter().zip(&right) {
        assert_eq!(migrated, new);
    }
    assert_eq!(left.len(), right.len());
    let mut kept = columns(&migrated, ITEMS).unwrap();
    kept.retain(|name| !name.starts_with("unused_"));
    assert_eq!(kept, columns(&new, ITEMS).unwrap());
    let unused = columns(&migrated, ITEMS).unwrap().len() - kept.len();
    assert_eq!(unused, 20, "as many as the old table has columns that the new one has not");
}

#[test]
fn what_read_or_wrote_a_status_fails_and_enqueueing_goes_on() {
    let database = migrated();
    for gone in [
        "SELECT status FROM outbox_items",
        "INSERT INTO outbox_items (type, idem_key, payload, status) VALUES ('mail', 'x', '', 'DONE')",
    ] {
        let told = database.prepare(gone).map(drop).unwrap_err().to_string();
        assert!(told.contains("status"), "{told}");
    }
    database
        .execute_batch(
            "INSERT INTO outbox_items (type, idem_key, payload, ordering_key) VALUES ('mail', 'new', '{}', 'b')",
        )
        .unwrap();
    let new = "SELECT status || ' ' || held || ' ' || attempts FROM outbox_status WHERE idem_key = 'new'";
    assert_eq!(texts(&database, new), ["PENDING 1 0"]);
    assert_eq!(rows(&database, "SELECT count(fairness_key) FROM outbox_items"), [[Value::Integer(0)]]);
    database.execute_batch("DELETE FROM outbox_items WHERE idem_key = 'a1'").unwrap();
    let front = "SELECT idem_key FROM outbox_queue AS queue JOIN outbox_items USING (id)
                 WHERE queue.ordering_key = 'a' AND held = 0";
    assert_eq!(texts(&database, front), ["a2"]);
    assert_eq!(texts(&database, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn numbers_and_times_that_the_new_schema_would_refuse_stop_nothing() {
    let database = old_outbox();
    database
        .execute_batch(
            "UPDATE outbox_items SET attempts = 3000000000, deliveries = 9223372036854775807
             WHERE idem_key = 'retried';
             INSERT INTO outbox_items (type, idem_key, payload, available_at)
             VALUES ('mail', 'seconds', '', 1790000000)",
        )
        .unwrap();
    migrate_all(&database).unwrap();
    let past = "SELECT attempts, deliveries FROM outbox_status WHERE idem_key = 'retried'";
    assert_eq!(rows(&database, past), [[Value::Integer(2_147_483_647), Value::Integer(2_147_483_647)]]);
    let due = "SELECT available_at FROM outbox_status WHERE idem_key = 'seconds'";
    assert_eq!(rows(&database, due), [[Value::Integer(1_790_000_000)]]);
    let first_due = "SELECT available_at FROM outbox_items WHERE idem_key = 'seconds'";
    assert_eq!(rows(&database, first_due), [[Value::Integer(0)]]);
    assert_eq!(texts(&database, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn what_depends_on_the_old_columns_is_named_before_anything_is_committed() {
    for (own, told) in [
        ("CREATE INDEX own_index ON outbox_items (claimed_by)", "own_index"),
        (
            "CREATE TRIGGER own_trigger AFTER INSERT ON outbox_items WHEN NEW.status = 'PENDING' BEGIN SELECT 1; END",
            "NEW.status",
        ),
        ("CREATE TRIGGER own_change AFTER UPDATE OF status ON outbox_items BEGIN SELECT 1; END", "own_change"),
        ("CREATE TRIGGER \"own update\" BEFORE UPDATE ON outbox_items BEGIN SELECT 1; END", "own update"),
        ("CREATE VIEW own_view AS SELECT count(*) FROM outbox_items WHERE status = 'DLQ'", "own_view"),
        (
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT);
             CREATE TRIGGER own_cancel AFTER UPDATE OF state ON orders
             BEGIN DELETE FROM outbox_items WHERE status = 'DLQ'; END",
            "own_cancel",
        ),
        ("ALTER TABLE outbox_items ADD COLUMN own_column TEXT", "does not have the columns of schema 1"),
    ] {
        let database = old_outbox();
        database.execute_batch(own).unwrap();
        let err = migrate_all(&database).unwrap_err();
        assert!(matches!(&err, StoreError::Unusable(message) if message.contains(told)), "{own}: {err}");
    }
}

#[test]
fn what_fits_the_new_tables_or_never_worked_stops_no_migration() {
    let database = old_outbox();
    database
        .execute_batch(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY);
             CREATE TRIGGER own_update AFTER INSERT ON orders
             BEGIN INSERT INTO outbox_items (type, idem_key, payload) VALUES ('mail', 'order' || NEW.id, ''); END;
             CREATE TRIGGER own_insert AFTER INSERT ON outbox_items BEGIN SELECT NEW.type; END;
             CREATE VIEW own_view AS SELECT idem_key FROM outbox_items;
             CREATE VIEW own_broken AS SELECT * FROM nowhere",
        )
        .unwrap();
    migrate_all(&database).unwrap();
    database.execute_batch("INSERT INTO orders (id) VALUES (7)").unwrap();
    assert_eq!(texts(&database, "SELECT idem_key FROM own_view WHERE idem_key GLOB 'order*'"), ["order7"]);
}

#[test]
fn a_host_of_the_old_version_that_may_still_run_is_named() {
    let database = old_outbox();
    let now = Millis::from(SystemTime::now()).get();
    let beat = "INSERT INTO outbox_pods (instance, ready, heartbeat_at, plugins) VALUES (?1, 1, ?2, '[]')";
    database.execute(beat, params!["pod-9", now - 29_000]).unwrap();
    let told = migrate_all(&database).unwrap_err().to_string();
    assert!(told.contains("pod-9") && told.contains("stop"), "{told}");
    database.execute("UPDATE outbox_pods SET heartbeat_at = ?1", [now - 31_000]).unwrap();
    migrate_all(&database).unwrap();
}

#[test]
fn unused_columns_stand_where_the_old_ones_stood_below_the_comments_of_the_others() {
    let sql = "CREATE TABLE t (\n    id INTEGER,\n    -- When.\n    at INTEGER,\n    new TEXT\n) STRICT";
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let text = with_unused_columns(sql, &names(&["id", "status", "at", "result"]), &names(&["id", "at", "new"]));
    let expected = "CREATE TABLE t (\n    id INTEGER,\n    unused_1 ANY,\n    -- When.\n    at INTEGER,\n    \
                    unused_2 ANY,\n    new TEXT\n) STRICT";
    assert_eq!(text, expected);
    assert_eq!(with_unused_columns(sql, &names(&["id", "at", "new"]), &names(&["id", "at", "new"])), sql);
}
