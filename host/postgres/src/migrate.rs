//! The schema and its versions, which a table of its own records.
//!
//! It does not know what the schema contains, except for the trigger that notifies workers of inserts. What a version
//! needs to become the next one is in the files of this folder.

mod status_columns;

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::GenericClient;

use outbox_store::StoreError;
use outbox_store::engine::schema_version::{Migration, check_schema, refuse_newer};

use crate::error::PgError;
use crate::options::PostgresOptions;
use crate::pool::Pool;
use crate::tx::begin_read_committed;

/// The version of the newest schema.
const VERSION: usize = 2;

/// The tables that every version of the schema has had, as the newest has them.
const BASE: &str = include_str!("../migrations/schema/base.sql");
/// The tables of the places where items are.
const PLACES: &str = include_str!("../migrations/schema/places.sql");
/// The views and functions of the newest schema, in the order in which they are created. They need the tables.
const PROGRAMS: [&str; 3] = [
    include_str!("../migrations/schema/status.sql"),
    include_str!("../migrations/schema/enqueue.sql"),
    include_str!("../migrations/schema/work.sql"),
];

/// The oldest server that the schema works on, as `server_version_num`.
const SERVER_MIN: i32 = 140_000;

/// The limits of a migration, whose locks make other users of the database wait. The transaction that keeps other
/// processes from migrating waits for as long as the migration takes.
const MIGRATION_TIMEOUTS_SQL: &str = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '120s';
    SET LOCAL idle_in_transaction_session_timeout = 0";

/// Whether inserts notify workers. Notifications serialise the commits of the whole database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Inserts notify.
    On,
    /// Inserts do not notify; each process polls for changes.
    Off,
    /// The present setting stays; a new schema notifies.
    Keep,
}

/// Migrates the database to the newest schema, and creates the schema `outbox` when there is none. Several processes
/// may call it at once. The role must own the schema or may create it; it needs no superuser. Errors with
/// [`StoreError::Unusable`] when the server is too old, the database is not encoded in UTF-8, it has a newer schema
/// than this program knows, or a host still works with the schema that is to be migrated.
pub async fn migrate(url: &str, options: &PostgresOptions, notify: Notify) -> Result<Migration, StoreError> {
    let tried = "migrating the database";
    let pool = Pool::new(url, options)?;
    let mut client = pool.connection().await.map_err(|err| err.into_store_error("connecting to the database"))?;
    let from = apply(&mut client, &pool, notify).await.map_err(|err| err.into_store_error(tried))?;
    Ok(Migration { from, to: VERSION })
}

async fn apply(client: &mut Client, pool: &Pool, notify: Notify) -> Result<usize, PgError> {
    // Without anything to change, the role needs no right to change anything.
    if notify == Notify::Keep && version(&***client).await? == Some(VERSION) {
        return Ok(VERSION);
    }
    let tx = begin_read_committed(client).await?;
    tx.batch_execute(MIGRATION_TIMEOUTS_SQL).await?;
    tx.batch_execute("SELECT pg_advisory_xact_lock(7206005, 0)").await?;
    check_server(&tx, pool).await?;
    let from = version(&*tx).await?;
    refuse_newer(&pool.display_target(), from.unwrap_or(0), VERSION)?;
    match from {
        None | Some(0) => create(&tx).await?,
        Some(1) => {
            status_columns::move_items(&tx, pool, PLACES).await?;
            create_programs(&tx).await?;
            status_columns::keep_grants(&tx).await?;
        }
        Some(_) => {}
    }
    set_notify(&tx, notify, from).await?;
    tx.commit().await?;
    if from == Some(1) {
        status_columns::finish(client).await;
    }
    Ok(from.unwrap_or(0))
}

async fn set_notify(tx: &Transaction<'_>, notify: Notify, from: Option<usize>) -> Result<(), PgError> {
    let trigger = match notify {
        Notify::Keep if from.is_some() => "",
        Notify::On | Notify::Keep => {
            "CREATE OR REPLACE TRIGGER items_wake AFTER INSERT ON outbox.items
             FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake()"
        }
        Notify::Off => "DROP TRIGGER IF EXISTS items_wake ON outbox.items",
    };
    Ok(tx.batch_execute(trigger).await?)
}

async fn check_server(tx: &Transaction<'_>, pool: &Pool) -> Result<(), PgError> {
    let sql = "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')";
    let row = tx.query_typed_one(sql, &[]).await?;
    let (version, encoding): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    let target = pool.display_target();
    if version < SERVER_MIN {
        let message = format!("{target} is served by version {}: PostgreSQL 14 or newer is needed", version / 10_000);
        return Err(StoreError::Unusable(message).into());
    }
    if encoding != "UTF8" {
        let message = format!("{target} is encoded in {encoding}: create one with ENCODING 'UTF8'");
        return Err(StoreError::Unusable(message).into());
    }
    Ok(())
}

async fn create(tx: &Transaction<'_>) -> Result<(), PgError> {
    // Only where it is missing: a role can own the schema without the right to create one.
    if tx.query_typed_opt("SELECT 1 FROM pg_namespace WHERE nspname = 'outbox'", &[]).await?.is_none() {
        tx.batch_execute("CREATE SCHEMA outbox").await?;
    }
    tx.batch_execute("CREATE TABLE IF NOT EXISTS outbox.migrations (version integer PRIMARY KEY)").await?;
    tx.batch_execute(BASE).await?;
    tx.batch_execute(PLACES).await?;
    create_programs(tx).await
}

/// Creates or replaces the views and functions, and records the version.
async fn create_programs(tx: &Transaction<'_>) -> Result<(), PgError> {
    for sql in PROGRAMS {
        tx.batch_execute(sql).await?;
    }
    Ok(tx.batch_execute(&format!("INSERT INTO outbox.migrations (version) VALUES ({VERSION})")).await?)
}

/// Errors unless the database has exactly the schema that this program knows. Changes nothing. Returns whether inserts
/// notify.
pub(crate) async fn check(pool: &Pool) -> Result<bool, StoreError> {
    let tried = "opening the database";
    let client = pool.connection().await.map_err(|err| err.into_store_error("connecting to the database"))?;
    let present = version(&**client).await.map_err(|err| err.into_store_error(tried))?;
    let Some(present) = present else {
        let message = format!("there is no outbox in {}: create it with `outbox migrate`", pool.display_target());
        return Err(StoreError::Unusable(message));
    };
    check_schema(&pool.display_target(), present, VERSION)?;
    let sql = "SELECT 1 FROM pg_trigger WHERE tgname = 'items_wake' AND tgrelid = 'outbox.items'::regclass";
    let found = client.query_typed_opt(sql, &[]).await.map_err(|err| PgError::from(err).into_store_error(tried))?;
    Ok(found.is_some())
}

/// The schema version of the database, or `None` when it has no outbox.
async fn version(client: &impl GenericClient) -> Result<Option<usize>, PgError> {
    let sql = "SELECT to_regclass('outbox.migrations') IS NOT NULL";
    if !client.query_typed_one(sql, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let newest = client.query_typed_one("SELECT max(version) FROM outbox.migrations", &[]).await?;
    let newest: Option<i32> = newest.try_get(0)?;
    Ok(newest.map(|version| usize::try_from(version).unwrap_or_default()))
}
