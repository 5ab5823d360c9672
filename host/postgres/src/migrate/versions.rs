//! The schema and its versions: the texts, which of them a database has, and what a server must be.

use deadpool_postgres::Transaction;
use tokio_postgres::GenericClient;

use outbox_store::StoreError;

use crate::error::PgError;
use crate::pool::Pool;

/// The version of the newest schema.
pub(super) const VERSION: usize = 2;

/// The tables that every version of the schema has had, as the newest has them.
const BASE: &str = include_str!("../../migrations/schema/base.sql");
/// The tables of the places where items are.
pub(super) const PLACES: &str = include_str!("../../migrations/schema/places.sql");
/// The views and functions of the newest schema, in the order in which they are created. They need the tables.
const PROGRAMS: [&str; 3] = [
    include_str!("../../migrations/schema/status.sql"),
    include_str!("../../migrations/schema/enqueue.sql"),
    include_str!("../../migrations/schema/work.sql"),
];

/// The table of the version.
const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS outbox.migrations (version integer PRIMARY KEY)";

/// The trigger that notifies workers of inserts.
pub(super) const WAKE: &str = "CREATE OR REPLACE TRIGGER items_wake AFTER INSERT ON outbox.items
     FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake()";

/// The oldest server that the schema works on, as `server_version_num`.
const SERVER_MIN: i32 = 140_000;

/// The SQL that creates the newest schema in a database without an outbox.
pub fn schema_sql() -> String {
    let programs = PROGRAMS.join("\n");
    format!(
        "BEGIN;\nCREATE SCHEMA IF NOT EXISTS outbox;\n{VERSIONS};\n{BASE}\n{PLACES}\n{programs}\n{WAKE};\n\
         INSERT INTO outbox.migrations (version) VALUES ({VERSION});\nCOMMIT;\n"
    )
}

/// Creates the newest schema.
pub(super) async fn create(tx: &Transaction<'_>) -> Result<(), PgError> {
    // Only where it is missing: a role can own the schema without the right to create one.
    if tx.query_typed_opt("SELECT 1 FROM pg_namespace WHERE nspname = 'outbox'", &[]).await?.is_none() {
        tx.batch_execute("CREATE SCHEMA outbox").await?;
    }
    tx.batch_execute(VERSIONS).await?;
    tx.batch_execute(BASE).await?;
    tx.batch_execute(PLACES).await?;
    create_programs(tx).await
}

/// Creates or replaces the views and functions, and records the version.
pub(super) async fn create_programs(tx: &Transaction<'_>) -> Result<(), PgError> {
    for sql in PROGRAMS {
        tx.batch_execute(sql).await?;
    }
    Ok(tx.batch_execute(&format!("INSERT INTO outbox.migrations (version) VALUES ({VERSION})")).await?)
}

/// Errors when the server is too old, or the database is not encoded in UTF-8.
pub(super) async fn check_server(tx: &Transaction<'_>, pool: &Pool) -> Result<(), PgError> {
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

/// The schema version of the database, or `None` when it has no outbox.
pub(super) async fn version(client: &impl GenericClient) -> Result<Option<usize>, PgError> {
    let sql = "SELECT to_regclass('outbox.migrations') IS NOT NULL";
    if !client.query_typed_one(sql, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let newest = client.query_typed_one("SELECT max(version) FROM outbox.migrations", &[]).await?;
    let newest: Option<i32> = newest.try_get(0)?;
    Ok(newest.map(|version| usize::try_from(version).unwrap_or_default()))
}
