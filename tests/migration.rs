//! A file of schema 1, where the status of an item was in columns of the items table, opened by this version.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use outbox::core::Settlement;
use outbox::item::{ItemId, Status};
use outbox::sqlite::{Backup, SqliteOptions, SqliteStore, migrate_with, plan_migration, schema_sql};
use outbox::store::{Filter, Inspect, Page, Queue, Selection, Store, StoreError};
use rusqlite::Connection;
use serde_json::Value;

use crate::store_contract::orders::unblock;
use crate::store_contract::{REPLAY, operate_request};
use crate::support::host::HostConfig;
use crate::support::places::SqliteFolder;
use crate::support::postgres::Cluster;
use crate::support::{done, is_soak, report, request, settled, sqlite3};

const SCHEMA_1: &str = include_str!("../host/sqlite/migrations/0001_initial.sql");

/// Creates a file of schema 1 without items.
fn empty_file(path: &Path) -> Connection {
    let database = Connection::open(path).unwrap();
    database.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
    let versions = "CREATE TABLE outbox_migrations (version INTEGER PRIMARY KEY) STRICT;
                    INSERT INTO outbox_migrations (version) VALUES (1)";
    for statements in [SCHEMA_1, versions] {
        database.execute_batch(statements).unwrap();
    }
    database
}

/// Items in every status, with 1 KiB of payload: of 20 there are 6 PENDING, one of them with an ordering key,
/// 1 CLAIMED, 12 DONE and 1 in the DLQ, which blocks a key.
fn fill(path: &Path, items: u32) {
    let database = empty_file(path);
    let insert = format!(
        "BEGIN;
         WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {items})
         INSERT INTO outbox_items
             (type, idem_key, payload, ordering_key, status, attempts, deliveries, claimed_at, claimed_by, claim_token,
              lease_until, done_at, dead_at, blocks_key, fingerprint, last_error, handler_digest)
         SELECT 'mail', 'k' || n, printf('%01024d', n),
             CASE n % 20 WHEN 0 THEN 'a' || n % 1000 WHEN 19 THEN 'b' || n END,
             CASE WHEN n % 20 < 6 THEN 'PENDING' WHEN n % 20 = 6 THEN 'CLAIMED'
                  WHEN n % 20 < 19 THEN 'DONE' ELSE 'DLQ' END,
             n % 20 > 5, n % 20 > 5, iif(n % 20 = 6, 5, NULL), iif(n % 20 = 6, 'pod-1', NULL),
             iif(n % 20 = 6, 't' || n, NULL), iif(n % 20 = 6, 9, NULL), iif(n % 20 BETWEEN 7 AND 18, 7, NULL),
             iif(n % 20 = 19, 8, NULL), n % 20 = 19, iif(n % 20 = 19, 'f', NULL), iif(n % 20 = 19, 'refused', NULL),
             iif(n % 20 > 6, 'digest', NULL)
         FROM numbers;
         INSERT INTO outbox_counters (name, type, total)
         SELECT 'done', 'mail', count(*) FROM outbox_items WHERE status = 'DONE';
         COMMIT"
    );
    database.execute_batch(&insert).unwrap();
}

fn open(path: &Path) -> Result<Arc<SqliteStore>, StoreError> {
    SqliteStore::open(path, SqliteOptions::default())
}

async fn counts(store: &dyn Store) -> Vec<u64> {
    let overview = store.overview().await.unwrap();
    Status::ALL.into_iter().map(|status| overview.by_status[status.as_str()]).collect()
}

/// Claims and completes until nothing is ready.
async fn drain(store: &dyn Store) -> usize {
    let mut drained = 0;
    loop {
        let claims = store.claim(&request(&["mail"], 250)).await.unwrap().claims;
        if claims.is_empty() {
            return drained;
        }
        for claim in &claims {
            store.settle(&claim.reference(), done()).await.unwrap();
        }
        drained += claims.len();
    }
}

/// Opens the file, and returns how many bytes the migration wrote to the log.
fn migrate(path: &Path) -> (Arc<SqliteStore>, u64) {
    // While another connection is open, the write-ahead log stays.
    let other = Connection::open(path).unwrap();
    other.query_row("SELECT count(*) FROM outbox_pods", [], |_| Ok(())).unwrap();
    let store = open(path).unwrap();
    let log = std::fs::metadata(path.with_extension("sqlite-wal")).unwrap().len();
    (store, log)
}

#[tokio::test]
async fn a_file_of_schema_1_is_migrated_in_place_and_handled_to_its_end() {
    let folder = SqliteFolder::new();
    fill(&folder.file(), 2_000);
    let (store, _) = migrate(&folder.file());
    assert_eq!(counts(&*store).await, [600, 100, 1_200, 100]);
    let newest = store.list(&Filter::default(), &Page { limit: 1, before: None }).await.unwrap().items.remove(0);
    assert_eq!((newest.item.status, newest.payload_bytes), (Status::Dlq, 1024));
    store.expire_leases(&[]).await.unwrap();
    assert_eq!(drain(&*store).await, 700);
    assert_eq!(counts(&*store).await, [0, 0, 1_900, 100]);
    let claimed = store.get(ItemId::new(7)).await.unwrap().unwrap();
    assert_eq!((claimed.item.status, claimed.failed_attempts[0].code.as_str()), (Status::Done, "lease.expired"));
}

/// Handles a key of four items: 1 and 3 are dead and block it, 2 and 4 wait. Each dead item holds back what follows it.
pub(crate) async fn handle_after_each_dead_item(store: &dyn Store) {
    let claimed = async || {
        let claims = store.claim(&request(&["mail"], 9)).await.unwrap().claims;
        for claim in &claims {
            store.settle(&claim.reference(), done()).await.unwrap();
        }
        claims.into_iter().map(|claim| claim.item.id.get()).collect::<Vec<_>>()
    };
    assert_eq!(claimed().await, [0; 0], "the first is dead");
    assert_eq!(store.blocking("k", 9).await.unwrap(), [ItemId::new(1), ItemId::new(3)]);
    let replay = operate_request(REPLAY, Selection::Ids(vec![ItemId::new(1)]));
    assert_eq!(store.operate(&replay).await.unwrap().changed, 1);
    for expected in [vec![1], vec![2], vec![]] {
        assert_eq!(claimed().await, expected, "the third is dead as well");
    }
    let unblocked = store.control(&unblock("k")).await.unwrap();
    assert_eq!(unblocked.items, [ItemId::new(3)]);
    assert_eq!(claimed().await, [4]);
}

#[tokio::test]
async fn a_key_that_several_dead_items_block_waits_for_each_of_them_after_the_migration() {
    let folder = SqliteFolder::new();
    let old_items = "INSERT INTO outbox_items (type, idem_key, payload, ordering_key)
                     VALUES ('mail', '1', '', 'k'), ('mail', '2', '', 'k'), ('mail', '3', '', 'k'), ('mail', '4', '', 'k');
                     UPDATE outbox_items
                     SET status = 'DLQ', attempts = 1, deliveries = 1, dead_at = 8, blocks_key = 1, fingerprint = 'f',
                         last_error = 'refused'
                     WHERE id IN (1, 3)";
    empty_file(&folder.file()).execute_batch(old_items).unwrap();
    handle_after_each_dead_item(&*open(&folder.file()).unwrap()).await;
}

#[tokio::test]
async fn a_migration_copies_no_payload() {
    let (folder, items) = (tempfile::tempdir().unwrap(), if is_soak() { 1_000_000 } else { 5_000 });
    let path = folder.path().join("outbox.sqlite");
    fill(&path, items);
    let bytes = std::fs::metadata(&path).unwrap().len();
    let begun = Instant::now();
    let (store, log) = migrate(&path);
    report(&format!("{items} items in {bytes} bytes: {:?}, {log} bytes of log", begun.elapsed()));
    assert!(log < bytes / 5, "{log} of {bytes}");
    let part = u64::from(items / 20);
    assert_eq!(counts(&*store).await, [6 * part, part, 12 * part, part]);
}

#[tokio::test]
async fn a_statement_that_an_application_has_prepared_goes_on_after_the_migration() {
    let folder = SqliteFolder::new();
    fill(&folder.file(), 20);
    let application = Connection::open(folder.file()).unwrap();
    let mut insert =
        application.prepare("INSERT INTO outbox_items (type, idem_key, payload) VALUES ('mail', ?1, '{}')").unwrap();
    insert.execute(["before"]).unwrap();
    let store = open(&folder.file()).unwrap();
    insert.execute(["after"]).unwrap();
    let keys: Vec<_> = store.claim(&request(&["mail"], 99)).await.unwrap().claims;
    assert!(["before", "after"].iter().all(|key| keys.iter().any(|claim| claim.item.idem_key == *key)));
    for claim in keys {
        store.settle(&claim.reference(), settled(Settlement::Release)).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_whose_application_uses_an_old_column_stays_as_it_is() {
    let folder = SqliteFolder::new();
    fill(&folder.file(), 20);
    let application = Connection::open(folder.file()).unwrap();
    application.execute_batch("CREATE INDEX own ON outbox_items (claimed_by)").unwrap();
    let told = open(&folder.file()).map(drop).unwrap_err().to_string();
    assert!(told.contains("own") && told.contains("outbox_status"), "{told}");
    let status = "SELECT status FROM outbox_items WHERE id = 1";
    assert_eq!(application.query_row(status, [], |row| row.get::<_, String>(0)).unwrap(), "PENDING");
    application.execute_batch("DROP INDEX own").unwrap();
    open(&folder.file()).unwrap();
}

/// The names of the files beside the outbox that begin as its copies do.
fn copies(folder: &SqliteFolder) -> Vec<String> {
    let names =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("schema-")).collect()
}

#[test]
fn a_dry_run_says_what_a_migration_would_do_and_changes_nothing() {
    let folder = SqliteFolder::new();
    fill(&folder.file(), 2_000);
    let before = std::fs::read(folder.file()).unwrap();
    let plan = plan_migration(&folder.file(), Backup::BesideFile).unwrap();
    assert_eq!((plan.from, plan.to, &plan.refusals), (1, 2, &Vec::new()));
    assert_eq!(Status::ALL.map(|status| plan.items[status.as_str()]), [600, 100, 1_200, 100]);
    assert_eq!(plan.steps.iter().map(|step| (step.rows, step.seconds)).collect::<Vec<_>>(), [(3, 1), (2_000, 1)]);
    assert!(plan.replaced.iter().any(|sql| sql.new.contains("outbox_status")));
    assert_eq!(plan_migration(&folder.file(), Backup::None).unwrap().steps.len(), 1);

    let application = Connection::open(folder.file()).unwrap();
    let clutter = "CREATE INDEX own ON outbox_items (claimed_by);
                   INSERT INTO outbox_pods (instance, ready, heartbeat_at, plugins) VALUES ('pod-1', 1, 1 << 60, '[]')";
    assert_eq!(std::fs::read(folder.file()).unwrap(), before, "nothing was written");
    application.execute_batch(clutter).unwrap();
    let running = plan_migration(&folder.file(), Backup::BesideFile).unwrap().refusals;
    assert!(running.len() == 1 && running[0].contains("pod-1"), "{running:?}");
    application.execute_batch("DELETE FROM outbox_pods").unwrap();
    let unfit = plan_migration(&folder.file(), Backup::BesideFile).unwrap().refusals;
    assert!(unfit.len() == 1 && unfit[0].contains("own"), "{unfit:?}");
    assert!(copies(&folder).is_empty());
}

#[test]
fn a_file_is_copied_before_it_is_migrated_and_only_then() {
    let folder = SqliteFolder::new();
    fill(&folder.file(), 200);
    let copy = migrate_with(&folder.file(), Backup::BesideFile).unwrap().backup.unwrap();
    assert_eq!(copies(&folder), ["outbox.sqlite.schema-1"]);
    let old = Connection::open(&copy).unwrap();
    let counted = "SELECT count(*) || ' ' || (SELECT max(version) FROM outbox_migrations) || ' ' ||
                          (SELECT integrity_check FROM pragma_integrity_check) FROM outbox_items WHERE status = 'DONE'";
    assert_eq!(old.query_row(counted, [], |row| row.get::<_, String>(0)).unwrap(), "120 1 ok");
    assert_eq!(migrate_with(&folder.file(), Backup::BesideFile).unwrap().backup, None, "nothing is left to migrate");

    let restored = SqliteFolder::new();
    for to in [restored.file(), restored.path().join("outbox.sqlite.schema-1")] {
        std::fs::copy(&copy, to).unwrap();
    }
    let told = migrate_with(&restored.file(), Backup::BesideFile).unwrap_err().to_string();
    assert!(told.contains("outbox.sqlite.schema-1") && told.contains("--no-backup"), "{told}");
    let plan = plan_migration(&restored.file(), Backup::BesideFile).unwrap();
    assert_eq!(plan.refusals, [told]);
    let migration = migrate_with(&restored.file(), Backup::None).unwrap();
    assert_eq!((migration.from, migration.backup), (1, None));
}

#[test]
fn a_migration_that_is_refused_leaves_no_copy() {
    let folder = SqliteFolder::new();
    fill(&folder.file(), 20);
    sqlite3(folder.file().to_str().unwrap(), "CREATE INDEX own ON outbox_items (claimed_by)").unwrap();
    assert!(migrate_with(&folder.file(), Backup::BesideFile).is_err());
    assert!(copies(&folder).is_empty());
    sqlite3(folder.file().to_str().unwrap(), "DROP INDEX own").unwrap();
    migrate_with(&folder.file(), Backup::None).unwrap();
}

#[tokio::test]
async fn the_printed_schema_creates_an_outbox() {
    let folder = SqliteFolder::new();
    sqlite3(folder.file().to_str().unwrap(), &schema_sql()).unwrap();
    let store = SqliteStore::open_existing(&folder.file(), SqliteOptions::default()).unwrap();
    assert_eq!(counts(&*store).await, [0, 0, 0, 0]);
}

#[test]
fn the_command_line_says_what_a_migration_would_do_and_why_not() {
    let folder = SqliteFolder::new();
    fill(&folder.file(), 20);
    let plan = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), folder.path());
    let of = |path: &Path, args: &[&str]| {
        let output = plan.clone().set("OUTBOX_DB", path.to_str().unwrap()).run(args);
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(told).unwrap())
    };
    let (code, told) = of(&folder.file(), &["migrate", "--dry-run"]);
    assert!(code == Some(0) && told.contains("has schema 1") && told.contains("outbox_status"), "{told}");
    let (code, told) = of(&folder.file(), &["doctor"]);
    assert!(code == Some(0) && told.contains("has schema 1, and this program needs 2"), "{told}");
    sqlite3(folder.file().to_str().unwrap(), "CREATE INDEX own ON outbox_items (claimed_by)").unwrap();
    let (code, told) = of(&folder.file(), &["migrate", "--dry-run"]);
    assert!(code == Some(1) && told.contains("REFUSED") && told.contains("own"), "{told}");
    let (code, told) = of(&folder.path().join("none/outbox.sqlite"), &["migrate", "--dry-run"]);
    assert!(code == Some(1) && told.contains("cannot be created"), "{told}");
    assert!(!folder.path().join("none").exists());
    let (code, told) = of(&folder.path().join("new.sqlite"), &["migrate", "--dry-run"]);
    assert!(code == Some(0) && told.contains("has no outbox"), "{told}");
    let (code, told) = of(&folder.path().join("new.sqlite"), &["migrate", "--print"]);
    assert!(code == Some(0) && told.contains("CREATE TABLE outbox_items"), "{told}");
    assert!(!folder.path().join("new.sqlite").exists());
    sqlite3(folder.file().to_str().unwrap(), "DROP INDEX own").unwrap();
    let (code, told) = of(&folder.file(), &["migrate"]);
    assert!(code == Some(0) && told.contains("outbox.sqlite.schema-1"), "{told}");
}

/// What a host of schema 1 exported: ten items, of which a DONE one has a payload that is no text, a dead one blocks an
/// ordering key, a replayed one has three failed attempts and an operator dead-lettered one.
const EXPORT_OF_SCHEMA_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/exports/schema-1.ndjson");

#[test]
fn a_file_that_a_host_of_schema_1_exported_is_imported_into_both_stores_and_verified() {
    let folder = SqliteFolder::new();
    let database = Cluster::shared().database();
    for url in [folder.file().to_str().unwrap().to_owned(), database.url()] {
        let run = |args: &[&str]| {
            let host = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), folder.path()).set("OUTBOX_DB", &url);
            let output = host.run(args);
            let told = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(told).unwrap())
        };
        run(&["migrate"]);
        let (code, told) = run(&["import", EXPORT_OF_SCHEMA_1]);
        assert!(code == Some(0) && told.contains("Imported and verified 14 records"), "{told}");
        let (_, listed) = run(&["list", "--json"]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let of = |status: &str| {
            let found = listed.as_array().unwrap().iter().filter(|item| item["status"] == status);
            found.map(|item| item["id"].as_i64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!([of("PENDING"), of("DONE"), of("DLQ")], [vec![9, 8, 7, 5, 4], vec![6, 2, 1], vec![10, 3]]);
        let (_, stuck) = run(&["stuck"]);
        assert!(stuck.contains("key customer-7, item 3"), "{stuck}");
        let (code, told) = run(&["export", EXPORT_OF_SCHEMA_1, "--verify"]);
        assert!(code == Some(0) && told.contains("All 14 records"), "{told}");
        let (code, told) = run(&["import", EXPORT_OF_SCHEMA_1]);
        assert!(code == Some(0) && told.contains("14 were there already"), "{told}");
    }
}
