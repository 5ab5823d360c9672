//! The move of a database from schema 1, where an item's status was in columns of the items table, to places.

mod meanwhile;

use outbox::item::Status;
use outbox::postgres::{Notify, PostgresOptions, PostgresStore, migrate, plan_migration, schema_sql};
use outbox::store::engine::schema_version::Migration;
use outbox::store::{Execution, Inspect, Queue, StoreError, Transfer};

use crate::migration::handle_after_each_dead_item;
use crate::support::postgres::{Cluster, Database, psql};
use crate::support::{all, done, request};

const INITIAL: &str = include_str!("../../host/postgres/migrations/0001_initial.sql");
const PLACES: &str = include_str!("../../host/postgres/migrations/schema/places.sql");
const COPY_DONE: &str = include_str!("../../host/postgres/migrations/0002_done.sql");

/// What of an item must be the same before and after, in the order of the ids.
const ITEMS: &str = "id, idem_key, type, payload, content_type, headers, metadata, cid, saga, ordering_key, status,
    attempts, deliveries, replays, effects, available_at, claimed_at, claimed_by, lease_until, given_back_since,
    maybe_executed, blocks_key, epoch, fingerprint, last_error, created_at, done_at, dead_at, result, handler_digest";

/// Items in every status, as hosts of schema 1 left them: item N has the key `kN`.
const OLD_ITEMS: &str = r#"
INSERT INTO outbox.jobs (action, filter, actor, state, began_at, ended_at, next_at, last_id, matched)
VALUES ('{"action":"purge"}', '{}', 'ada', 'DONE', 1, 2, 1, 0, 0);
CREATE FUNCTION outbox.add(number bigint, more jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO outbox.items SELECT * FROM jsonb_populate_record(NULL::outbox.items, jsonb_build_object(
        'id', number, 'idem_key', 'k' || number, 'type', 'mail', 'payload', '\x7b7d',
        'content_type', 'application/json', 'headers', '{"a": "b"}'::jsonb, 'metadata', '{}'::jsonb,
        'cid', 'c' || number, 'status', 'PENDING', 'attempts', 0, 'deliveries', 0, 'replays', 0, 'effects', 0,
        'available_at', 1790000000000 + number, 'maybe_executed', false, 'blocks_key', false, 'held', false,
        'epoch', 0, 'created_at', 1000) || more)
$$;
SELECT outbox.add(1, '{}');
SELECT outbox.add(2, '{"attempts": 2, "deliveries": 3, "last_error": "down", "handler_digest": "d1",
                       "maybe_executed": true}');
SELECT outbox.add(3, '{"deliveries": 1, "given_back_since": 5, "last_error": "later"}');
SELECT outbox.add(4, '{"replays": 1, "effects": 1, "deliveries": 1, "last_error": "before", "epoch": 1}');
SELECT outbox.add(5, '{"status": "DONE", "attempts": 1, "deliveries": 1, "done_at": 50, "result": "\\x6f6b",
                       "handler_digest": "d1"}');
SELECT outbox.add(6, '{"status": "DONE", "attempts": 3, "deliveries": 3, "done_at": 60, "handler_digest": "d2",
                       "maybe_executed": true}');
SELECT outbox.add(7, '{"status": "DONE", "attempts": 1, "deliveries": 1, "done_at": 70, "ordering_key": "free"}');
SELECT outbox.add(8, '{"status": "DLQ", "attempts": 2, "deliveries": 2, "dead_at": 80, "fingerprint": "f",
                       "last_error": "refused", "handler_digest": "d1"}');
SELECT outbox.add(9, '{"status": "DLQ", "attempts": 1, "deliveries": 1, "dead_at": 90, "fingerprint": "f",
                       "last_error": "refused", "ordering_key": "blocked", "blocks_key": true}');
SELECT outbox.add(10, '{"ordering_key": "blocked", "held": true}');
SELECT outbox.add(11, '{"ordering_key": "blocked"}');
SELECT outbox.add(12, '{"status": "CLAIMED", "attempts": 1, "deliveries": 1, "claimed_at": 100,
                        "claimed_by": "pod-1", "claim_token": "t12", "lease_until": 200}');
SELECT outbox.add(13, '{"status": "CLAIMED", "attempts": 2, "deliveries": 2, "claimed_at": 100,
                        "claimed_by": "pod-1", "claim_token": "t13", "lease_until": 200, "ordering_key": "busy",
                        "last_error": "down"}');
SELECT outbox.add(14, '{"ordering_key": "busy", "held": true}');
SELECT outbox.add(15, '{"ordering_key": "waiting"}');
SELECT outbox.add(16, '{"ordering_key": "waiting", "held": true}');
SELECT outbox.add(17, '{"saga": "S", "cid": "run", "status": "DLQ", "attempts": 1, "deliveries": 1,
                        "dead_at": 170, "fingerprint": "g", "last_error": "refused"}');
SELECT outbox.add(18, '{"saga": "S", "cid": "run"}');
DROP FUNCTION outbox.add(bigint, jsonb);
SELECT setval('outbox.items_id_seq', 18);
INSERT INTO outbox.sagas (saga, cid, run, began_at) VALUES ('S', 'run', 1, 100);
INSERT INTO outbox.attempts (item_id, delivery, attempt, started_at, ended_at, pod, class, code, message,
                             maybe_executed)
SELECT id, 1, 1, 10, 20, 'pod-1', 'retryable', 'c', 'down', true FROM outbox.items WHERE attempts > 1;
INSERT INTO outbox.counters (name, saga, type, slot, total)
VALUES ('done', '', 'mail', 3, 1), ('done', '', 'mail', 7, 2), ('saga_begin', 'S', '', 0, 1),
       ('saga_begin', 'T', '', 0, 4);
"#;

/// A database with schema 1 and these statements run in it.
fn old_database(statements: &str) -> Database {
    let database = Cluster::shared().empty_database();
    let versions = "CREATE SCHEMA outbox; CREATE TABLE outbox.migrations (version integer PRIMARY KEY);
                    INSERT INTO outbox.migrations VALUES (1)";
    for sql in [versions, INITIAL, statements] {
        database.sql(sql).unwrap();
    }
    let wake =
        "CREATE TRIGGER items_wake AFTER INSERT ON outbox.items FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake()";
    database.sql(wake).unwrap();
    database
}

async fn migrated(database: &Database) -> Result<Migration, StoreError> {
    migrate(&database.url(), &PostgresOptions::default(), Notify::Keep).await
}

async fn opened(url: &str) -> std::sync::Arc<PostgresStore> {
    PostgresStore::open_existing(url, PostgresOptions::default()).await.unwrap()
}

#[tokio::test]
async fn items_in_every_status_keep_what_they_were_and_go_on() {
    let database = old_database(OLD_ITEMS);
    let of = |table: &str| database.sql(&format!("SELECT {ITEMS} FROM {table} ORDER BY id")).unwrap();
    let history = || database.sql("SELECT * FROM outbox.attempts ORDER BY item_id").unwrap();
    let (items, attempts) = (of("outbox.items"), history());
    assert_eq!(migrated(&database).await.unwrap(), Migration { from: 1, to: 2, backup: None });
    assert_eq!(of("outbox.status"), items);
    assert_eq!(history(), attempts);
    assert_eq!(migrated(&database).await.unwrap(), Migration { from: 2, to: 2, backup: None });
    let held = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM outbox.status WHERE held";
    assert_eq!(database.sql(held).unwrap(), "10 11 14 16");

    let store = opened(&database.url()).await;
    let overview = store.overview().await.unwrap();
    let counts = ["PENDING", "CLAIMED", "DONE", "DLQ"].map(|status| overview.by_status[status]);
    assert_eq!((counts, overview.blocked_keys, overview.expired_claims), ([10, 2, 3, 3], 1, 2));
    assert_eq!((overview.sagas["S"].began, overview.sagas["T"].began), (1, 4));
    assert_eq!(store.expire_leases(&[]).await.unwrap(), 2);
    let mut handled = Vec::new();
    while let Some(claim) = store.claim(&request(&["mail"], 1)).await.unwrap().claims.pop() {
        store.settle(&claim.reference(), done()).await.unwrap();
        handled.push(claim.item.id.get());
    }
    handled.sort_unstable();
    assert_eq!(handled, [1, 2, 3, 4, 12, 13, 14, 15, 16, 18], "all but what waits behind a dead item");
    let ended = "SELECT count(*) FROM outbox.sagas WHERE ended_at IS NOT NULL AND dead = 1";
    assert_eq!(database.sql(ended).unwrap(), "1");
    let outcome = "SELECT total FROM outbox.totals WHERE name = 'saga_end' AND outcome = 'error'";
    assert_eq!(database.sql(outcome).unwrap(), "1");
}

#[tokio::test]
async fn a_key_that_several_dead_items_block_waits_for_each_of_them_after_the_migration() {
    let definition = "CREATE FUNCTION outbox.add";
    let add = &OLD_ITEMS[OLD_ITEMS.find(definition).unwrap()..OLD_ITEMS.find("SELECT outbox.add(1").unwrap()];
    let item = |id: u32| {
        let dead = r#", "status": "DLQ", "attempts": 1, "deliveries": 1, "dead_at": 8, "fingerprint": "f",
                        "last_error": "refused", "blocks_key": true"#;
        let more = if id.is_multiple_of(2) { "" } else { dead };
        format!(r#"SELECT outbox.add({id}, '{{"ordering_key": "k", "held": {}{more}}}');"#, id == 2 || id == 4)
    };
    let database = old_database(&format!("{add}{}", [1, 2, 3, 4].map(item).concat()));
    migrated(&database).await.unwrap();
    handle_after_each_dead_item(&*opened(&database.url()).await).await;
}

/// The definitions of all objects of the schema.
const DEFINITIONS: &str = r"
SELECT 'column ' || table_name || '.' || column_name || ' '
       || concat_ws(' ', data_type, domain_name, collation_name, is_nullable, column_default, is_generated,
                    identity_generation)
FROM information_schema.columns WHERE table_schema = 'outbox'
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'outbox'::regnamespace
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'outbox'
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger
WHERE NOT tgisinternal AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'outbox'::regnamespace)
UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace
UNION ALL SELECT concat_ws(' ', 'relation', relname, relkind, reloptions,
                           CASE relkind WHEN 'v' THEN pg_get_viewdef(oid) END, obj_description(oid))
FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'v', 'S', 'c')
ORDER BY 1";

#[tokio::test]
async fn a_migrated_database_has_the_definitions_of_a_new_one() {
    let database = old_database("");
    migrated(&database).await.unwrap();
    let new = Cluster::shared().database();
    let (migrated, new) = (database.sql(DEFINITIONS).unwrap(), new.sql(DEFINITIONS).unwrap());
    let (migrated, new): (Vec<_>, Vec<_>) = (migrated.lines().collect(), new.lines().collect());
    let (lost, left): (Vec<_>, Vec<_>) = (
        new.iter().filter(|line| !migrated.contains(line)).collect(),
        migrated.iter().filter(|line| !new.contains(line)).collect(),
    );
    assert!(lost.is_empty() && left.is_empty(), "lost: {lost:#?}\nleft: {left:#?}");
}

#[tokio::test]
async fn what_changes_while_done_items_are_copied_is_right_afterwards() {
    let database = old_database(OLD_ITEMS);
    database.sql(PLACES).unwrap();
    database.sql(COPY_DONE).unwrap();
    assert_eq!(
        database.sql("SELECT outbox.migrate_done_after(-9), outbox.migrate_done_after(7) IS NULL").unwrap(),
        "7|t"
    );
    let meanwhile = "DELETE FROM outbox.items WHERE id = 5;
        UPDATE outbox.items SET status = 'PENDING', done_at = NULL, attempts = 0, replays = 1 WHERE id = 6;
        UPDATE outbox.items SET status = 'DONE', done_at = outbox.now(), attempts = 2, deliveries = 2 WHERE id = 2";
    database.sql(meanwhile).unwrap();
    database.sql("SELECT outbox.migrate_done_since(outbox.now() - 1000)").unwrap();
    let copied = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM";
    assert_eq!(database.sql(&format!("{copied} outbox.done")).unwrap(), "2 7");
    assert_eq!(database.sql(&format!("{copied} outbox.past")).unwrap(), "2");
    // A migration that was begun and not finished starts anew.
    migrated(&database).await.unwrap();
    assert_eq!(database.sql(&format!("{copied} outbox.done")).unwrap(), "2 7");
    assert_eq!(database.sql("SELECT status, replays FROM outbox.status WHERE id = 6").unwrap(), "PENDING|1");
}

/// The grants that the documents named when schema 1 was the newest.
const OLD_GRANTS: &str = "GRANT USAGE ON SCHEMA outbox TO old_shop, old_host, old_reader;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO old_shop, old_host;
    GRANT INSERT ON outbox.items TO old_shop;
    GRANT SELECT ON outbox.items TO old_reader;
    GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA outbox TO old_host;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA outbox TO old_host";

#[tokio::test]
async fn roles_do_after_the_migration_what_they_did_before() {
    let cluster = Cluster::shared();
    cluster
        .sql("postgres", "CREATE ROLE old_shop LOGIN; CREATE ROLE old_host LOGIN; CREATE ROLE old_reader LOGIN")
        .unwrap();
    let database = old_database(OLD_GRANTS);
    let insert_as_shop = |when: &str| {
        let shop = |sql: &str| psql(&database.url_of("old_shop"), sql).unwrap_or_else(|err| panic!("{when}: {err}"));
        shop(&format!("SELECT outbox.enqueue('mail', '{when} a', '{{}}')"));
        shop(&format!("SELECT outbox.enqueue('mail', '{when} b', '{{}}', ordering_key => 'o')"));
        shop(&format!("INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', '{when} c', '{{}}')"));
        shop(&format!(
            "INSERT INTO outbox.items (type, idem_key, payload, ordering_key) VALUES ('mail', '{when} d', '', 'o')"
        ));
        shop(&format!("INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', '{when} c', '{{}}')"));
    };
    insert_as_shop("before");
    migrated(&database).await.unwrap();
    insert_as_shop("after");
    for forbidden in [
        "INSERT INTO outbox.items (id, type, idem_key, payload) VALUES (99, 'mail', 'z', '')",
        "INSERT INTO outbox.queue (id, type, available_at) VALUES (99, 'mail', 1)",
        "SELECT * FROM outbox.items",
        "SELECT * FROM outbox.status",
        "SELECT outbox.claim('{mail}', '{\"\"}', '{9}', '{0}', '{1}', '{9}', '{9}', 'shop', 9, 0, 0)",
    ] {
        assert!(psql(&database.url_of("old_shop"), forbidden).is_err(), "{forbidden}");
    }
    assert_eq!(psql(&database.url_of("old_reader"), "SELECT count(*) FROM outbox.status").unwrap(), "8");
    let host = opened(&database.url_of("old_host")).await;
    assert_eq!(host.diagnose().await.unwrap().missing, Vec::<String>::new());
    let mut handled = 0;
    while let Some(claim) = host.claim(&request(&["mail"], 1)).await.unwrap().claims.pop() {
        host.settle(&claim.reference(), done()).await.unwrap();
        handled += 1;
    }
    assert_eq!(handled, 8);
    drop(host);
    drop(database);
    cluster.sql("postgres", "DROP ROLE old_shop, old_host, old_reader").unwrap();
}

#[tokio::test]
async fn a_host_of_the_old_version_is_stopped_first() {
    let database = old_database(
        "INSERT INTO outbox.pods (instance, ready, heartbeat_at, plugins) VALUES ('pod-7', true, outbox.now(), '[]')",
    );
    let told = migrated(&database).await.unwrap_err().to_string();
    assert!(told.contains("pod-7") && told.contains("stop every outbox"), "{told}");
    assert_eq!(database.sql("SELECT max(version) FROM outbox.migrations").unwrap(), "1");
    database.sql("UPDATE outbox.pods SET heartbeat_at = outbox.now() - 31000").unwrap();
    migrated(&database).await.unwrap();
}

#[tokio::test]
async fn a_view_of_an_application_over_the_old_columns_is_named_and_nothing_changes() {
    let database =
        old_database("CREATE VIEW public.backlog AS SELECT count(*) FROM outbox.items WHERE status = 'PENDING'");
    let told = migrated(&database).await.unwrap_err().to_string();
    assert!(told.contains("backlog") && told.contains("outbox.status"), "{told}");
    assert_eq!(database.sql("SELECT max(version) FROM outbox.migrations").unwrap(), "1");
    database.sql("DROP VIEW public.backlog").unwrap();
    migrated(&database).await.unwrap();
}

#[tokio::test]
async fn an_export_of_the_old_version_is_imported_into_the_new_one() {
    let database = old_database(OLD_ITEMS);
    migrated(&database).await.unwrap();
    let from = opened(&database.url()).await;
    from.expire_leases(&[]).await.unwrap();
    let target = Cluster::shared().database();
    let to = opened(&target.url()).await;
    let mut snapshot = from.begin_export().await.unwrap();
    let mut next = Some(outbox::store::ExportPosition::START);
    while let Some(position) = next {
        let page = snapshot.page(position, 5).await.unwrap();
        to.import(page.records, Execution::Apply).await.unwrap();
        next = page.next;
    }
    let (theirs, ours) = (all(&*from).await, all(&*to).await);
    assert_eq!(theirs, ours);
    assert_eq!(ours.iter().filter(|item| item.status == Status::Dlq).count(), 3);
    let line =
        "SELECT string_agg(id || ':' || turn, ' ' ORDER BY turn, id) FROM outbox.status WHERE ordering_key IS NOT NULL";
    assert_eq!(target.sql(line).unwrap(), database.sql(line).unwrap());
}

#[tokio::test]
async fn a_dry_run_says_what_a_migration_would_do_and_changes_nothing() {
    let database = old_database(OLD_ITEMS);
    let before = database.sql(DEFINITIONS).unwrap();
    let plan = async || plan_migration(&database.url(), &PostgresOptions::default()).await.unwrap();
    let told = plan().await;
    assert_eq!((told.from, told.to, &told.refusals), (1, 2, &Vec::new()));
    assert_eq!(["PENDING", "CLAIMED", "DONE", "DLQ"].map(|status| told.items[status]), [10, 2, 3, 3]);
    assert_eq!(told.steps.iter().map(|step| step.rows).collect::<Vec<_>>(), [3, 15, 18]);
    assert!(told.replaced.iter().any(|sql| sql.new.contains("outbox.status")));

    database.sql("CREATE VIEW waiting AS SELECT id FROM outbox.items WHERE status = 'PENDING'").unwrap();
    database.sql("CREATE VIEW harmless AS SELECT id, type FROM outbox.items").unwrap();
    database
        .sql("CREATE FUNCTION public.backlog() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM outbox.items'")
        .unwrap();
    database
        .sql("INSERT INTO outbox.pods (instance, ready, heartbeat_at, plugins) VALUES ('p', true, outbox.now(), '[]')")
        .unwrap();
    let told = plan().await;
    assert_eq!(told.users, ["the function backlog()"]);
    let [running, view] = &told.refusals[..] else { panic!("{:?}", told.refusals) };
    assert!(running.starts_with("p worked on") && view.contains("the view waiting reads"), "{running} {view}");

    database.cluster().sql("postgres", "CREATE ROLE stranger LOGIN").ok();
    let granted = "GRANT USAGE ON SCHEMA outbox TO stranger; GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO stranger";
    database.sql(granted).unwrap();
    let told = plan_migration(&database.url_of("stranger"), &PostgresOptions::default()).await.unwrap();
    assert!(told.refusals.iter().any(|refusal| refusal.contains("stranger does not own outbox.items")), "{told:?}");
    database
        .sql("REVOKE ALL ON SCHEMA outbox FROM stranger; REVOKE ALL ON ALL TABLES IN SCHEMA outbox FROM stranger")
        .unwrap();
    database.sql("DROP VIEW waiting; DROP VIEW harmless; DROP FUNCTION public.backlog()").unwrap();
    assert_eq!(database.sql(DEFINITIONS).unwrap(), before);
}

#[tokio::test]
async fn the_printed_schema_has_the_definitions_of_a_new_one() {
    let (printed, new) = (Cluster::shared().empty_database(), Cluster::shared().database());
    printed.sql(&schema_sql()).unwrap();
    assert_eq!(printed.sql(DEFINITIONS).unwrap(), new.sql(DEFINITIONS).unwrap());
    opened(&printed.url()).await;
}
