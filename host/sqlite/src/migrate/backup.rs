//! The copy of a file from before its migration.
//!
//! It knows no schema but its number. Applications go on to write while the copy is made; it has what was committed
//! when it began.

use std::fs::File;
use std::path::{Path, PathBuf};

use outbox_store::StoreError;

use crate::connection::{connect_read_only, create_private, database_bytes, wal_bytes};
use crate::error::unavailable;
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

/// A copy that is not named yet. It is deleted when it is dropped before [`DatabaseCopy::keep`].
pub(super) struct DatabaseCopy {
    unfinished: Option<PathBuf>,
    finished: PathBuf,
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
    let copy = DatabaseCopy::beside(path, present);
    check_place(path, &copy.finished)?;
    let unfinished = copy.unfinished.as_deref().unwrap_or(path);
    create_private(unfinished).map_err(|source| StoreError::Unavailable { tried, source: source.into() })?;
    let target = unfinished.display().to_string();
    connection.execute("VACUUM INTO ?1", [target]).map_err(unavailable(tried))?;
    Ok(Some(copy))
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

impl DatabaseCopy {
    fn beside(path: &Path, version: usize) -> Self {
        let finished = copy_path(path, version);
        // Several processes may start to migrate at once.
        let mut unfinished = finished.as_os_str().to_owned();
        unfinished.push(format!(".{}", std::process::id()));
        std::fs::remove_file(&unfinished).ok();
        Self { unfinished: Some(unfinished.into()), finished }
    }

    /// Gives the copy its name, durably. Returns its path.
    pub(super) fn keep(mut self) -> Result<PathBuf, StoreError> {
        let failed = |source: std::io::Error| StoreError::Unavailable {
            tried: "naming the copy of the database, which is migrated",
            source: source.into(),
        };
        let Some(unfinished) = self.unfinished.take() else { return Ok(self.finished.clone()) };
        File::open(&unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
        std::fs::rename(&unfinished, &self.finished).map_err(failed)?;
        let folder = self.finished.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(self.finished.clone())
    }
}

impl Drop for DatabaseCopy {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            std::fs::remove_file(unfinished).ok();
        }
    }
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
    fn a_copy_that_is_not_kept_leaves_no_file() {
        let folder = std::env::temp_dir().join(format!("outbox-copy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let copy = DatabaseCopy::beside(&folder.join("a.sqlite"), 1);
        std::fs::write(copy.unfinished.as_deref().unwrap(), "").unwrap();
        drop(copy);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        let copy = DatabaseCopy::beside(&folder.join("a.sqlite"), 1);
        std::fs::write(copy.unfinished.as_deref().unwrap(), "").unwrap();
        assert_eq!(copy.keep().unwrap(), folder.join("a.sqlite.schema-1"));
        assert!(check_place(&folder.join("a.sqlite"), &folder.join("a.sqlite.schema-1")).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
