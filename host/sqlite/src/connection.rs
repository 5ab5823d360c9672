//! Connections to the database file, and the sizes of the file and of its write-ahead log.
//!
//! Owns the settings that every connection has. What only the writing connection needs is in `write_tx`.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::database_file::beside;

/// How long a connection waits while another process holds the write lock; then the request fails as unavailable.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Statements that each connection keeps prepared: enough for all that are run often.
const STATEMENT_CACHE: usize = 128;

/// Creates an empty file that only this user can read, unless there is a file. SQLite gives the files beside a database
/// the mode of the database.
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => Err(err),
        _ => Ok(()),
    }
}

/// Opens a connection. The caller keeps it on one thread at a time.
pub(crate) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // Without this the planner depends on bound values, and SQLite compiles each claim anew.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Opens a connection that can change nothing.
pub(crate) fn connect_read_only(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// The size of the database file in bytes; 0 when it cannot be read.
pub(crate) fn database_bytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

/// The size of the write-ahead log in bytes; 0 when there is none.
pub(crate) fn wal_bytes(path: &Path) -> u64 {
    database_bytes(&beside(path, "-wal"))
}
