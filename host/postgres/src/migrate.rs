//! The schema and its versions, which a table of its own records.
//!
//! It does not know what the schema contains, except for the trigger that notifies workers of inserts.

use deadpool_postgres::Client;

use outbox_store::StoreError;
use outbox_store::engine::schema_version::{Migration, check_schema, refuse_newer};

use crate::error::PgError;
use crate::options::PostgresOptions;
use crate::pool::Pool;

/// Every version of the schema, oldest first. Append only: the SQL of a released entry never changes.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_initial.sql")];

/// The oldest server that the schema works on, as `server_version_num`.
const SERVER_MIN: i32 = 140_000;

/// The limits of a migration, whose locks make other users of the database wait.
const MIGRATION_TIMEOUTS_SQL: &str = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '120s'";

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
/// [`StoreError::Unusable`] when the server is too old, the database is not encoded in UTF-8, or it has a newer schema
/// than this program knows.
pub async fn migrate(url: &str, options: &PostgresOptions, notify: Notify) -> Result<Migration, StoreError> {
    let tried = "migrating the database";
    let pool = Pool::new(url, options)?;
    let mut client = pool.connection().await.map_err(|err| err.into_store_error("connecting to the database"))?;
    let from = apply(&mut client, &pool, notify).await.map_err(|err| err.into_store_error(tried))?;
    Ok(Migration { from, to: MIGRATIONS.len() })
}

async fn apply(client: &mut Client, pool: &Pool, notify: Notify) -> Result<usize, PgError> {
    // Without anything to change, the role needs no right to change anything.
    if notify == Notify::Keep && version(client).await? == Some(MIGRATIONS.len()) {
        return Ok(MIGRATIONS.len());
    }
    let tx = client.transaction().await?;
    tx.batch_execute(MIGRATION_TIMEOUTS_SQL).await?;
    tx.execute("SELECT pg_advisory_xact_lock(7206005, 0)", &[]).await?;
    check_server(&tx, pool).await?;
    let from = version(&tx).await?;
    refuse_newer(&pool.display_target(), from.unwrap_or(0), MIGRATIONS.len())?;
    migrate_from(&tx, from.unwrap_or(0)).await?;
    let trigger = match notify {
        Notify::Keep if from.is_some() => "",
        Notify::On | Notify::Keep => {
            "CREATE OR REPLACE TRIGGER items_wake AFTER INSERT ON outbox.items
             FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake()"
        }
        Notify::Off => "DROP TRIGGER IF EXISTS items_wake ON outbox.items",
    };
    tx.batch_execute(trigger).await?;
    tx.commit().await?;
    Ok(from.unwrap_or(0))
}

async fn check_server(tx: &deadpool_postgres::Transaction<'_>, pool: &Pool) -> Result<(), PgError> {
    let sql = "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')";
    let row = tx.query_one(sql, &[]).await?;
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

async fn migrate_from(tx: &deadpool_postgres::Transaction<'_>, from: usize) -> Result<(), PgError> {
    // Only where it is missing: a role can own the schema without the right to create one.
    if tx.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = 'outbox'", &[]).await?.is_none() {
        tx.batch_execute("CREATE SCHEMA outbox").await?;
    }
    tx.batch_execute("CREATE TABLE IF NOT EXISTS outbox.migrations (version integer PRIMARY KEY)").await?;
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(from) {
        tx.batch_execute(sql).await?;
        let version = i32::try_from(index + 1).unwrap_or(i32::MAX);
        tx.execute("INSERT INTO outbox.migrations (version) VALUES ($1)", &[&version]).await?;
    }
    Ok(())
}

/// Errors unless the database has exactly the schema that this program knows. Changes nothing. Returns whether inserts
/// notify.
pub(crate) async fn check(pool: &Pool) -> Result<bool, StoreError> {
    let tried = "opening the database";
    let client = pool.connection().await.map_err(|err| err.into_store_error("connecting to the database"))?;
    let present = version(&client).await.map_err(|err| err.into_store_error(tried))?;
    let Some(present) = present else {
        let message = format!("there is no outbox in {}: create it with `outbox migrate`", pool.display_target());
        return Err(StoreError::Unusable(message));
    };
    check_schema(&pool.display_target(), present, MIGRATIONS.len())?;
    let sql = "SELECT 1 FROM pg_trigger WHERE tgname = 'items_wake' AND tgrelid = 'outbox.items'::regclass";
    let found = client.query_opt(sql, &[]).await.map_err(|err| PgError::from(err).into_store_error(tried))?;
    Ok(found.is_some())
}

/// The schema version of the database, or `None` when it has no outbox.
async fn version(client: &impl deadpool_postgres::GenericClient) -> Result<Option<usize>, PgError> {
    let sql = "SELECT to_regclass('outbox.migrations') IS NOT NULL";
    if !client.query_one(sql, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let newest = client.query_one("SELECT max(version) FROM outbox.migrations", &[]).await?;
    let newest: Option<i32> = newest.try_get(0)?;
    Ok(newest.map(|version| usize::try_from(version).unwrap_or_default()))
}
