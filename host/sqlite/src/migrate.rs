//! Creating and migrating a file, and the check that a file has the newest schema.
//!
//! A new file gets the newest schema at once. How a file of an older version becomes one of the newest is known to the
//! modules below.

mod application_objects;
mod backup;
mod plan;
mod schema_objects;
mod status_columns;
mod versions;

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use outbox_store::StoreError;
use outbox_store::engine::schema_version::{Migration, check_schema, refuse_newer};

use crate::connection::{connect, connect_read_only, create_private};
use crate::database_copy::DatabaseCopy;
use crate::error::unavailable;
use crate::migrate::versions::{NEWEST, Schemas, create, open_error, record_newest, version};

pub use crate::migrate::backup::Backup;
#[cfg(feature = "bench-support")]
pub(crate) use crate::migrate::versions::SCHEMA_1;

pub use crate::migrate::plan::plan_migration;
pub use crate::migrate::versions::schema_sql;

/// The page cache of a migration, in KiB. What does not fit is written to the log twice.
const CACHE_KIB: i32 = 256_000;

/// Migrates the file to the newest schema, and creates the file when there is none. Several processes may call it at
/// once. Errors with [`StoreError::Unusable`] when the file is not a database, cannot be created, cannot be copied,
/// cannot be migrated as it is, or has a newer schema than this program knows; then nothing has changed. A file of an
/// older schema is copied before; see [`Backup::BesideFile`].
pub fn migrate(path: &Path) -> Result<Migration, StoreError> {
    migrate_with(path, Backup::BesideFile)
}

/// Does what [`migrate`] does, with or without a copy.
pub fn migrate_with(path: &Path, backup: Backup) -> Result<Migration, StoreError> {
    let copy = match backup {
        Backup::BesideFile => backup::copy(path)?,
        Backup::None => None,
    };
    let from = migrate_file(path)?;
    // Another process may have migrated the file meanwhile, and keeps its own copy.
    let backup = copy.filter(|_| from < NEWEST).map(DatabaseCopy::keep).transpose()?;
    Ok(Migration { from, to: NEWEST, backup })
}

fn migrate_file(path: &Path) -> Result<usize, StoreError> {
    // SQLite reports what keeps it from opening the file.
    create_private(path).ok();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut connection = connect(path, flags).map_err(|err| open_error(path, err))?;
    // Takes effect on a new file only; the file of an application keeps its setting.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(|err| open_error(path, err))?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(|err| open_error(path, err))?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(|err| open_error(path, err))?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(|err| open_error(path, err))?;
    apply(&mut connection, path)
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

fn migrate_from_1(tx: &Connection) -> Result<(), StoreError> {
    let Schemas { old, new } = Schemas::read().map_err(unavailable("reading the schemas"))?;
    status_columns::migrate(tx, &old, &new)?;
    record_newest(tx).map_err(unavailable("recording the migration"))
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
