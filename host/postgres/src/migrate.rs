//! The schema and its versions, which a table of its own records.
//!
//! It does not know what the schema contains, except for the trigger that notifies workers of inserts. What a version
//! needs to become the next one is in the files of this folder.

mod plan;
mod status_columns;
mod versions;

use deadpool_postgres::{Client, Transaction};

use outbox_store::StoreError;
use outbox_store::engine::schema_version::{Migration, check_schema, refuse_newer};

use crate::error::PgError;
use crate::migrate::versions::{PLACES, VERSION, WAKE, check_server, create, create_programs, version};
use crate::options::PostgresOptions;
use crate::pool::{Pool, Purpose};
use crate::tx::begin_read_committed;

pub use crate::migrate::plan::plan_migration;
pub use crate::migrate::versions::schema_sql;

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
    let mut client =
        pool.connection(Purpose::Call).await.map_err(|err| err.into_store_error("connecting to the database"))?;
    let from = apply(&mut client, &pool, notify).await.map_err(|err| err.into_store_error(tried))?;
    Ok(Migration { from, to: VERSION, backup: None })
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
        Notify::On | Notify::Keep => WAKE,
        Notify::Off => "DROP TRIGGER IF EXISTS items_wake ON outbox.items",
    };
    Ok(tx.batch_execute(trigger).await?)
}

/// Errors unless the database has exactly the schema that this program knows. Changes nothing. Returns whether inserts
/// notify.
pub(crate) async fn check(pool: &Pool) -> Result<bool, StoreError> {
    let tried = "opening the database";
    let client =
        pool.connection(Purpose::Call).await.map_err(|err| err.into_store_error("connecting to the database"))?;
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
