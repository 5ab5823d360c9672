//! Applications that insert items while a database is migrated.

use std::cell::Cell;
use std::time::{Duration, Instant};

use outbox::store::Inspect as _;

use super::{migrated, old_database, opened};
use crate::support::postgres::{Cluster, Database};
use crate::support::{is_soak, report};

#[tokio::test]
async fn a_migration_tries_again_for_the_lock_that_an_application_holds() {
    migrate_while_an_application_inserts(&old_database("")).await;
}

#[tokio::test]
async fn what_is_inserted_while_a_migration_waits_is_kept_when_snapshots_are_the_default() {
    let snapshots = "DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database());
    END $$";
    migrate_while_an_application_inserts(&old_database(snapshots)).await;
}

/// SQL that makes items with 1 KiB of payload: of 20 there are 7 PENDING, 12 DONE and 1 in the DLQ.
fn many(items: u32) -> String {
    format!(
        "INSERT INTO outbox.items (id, type, idem_key, payload, status, attempts, deliveries, done_at, dead_at, fingerprint,
                                   last_error, handler_digest)
         SELECT n, 'mail', 'k' || n, convert_to(lpad(n::text, 1024, '0'), 'UTF8'),
                CASE WHEN n % 20 < 7 THEN 'PENDING' WHEN n % 20 < 19 THEN 'DONE' ELSE 'DLQ' END,
                (n % 20 > 6)::integer, (n % 20 > 6)::integer, CASE WHEN n % 20 BETWEEN 7 AND 18 THEN 7 END,
                CASE WHEN n % 20 = 19 THEN 8 END, CASE WHEN n % 20 = 19 THEN 'f' END,
                CASE WHEN n % 20 = 19 THEN 'refused' END, CASE WHEN n % 20 > 6 THEN 'digest' END
         FROM generate_series(1, {items}) AS n;
         SELECT setval('outbox.items_id_seq', {items});
         INSERT INTO outbox.counters (name, saga, type, slot, total)
         SELECT 'done', '', 'mail', 0, count(*) FROM outbox.items WHERE status = 'DONE';
         ANALYZE outbox.items"
    )
}

/// The grants of schema 1 for a role that only inserted.
const OLD_SHOP: &str = "CREATE ROLE busy_shop LOGIN;
    GRANT USAGE ON SCHEMA outbox TO busy_shop; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO busy_shop;
    GRANT INSERT ON outbox.items TO busy_shop";

/// Inserts items as an application that may only insert, one after the other, until `is_over`. Returns how many it has
/// inserted, and how long the longest insert took.
async fn insert_until(database: &Database, is_over: &Cell<bool>) -> (u32, Duration) {
    let shop = database.connect_as("busy_shop").await;
    // An application prepares its statements once, before the migration.
    let statements = [
        shop.prepare("SELECT outbox.enqueue('mail', $1, '{}')").await.unwrap(),
        shop.prepare("INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', $1::text, '')").await.unwrap(),
        shop.prepare("SELECT outbox.enqueue('mail', $1, '{}', ordering_key => 'line')").await.unwrap(),
    ];
    let (mut inserted, mut longest) = (0_u32, Duration::ZERO);
    for statement in statements.iter().cycle() {
        let begun = Instant::now();
        shop.execute(statement, &[&format!("new-{inserted}")]).await.unwrap();
        (inserted, longest) = (inserted + 1, longest.max(begun.elapsed()));
        if is_over.get() && inserted.is_multiple_of(3) {
            break;
        }
    }
    (inserted, longest)
}

#[tokio::test]
async fn an_application_that_may_only_insert_goes_on_while_a_large_store_is_migrated() {
    let items = if is_soak() { 1_000_000 } else { 5_000 };
    let database = old_database(&many(items));
    database.cluster().sql(database.name(), OLD_SHOP).unwrap();
    let (begun, is_over) = (Instant::now(), Cell::new(false));
    let migration = async {
        let migrated = migrated(&database).await.unwrap();
        is_over.set(true);
        migrated
    };
    let (migrated, (inserted, longest)) = tokio::join!(migration, insert_until(&database, &is_over));
    report(&format!(
        "{items} items: {:?}; of {inserted} inserts meanwhile the longest took {longest:?}",
        begun.elapsed()
    ));
    assert_eq!(migrated.to, 2);
    let by_status = opened(&database.url()).await.overview().await.unwrap().by_status;
    let part = u64::from(items / 20);
    assert_eq!((by_status["DONE"], by_status["DLQ"]), (12 * part, part));
    assert_eq!(by_status["PENDING"], 7 * part + u64::from(inserted), "each insert survives");
    let line = "SELECT count(*), count(DISTINCT turn) FROM outbox.queue WHERE ordering_key = 'line'";
    assert_eq!(database.sql(line).unwrap(), format!("{0}|{0}", inserted / 3));
    let cluster = Cluster::shared();
    drop(database);
    cluster.sql("postgres", "DROP ROLE busy_shop").unwrap();
}

async fn migrate_while_an_application_inserts(database: &Database) {
    let mut application = database.connect().await;
    let open = application.transaction().await.unwrap();
    open.batch_execute("SELECT outbox.enqueue('mail', 'slow', '{}')").await.unwrap();
    let migration = migrated(database);
    let application = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        open.commit().await.unwrap();
    };
    let (result, ()) = tokio::join!(migration, application);
    assert_eq!(result.unwrap().to, 2);
    assert_eq!(database.sql("SELECT status FROM outbox.status").unwrap(), "PENDING");
}
