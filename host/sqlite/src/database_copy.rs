//! A copy of a database file, which gets its name when it is whole.
//!
//! Applications and hosts go on to write while it is made; it has what was committed when it began. Why a copy is made,
//! and whether there is room for it, is not known here.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use outbox_store::StoreError;

use crate::connection::create_private;
use crate::error::unavailable;

/// A copy that is not named yet. It is deleted when it is dropped before [`DatabaseCopy::keep`].
pub(crate) struct DatabaseCopy {
    unfinished: Option<PathBuf>,
    finished: PathBuf,
}

impl DatabaseCopy {
    /// Copies the database of a connection, beside the file that the copy becomes.
    pub(crate) fn make(source: &Connection, finished: &Path, tried: &'static str) -> Result<Self, StoreError> {
        let copy = Self::beside(finished);
        create_private(copy.path()).map_err(|source| StoreError::Unavailable { tried, source: source.into() })?;
        let target = copy.path().display().to_string();
        source.execute("VACUUM INTO ?1", [target]).map_err(unavailable(tried))?;
        Ok(copy)
    }

    fn beside(finished: &Path) -> Self {
        // Several processes may copy at once.
        let mut unfinished = finished.as_os_str().to_owned();
        unfinished.push(format!(".{}", std::process::id()));
        std::fs::remove_file(&unfinished).ok();
        Self { unfinished: Some(unfinished.into()), finished: finished.to_owned() }
    }

    /// Where the copy is now.
    pub(crate) fn path(&self) -> &Path {
        self.unfinished.as_deref().unwrap_or(&self.finished)
    }

    /// Gives the copy its name, durably. Returns its path.
    pub(crate) fn keep(mut self) -> Result<PathBuf, StoreError> {
        let tried = "naming the copy of the database, which is complete";
        let failed = |source: io::Error| StoreError::Unavailable { tried, source: source.into() };
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
    fn a_copy_that_is_not_kept_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let finished = folder.path().join("copy.sqlite");
        let source = Connection::open_in_memory().unwrap();
        drop(DatabaseCopy::make(&source, &finished, "copying").unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(DatabaseCopy::make(&source, &finished, "copying").unwrap().keep().unwrap(), finished);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
