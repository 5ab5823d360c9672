//! The copy of a file from before its migration.
//!
//! It knows no schema but its number. Applications go on to write while the copy is made; it has what was committed
//! when it began.

use std::path::{Path, PathBuf};

use outbox_store::StoreError;

use crate::connection::{connect_read_only, database_bytes, wal_bytes};
use crate::database_copy::DatabaseCopy;
use crate::migrate::status_columns::rehearse;
use crate::migrate::versions::{NEWEST, version};

/// Whether a file is copied before it is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backup {
    /// The file is copied to `FILE.schema-N` beside it, N being its version. Without room the migration is refused.
    BesideFile,
    /// The file is not copied.
    None,
}

/// Copies the file when it has an older schema. Errors with [`StoreError::Unusable`] when the migration would be
/// refused, when there is no room, or when there is a copy already.
pub(super) fn copy(path: &Path) -> Result<Option<DatabaseCopy>, StoreError> {
    let tried = "copying the database before the migration";
    // What cannot be read is reported by the migration itself.
    let Some(connection) = path.exists().then(|| connect_read_only(path).ok()).flatten() else { return Ok(None) };
    let present = version(&connection).ok().flatten().unwrap_or(0);
    if present == 0 || present >= NEWEST {
        return Ok(None);
    }
    rehearse(&connection)?;
    let finished = copy_path(path, present);
    check_place(path, &finished)?;
    DatabaseCopy::make(&connection, &finished, tried).map(Some)
}

/// Where the copy of a file of this version is.
pub(super) fn copy_path(path: &Path, version: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".schema-{version}"));
    name.into()
}

/// Errors when the copy cannot be made: an earlier one is there, or there is no room.
pub(super) fn check_place(path: &Path, finished: &Path) -> Result<(), StoreError> {
    if finished.exists() {
        let finished = finished.display();
        return Err(StoreError::Unusable(format!(
            "{finished}, the copy of the database before a migration, is there already: move it away, or run `outbox \
             migrate --no-backup`"
        )));
    }
    refuse_without_room(bytes_needed(path), free_bytes(path)?)
}

fn refuse_without_room(needed: u64, free: u64) -> Result<(), StoreError> {
    if needed <= free {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "the copy of the database before the migration needs {needed} bytes and {free} are free: make room, or copy the \
         database elsewhere and run `outbox migrate --no-backup`"
    )))
}

/// The size of the copy and of what the migration writes to the log, which was measured as a twentieth of the file.
fn bytes_needed(path: &Path) -> u64 {
    let bytes = database_bytes(path) + wal_bytes(path);
    bytes + bytes / 10
}

fn free_bytes(path: &Path) -> Result<u64, StoreError> {
    let failed =
        |source: std::io::Error| StoreError::Unavailable { tried: "asking for free space", source: source.into() };
    let space = rustix::fs::statvfs(path).map_err(|err| failed(err.into()))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_without_room_is_refused_with_what_to_do() {
        refuse_without_room(10, 10).unwrap();
        let told = refuse_without_room(1_100, 1_000).unwrap_err().to_string();
        assert!(told.contains("needs 1100 bytes and 1000 are free") && told.contains("--no-backup"), "{told}");
    }

    #[test]
    fn an_earlier_copy_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let earlier = folder.path().join("a.sqlite.schema-1");
        std::fs::write(&earlier, "").unwrap();
        assert!(check_place(&folder.path().join("a.sqlite"), &earlier).is_err());
    }
}
