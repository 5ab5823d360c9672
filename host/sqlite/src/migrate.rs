//! The schema and its versions.
//!
//! The version is in a table of its own, because the file may belong to the application, which may use `user_version`.
//! A new file gets the newest schema at once. How a file of an older version becomes one of the newest is known to the
//! modules below.

mod application_objects;
mod schema_objects;
mod status_columns;

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use outbox_store::StoreError;
use outbox_store::engine::schema_version::{Migration, check_schema, refuse_newer};

use crate::connection::{connect, connect_read_only};
use crate::error::unavailable;

/// The newest schema.
const SCHEMA: &str = include_str!("../migrations/schema.sql");

/// The version of [`SCHEMA`].
const NEWEST: usize = 2;

/// Schema 1, from which files are migrated.
const SCHEMA_1: &str = include_str!("../migrations/0001_initial.sql");

/// The page cache of a migration, in KiB. What does not fit is written to the log twice.
const CACHE_KIB: i32 = 256_000;

/// Migrates the file to the newest schema, and creates the file when there is none. Several processes may call it at
/// once. Errors with [`StoreError::Unusable`] when the file is not a database, cannot be created, cannot be migrated as
/// it is, or has a newer schema than this program knows.
pub fn migrate(path: &Path) -> Result<Migration, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut connection = connect(path, flags).map_err(|err| open_error(path, err))?;
    // Takes effect on a new file only; the file of an application keeps its setting.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(|err| open_error(path, err))?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(|err| open_error(path, err))?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(|err| open_error(path, err))?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(|err| open_error(path, err))?;
    let from = apply(&mut connection, path)?;
    Ok(Migration { from, to: NEWEST })
}

fn apply(connection: &mut Connection, path: &Path) -> Result<usize, StoreError> {
    let behaviour = rusqlite::TransactionBehavior::Immediate;
    let tx = connection.transaction_with_behavior(behaviour).map_err(|err| open_error(path, err))?;
    let from = version(&tx).map_err(|err| open_error(path, err))?.unwrap_or(0);
    refuse_newer(&path.display(), from, NEWEST)?;
    match from {
        0 => create(&tx).map_err(unavailable("creating the outbox"))?,
        1 => migrate_from_1(&tx)?,
        _ => {}
    }
    tx.commit().map_err(unavailable("committing the migration"))?;
    Ok(from)
}

fn create(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute_batch("CREATE TABLE IF NOT EXISTS outbox_migrations (version INTEGER PRIMARY KEY) STRICT")?;
    tx.execute_batch(SCHEMA)?;
    record_newest(tx)
}

fn migrate_from_1(tx: &Connection) -> Result<(), StoreError> {
    let in_memory = |schema| {
        let database = Connection::open_in_memory()?;
        database.execute_batch(schema)?;
        Ok(database)
    };
    let tried = "reading the schemas";
    let (old, new) = (in_memory(SCHEMA_1).map_err(unavailable(tried))?, in_memory(SCHEMA).map_err(unavailable(tried))?);
    status_columns::migrate(tx, &old, &new)?;
    record_newest(tx).map_err(unavailable("recording the migration"))
}

fn record_newest(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute("INSERT INTO outbox_migrations (version) VALUES (?1)", [NEWEST]).map(|_| ())
}

/// Errors unless the file has exactly the schema that this program knows. Changes nothing.
pub(crate) fn check(path: &Path) -> Result<(), StoreError> {
    if !path.exists() {
        let path = path.display();
        return Err(StoreError::Unusable(format!(
            "there is no database at {path}: create it with `outbox migrate`, or set OUTBOX_DB to the one you mean"
        )));
    }
    let connection = connect_read_only(path).map_err(|err| open_error(path, err))?;
    let present = version(&connection).map_err(|err| open_error(path, err))?.unwrap_or(0);
    check_schema(&path.display(), present, NEWEST)
}

/// The schema version of the file, or `None` when it has no outbox.
fn version(connection: &Connection) -> rusqlite::Result<Option<usize>> {
    let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'outbox_migrations'";
    if connection.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    connection.query_row("SELECT max(version) FROM outbox_migrations", [], |row| row.get(0))
}

fn open_error(path: &Path, err: rusqlite::Error) -> StoreError {
    let path = path.display();
    match err.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            StoreError::Unusable(format!("{path} is not a SQLite database: set OUTBOX_DB to another path"))
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            StoreError::Unusable(format!(
                "{path} cannot be opened for writing ({err}): check that its folder exists and is writable, or set \
                 OUTBOX_DB"
            ))
        }
        _ => unavailable("opening the database")(err),
    }
}

/// An empty outbox in memory, with the newest schema.
#[cfg(test)]
pub(crate) fn empty_outbox() -> Connection {
    let database = Connection::open_in_memory().unwrap();
    create(&database).unwrap();
    database
}

/// The query plan of a statement on the newest schema, one line per step.
#[cfg(test)]
pub(crate) fn plan(sql: &str, values: impl rusqlite::Params) -> Vec<String> {
    let database = empty_outbox();
    let mut explain = database.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    explain.query_map(values, |row| row.get(3)).unwrap().map(Result::unwrap).collect()
}
