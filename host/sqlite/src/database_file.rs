//! Which file the store has open, and whether its path still leads there.
//!
//! An operator or a program can remove or replace the file while connections to it are open. What is then written
//! through them is in a file that cannot be opened again, so the store refuses to use them. It does not know what is
//! written.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The database file, as the connections of this process have opened it.
pub(crate) struct DatabaseFile {
    path: PathBuf,
    opened: Mutex<Opened>,
}

/// What a generation of connections has opened.
struct Opened {
    paths: Paths,
    files: FileIds,
    generation: u64,
}

/// The paths of the database and of what SQLite keeps beside it.
struct Paths {
    database: PathBuf,
    log: PathBuf,
    index: PathBuf,
}

impl Paths {
    fn of(path: &Path) -> Self {
        Self { database: path.to_owned(), log: beside(path, "-wal"), index: beside(path, "-shm") }
    }
}

/// The device and the inode of a file.
type FileId = (u64, u64);

/// The database and the files that SQLite keeps beside it as long as a connection is open. `None` for one that is not
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIds {
    database: Option<FileId>,
    log: Option<FileId>,
    index: Option<FileId>,
}

impl FileIds {
    /// The files that are there now.
    fn at(paths: &Paths) -> Self {
        Self { database: id(&paths.database), log: id(&paths.log), index: id(&paths.index) }
    }

    /// What has happened to these files, if `now` are those at their paths.
    fn change(self, now: Self) -> Option<FileChange> {
        let is_kept = |before: Option<FileId>, now| before.is_none() || before == now;
        match (self.database == now.database, now.database) {
            (true, _) if is_kept(self.log, now.log) && is_kept(self.index, now.index) => None,
            (true, _) => Some(FileChange::LogLost),
            (false, None) => Some(FileChange::Removed),
            (false, Some(_)) if self.has_left_log(now) => Some(FileChange::ReplacedBesideOldLog),
            (false, Some(_)) => Some(FileChange::Replaced),
        }
    }

    /// Whether a file that belongs to the former database is still beside the new one.
    fn has_left_log(self, now: Self) -> bool {
        let is_left = |before: Option<FileId>, now| before.is_some() && before == now;
        is_left(self.log, now.log) || is_left(self.index, now.index)
    }
}

fn id(path: &Path) -> Option<FileId> {
    path.metadata().ok().map(|file| (file.dev(), file.ino()))
}

/// The path of a file that SQLite keeps beside the database. SQLite follows a symbolic link and keeps it beside the
/// target.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string();
    name.push(suffix);
    name.into()
}

/// What has happened to the files that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileChange {
    Removed,
    Replaced,
    ReplacedBesideOldLog,
    LogLost,
}

/// Why the open file must not be used: its path leads elsewhere.
#[derive(Debug)]
pub(crate) struct FileChanged {
    path: PathBuf,
    change: FileChange,
}

impl std::error::Error for FileChanged {}

impl fmt::Display for FileChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.change {
            FileChange::Removed => write!(
                f,
                "{path} was removed: nothing can be stored. Put the file back, and the host continues; or stop the \
                 host, and start it with a new file"
            ),
            FileChange::Replaced => write!(f, "{path} was replaced by another file, which is not open yet"),
            FileChange::ReplacedBesideOldLog => write!(
                f,
                "{path} was replaced, and {path}-wal or {path}-shm of the file before is still there: SQLite would \
                 mix the two. Remove both, and the host continues with the new file"
            ),
            FileChange::LogLost => write!(
                f,
                "{path}-wal or {path}-shm was removed or replaced while it was open: stop every process that uses \
                 the database, and start again. What a removed log held is in {path}"
            ),
        }
    }
}

impl DatabaseFile {
    /// The file at the path, of which a connection that writes is open.
    pub(crate) fn opened(path: &Path) -> Self {
        let paths = Paths::of(path);
        let opened = Opened { files: FileIds::at(&paths), paths, generation: 0 };
        Self { path: path.to_owned(), opened: Mutex::new(opened) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the present generation of connections. Errors when the path does not lead to the open file.
    pub(crate) fn check(&self) -> Result<u64, FileChanged> {
        let opened = self.lock();
        match opened.files.change(FileIds::at(&opened.paths)) {
            None => Ok(opened.generation),
            Some(change) => Err(self.changed(change)),
        }
    }

    /// Whether the log is gone and nothing is in its place: then the connections have the only copy of what it held.
    pub(crate) fn has_lost_log(&self) -> bool {
        let opened = self.lock();
        let now = FileIds::at(&opened.paths);
        opened.files.change(now) == Some(FileChange::LogLost) && now.log.is_none()
    }

    /// The files at the path, which a new connection may open. Errors unless they are the open ones, or others that do
    /// not belong to the former database.
    pub(crate) fn find(&self) -> Result<FileIds, FileChanged> {
        let now = FileIds::at(&Paths::of(&self.path));
        match self.lock().files.change(now) {
            None | Some(FileChange::Replaced) => Ok(now),
            Some(change) => Err(self.changed(change)),
        }
    }

    /// Makes the files at the path the open ones, after a connection that writes has opened what [`Self::find`]
    /// returned. Connections of earlier generations are not used any more.
    pub(crate) fn reopened(&self, found: FileIds) -> Result<(), FileChanged> {
        let paths = Paths::of(&self.path);
        let files = FileIds::at(&paths);
        if files.database != found.database {
            return Err(self.changed(FileChange::Replaced));
        }
        let mut opened = self.lock();
        *opened = Opened { paths, files, generation: opened.generation + 1 };
        Ok(())
    }

    fn changed(&self, change: FileChange) -> FileChanged {
        FileChanged { path: self.path.clone(), change }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: FileIds = FileIds { database: Some((1, 10)), log: Some((1, 11)), index: Some((1, 12)) };

    #[test]
    fn files_with_the_same_device_and_inode_are_the_open_ones() {
        assert_eq!(OPEN.change(OPEN), None);
        let without_log = FileIds { log: None, index: None, ..OPEN };
        assert_eq!(without_log.change(OPEN), None, "there was no log when the file was opened");
    }

    #[test]
    fn a_file_on_another_device_is_another_file_although_its_inode_is_the_same() {
        let elsewhere = FileIds { database: Some((2, 10)), log: None, index: None };
        assert_eq!(OPEN.change(elsewhere), Some(FileChange::Replaced));
    }

    #[test]
    fn a_new_file_is_not_opened_beside_the_log_of_the_former_one() {
        let database = Some((1, 20));
        assert_eq!(OPEN.change(FileIds { database, ..OPEN }), Some(FileChange::ReplacedBesideOldLog));
        let only_index = FileIds { database, log: None, ..OPEN };
        assert_eq!(OPEN.change(only_index), Some(FileChange::ReplacedBesideOldLog));
        let new_log = FileIds { database, log: Some((1, 21)), index: None };
        assert_eq!(OPEN.change(new_log), Some(FileChange::Replaced));
    }

    #[test]
    fn a_file_without_its_log_is_not_used() {
        assert_eq!(OPEN.change(FileIds { log: None, ..OPEN }), Some(FileChange::LogLost));
        assert_eq!(OPEN.change(FileIds { index: Some((1, 99)), ..OPEN }), Some(FileChange::LogLost));
        assert_eq!(OPEN.change(FileIds { database: None, ..OPEN }), Some(FileChange::Removed));
    }
}
