//! The schema and its versions: the texts, and which of them a file has.
//!
//! The version is in a table of its own, because the file may belong to the application, which may use `user_version`.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use outbox_store::StoreError;

use crate::error::unavailable;

/// The newest schema.
pub(super) const SCHEMA: &str = include_str!("../../migrations/schema.sql");

/// The version of [`SCHEMA`].
pub(super) const NEWEST: usize = 2;

/// Schema 1, from which files are migrated.
pub(crate) const SCHEMA_1: &str = include_str!("../../migrations/0001_initial.sql");

/// The table of the version.
const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS outbox_migrations (version INTEGER PRIMARY KEY) STRICT";

/// The SQL that creates the newest schema in an empty file.
pub fn schema_sql() -> String {
    format!(
        "PRAGMA auto_vacuum = INCREMENTAL;\nPRAGMA journal_mode = WAL;\nBEGIN;\n{VERSIONS};\n{SCHEMA}\n\
         INSERT INTO outbox_migrations (version) VALUES ({NEWEST});\nCOMMIT;\n"
    )
}

/// Creates the newest schema.
pub(super) fn create(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute_batch(VERSIONS)?;
    tx.execute_batch(SCHEMA)?;
    record_newest(tx)
}

/// Records that the file has the newest schema.
pub(super) fn record_newest(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute("INSERT INTO outbox_migrations (version) VALUES (?1)", [NEWEST]).map(|_| ())
}

/// Empty databases of schema 1 and of the newest schema, in memory.
pub(super) struct Schemas {
    pub(super) old: Connection,
    pub(super) new: Connection,
}

impl Schemas {
    pub(super) fn read() -> rusqlite::Result<Self> {
        let in_memory = |schema| -> rusqlite::Result<Connection> {
            let database = Connection::open_in_memory()?;
            database.execute_batch(schema)?;
            Ok(database)
        };
        Ok(Self { old: in_memory(SCHEMA_1)?, new: in_memory(SCHEMA)? })
    }
}

/// The schema version of the file, or `None` when it has no outbox.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<Option<usize>> {
    let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'outbox_migrations'";
    if connection.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    connection.query_row("SELECT max(version) FROM outbox_migrations", [], |row| row.get(0))
}

/// The error of a file that could not be opened, or not for writing.
pub(super) fn open_error(path: &Path, err: rusqlite::Error) -> StoreError {
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
