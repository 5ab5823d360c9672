//! From schema 1, where an item's status was in columns of `outbox.items`, to places.
//!
//! The table keeps its rows and loses columns in the catalogue, so that no payload is copied. Most items of an old
//! outbox are DONE: they are copied to their place before, in batches and without a lock. The lock covers the rest, and
//! applications that insert wait for it. A process that dies on the way leaves schema 1 as it was, beside new tables
//! that it does not use.

use std::time::Duration;

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use outbox_item::millis;
use outbox_store::StoreError;

use crate::error::PgError;
use crate::pool::{Pool, Purpose};
use crate::tx::begin_read_committed;

const DONE: &str = include_str!("../../migrations/0002_done.sql");
const OTHERS: &str = include_str!("../../migrations/0002_places.sql");
const GRANTS: &str = include_str!("../../migrations/0002_grants.sql");

/// A host that wrote its heartbeat within this time may still run.
const HOST_SILENT: Duration = Duration::from_secs(30);

/// The longest that a transaction may have had its time before it committed. What became DONE this long before the copy
/// began is compared with its copy under the lock.
const OVERLAP: Duration = Duration::from_mins(10);

/// The limit of a statement of the copy, and of each statement under the lock.
const STATEMENT_TIMEOUT_SQL: &str = "SET LOCAL statement_timeout = '120s'";
/// How often the lock is tried. Each try makes inserts wait for up to the lock's timeout.
const LOCK_TRIES: u32 = 30;
const LOCK_TIMEOUT_SQL: &str = "SET LOCAL lock_timeout = '2s'";
/// Wait between two tries, in which those go on that had to wait.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// Moves the items to the places, which the SQL `places` creates, in the database of `tx`, which has the migration's
/// lock and locks the items. Errors with [`StoreError::Unusable`] while a host may still work with schema 1, or when
/// something of the application depends on the old columns.
pub(super) async fn move_items(tx: &Transaction<'_>, pool: &Pool, places: &str) -> Result<(), PgError> {
    refuse_running_hosts(tx).await?;
    let since = copy_done(pool, places).await?;
    lock_items(tx).await?;
    refuse_running_hosts(tx).await?;
    tx.batch_execute(&format!("SELECT outbox.migrate_done_since({since})")).await?;
    tx.batch_execute(OTHERS).await.map_err(explain)
}

/// The columns that the items table loses.
pub(super) fn dropped_columns() -> Vec<&'static str> {
    let named = OTHERS.split("ALTER TABLE outbox.items").flat_map(|change| change.split("DROP COLUMN ").skip(1));
    named.filter_map(|rest| rest.split([',', ' ', '\n']).next()).filter(|column| *column != "slot").collect()
}

/// A view of the application over the old columns keeps them from being dropped, and the server's detail names it.
fn explain(err: tokio_postgres::Error) -> PgError {
    match err.as_db_error().filter(|said| *said.code() == SqlState::DEPENDENT_OBJECTS_STILL_EXIST) {
        Some(said) => StoreError::Unusable(format!(
            "{} ({}): drop it, run `outbox migrate` again, and create it anew over the view outbox.status",
            said.detail().unwrap_or_default(),
            said.message()
        ))
        .into(),
        None => err.into(),
    }
}

/// Gives the roles that worked with the items the same rights on the places, the views and the functions, which exist.
pub(super) async fn keep_grants(tx: &Transaction<'_>) -> Result<(), PgError> {
    Ok(tx.batch_execute(GRANTS).await?)
}

/// What needs no lock of the migration: the check of the new column, and statistics, without which the first statements
/// would be planned as if the new tables were empty. The schema works without either, so a failure is only told.
pub(super) async fn finish(client: &mut Client) {
    for sql in [
        "ALTER TABLE outbox.items VALIDATE CONSTRAINT items_fairness_key",
        "ANALYZE outbox.items, outbox.queue, outbox.done, outbox.dead, outbox.past, outbox.lanes, outbox.saga_open",
    ] {
        if let Err(err) = run_without_limit(client, sql).await {
            tracing::warn!(statement = sql, error = err.message(), "the database is migrated; run this by hand");
        }
    }
}

async fn run_without_limit(client: &mut Client, sql: &str) -> Result<(), PgError> {
    let tx = begin_read_committed(client).await?;
    tx.batch_execute("SET LOCAL statement_timeout = 0").await?;
    tx.batch_execute(sql).await?;
    Ok(tx.commit().await?)
}

/// A host of the old version would go on with statements that fit no longer.
pub(super) async fn refuse_running_hosts(tx: &Transaction<'_>) -> Result<(), PgError> {
    let sql =
        "SELECT string_agg(instance, ', ' ORDER BY instance) FROM outbox.pods WHERE heartbeat_at > outbox.now() - $1";
    let running: Option<String> = tx.query_typed_one(sql, &[(&millis(HOST_SILENT), Type::INT8)]).await?.try_get(0)?;
    let Some(running) = running else { return Ok(()) };
    let silent = HOST_SILENT.as_secs();
    let message = format!(
        "{running} worked on this database less than {silent} s ago: stop every outbox of the old version, wait \
         {silent} s, and run `outbox migrate` again"
    );
    Err(StoreError::Unusable(message).into())
}

/// Creates the places and copies what is DONE. Returns the time from which on items that became DONE may be missing.
async fn copy_done(pool: &Pool, places: &str) -> Result<i64, PgError> {
    let mut client = pool.connection(Purpose::Call).await?;
    let since = prepare(&mut client, places).await?;
    let mut after = Some(i64::MIN);
    while let Some(id) = after {
        let tx = begin_read_committed(&mut client).await?;
        tx.batch_execute(STATEMENT_TIMEOUT_SQL).await?;
        let copied = tx.query_typed_one("SELECT outbox.migrate_done_after($1)", &[(&id, Type::INT8)]).await?;
        after = copied.try_get(0)?;
        tx.commit().await?;
    }
    Ok(since)
}

/// Creates the places, or empties those that a process left behind which did not finish.
async fn prepare(client: &mut Client, places: &str) -> Result<i64, PgError> {
    let tx = begin_read_committed(client).await?;
    tx.batch_execute(STATEMENT_TIMEOUT_SQL).await?;
    if tx.query_typed_one("SELECT to_regclass('outbox.done') IS NULL", &[]).await?.try_get(0)? {
        tx.batch_execute(places).await?;
    } else {
        tx.batch_execute("TRUNCATE outbox.done, outbox.past, outbox.handlers").await?;
    }
    tx.batch_execute(DONE).await?;
    let since = tx.query_typed_one("SELECT outbox.now() - $1", &[(&millis(OVERLAP), Type::INT8)]).await?.try_get(0)?;
    tx.commit().await?;
    Ok(since)
}

/// Locks the items. A lock that is waited for makes every later user of the table wait, too. So it is waited for
/// briefly and often.
async fn lock_items(tx: &Transaction<'_>) -> Result<(), PgError> {
    for _ in 0..LOCK_TRIES {
        if try_lock_items(tx).await? {
            return Ok(());
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    let message = format!(
        "other transactions have used outbox.items without a pause in {LOCK_TRIES} tries to lock it: end those that \
         `outbox doctor` names, and migrate again"
    );
    Err(StoreError::Unusable(message).into())
}

async fn try_lock_items(tx: &Transaction<'_>) -> Result<bool, PgError> {
    tx.batch_execute("SAVEPOINT lock").await?;
    tx.batch_execute(LOCK_TIMEOUT_SQL).await?;
    match tx.batch_execute("LOCK TABLE outbox.items IN ACCESS EXCLUSIVE MODE").await {
        Ok(()) => Ok(true),
        Err(err) if err.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            tx.batch_execute("ROLLBACK TO SAVEPOINT lock").await?;
            Ok(false)
        }
        Err(err) => Err(err.into()),
    }
}
