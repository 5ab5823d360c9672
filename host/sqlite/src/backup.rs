//! A copy of the database file that an operator asks for, while hosts and applications use the file.
//!
//! It does not know where copies are kept, nor for how long.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use outbox_store::StoreError;

use crate::connection::{connect, connect_read_only, database_bytes};
use crate::database_copy::DatabaseCopy;
use crate::error::unavailable;
use crate::migrate;

/// What a copy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// Its size.
    pub bytes: u64,
    /// How many items it has.
    pub items: u64,
}

/// Copies the database at `path` to the new file `to`, and checks the copy. Errors with [`StoreError::Unusable`] when
/// there is no outbox with the present schema, when `to` exists, or when the copy is damaged; then there is no copy.
pub fn backup(path: &Path, to: &Path) -> Result<BackupReport, StoreError> {
    const TRIED: &str = "copying the database";
    migrate::check(path)?;
    if to.exists() {
        return Err(StoreError::Unusable(format!("{} is there already: name a new file", to.display())));
    }
    let source = connect_read_only(path).map_err(unavailable(TRIED))?;
    let copy = DatabaseCopy::make(&source, to, TRIED)?;
    let items = check(copy.path()).map_err(unavailable("checking the copy of the database"))?;
    let items = items.map_err(|damage| {
        StoreError::Unusable(format!("{} is damaged, so it was not copied: {damage}", path.display()))
    })?;
    let bytes = database_bytes(copy.path());
    copy.keep()?;
    Ok(BackupReport { bytes, items })
}

/// Counts the items of a copy, or says how it is damaged. The copy gets the journal mode of an outbox.
fn check(copy: &Path) -> rusqlite::Result<Result<u64, String>> {
    let connection: Connection = connect(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Ok(Err(found));
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.query_row("SELECT count(*) FROM outbox_items", [], |row| row.get(0)).map(Ok)
}
