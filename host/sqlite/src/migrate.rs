//! The schema and its versions.
//!
//! The version is in a table of its own, because the file may belong to the application, which may use `user_version`.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use outbox_store::StoreError;
use outbox_store::engine::schema_version::{Migration, check_schema, refuse_newer};

use crate::connection::{connect, connect_read_only};
use crate::error::unavailable;

/// Every version of the schema, oldest first. Append only: the SQL of a released entry never changes.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_initial.sql")];

/// Migrates the file to the newest schema, and creates the file when there is none. Several processes may call it at
/// once. Errors with [`StoreError::Unusable`] when the file is not a database, cannot be created, or has a newer schema
/// than this program knows.
pub fn migrate(path: &Path) -> Result<Migration, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut connection = connect(path, flags).map_err(|err| open_error(path, err))?;
    // Takes effect on a new file only; the file of an application keeps its setting.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(|err| open_error(path, err))?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(|err| open_error(path, err))?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(|err| open_error(path, err))?;
    let from = apply(&mut connection, path)?;
    Ok(Migration { from, to: MIGRATIONS.len() })
}

fn apply(connection: &mut Connection, path: &Path) -> Result<usize, StoreError> {
    let behaviour = rusqlite::TransactionBehavior::Immediate;
    let tx = connection.transaction_with_behavior(behaviour).map_err(|err| open_error(path, err))?;
    let from = version(&tx).map_err(|err| open_error(path, err))?.unwrap_or(0);
    refuse_newer(&path.display(), from, MIGRATIONS.len())?;
    migrate_from(&tx, from).map_err(unavailable("migrating the database"))?;
    tx.commit().map_err(unavailable("committing the migration"))?;
    Ok(from)
}

fn migrate_from(tx: &Connection, from: usize) -> rusqlite::Result<()> {
    tx.execute_batch("CREATE TABLE IF NOT EXISTS outbox_migrations (version INTEGER PRIMARY KEY) STRICT")?;
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(from) {
        tx.execute_batch(sql)?;
        tx.execute("INSERT INTO outbox_migrations (version) VALUES (?1)", params![index + 1])?;
    }
    Ok(())
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
    check_schema(&path.display(), present, MIGRATIONS.len())
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
                "{path} cannot be opened for writing ({err}): check that its folder exists and is writable, or set OUTBOX_DB"
            ))
        }
        _ => unavailable("opening the database")(err),
    }
}

/// The query plan of a statement on the newest schema, one line per step.
#[cfg(test)]
pub(crate) fn plan(sql: &str, values: impl rusqlite::Params) -> Vec<String> {
    let database = Connection::open_in_memory().unwrap();
    migrate_from(&database, 0).unwrap();
    let mut explain = database.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    explain.query_map(values, |row| row.get(3)).unwrap().map(Result::unwrap).collect()
}
