//! A folder that only this user can write, with files that only this user has written.
//!
//! The host runs code and follows manifests from this folder. So a file is read only if it is an ordinary file that
//! this user owns and no other user can write; the check uses the handle that the file is then read with. Other users
//! cannot create such a file, even if they redirect a path, so the files need no signature of their own. Files are
//! written beside their final place and renamed, never changed.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use rustix::fs::{OFlags, StatVfsMountFlags, statvfs};
use rustix::process::geteuid;

/// Mode bits that let the group and others write.
const OTHERS_WRITE: u32 = 0o022;

/// Why the cache folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivateDirError {
    /// The folder does not exist and cannot be created.
    #[error("creating the cache folder {dir}")]
    Create {
        /// The folder.
        dir: String,
        /// The error of the file system.
        source: io::Error,
    },
    /// The owner and the permissions of the folder cannot be read.
    #[error("looking at the cache folder {dir}")]
    Inspect {
        /// The folder.
        dir: String,
        /// The error of the file system.
        source: io::Error,
    },
    /// No file can be created in the folder.
    #[error("writing to the cache folder {dir}")]
    Write {
        /// The folder.
        dir: String,
        /// The error of the file system.
        source: io::Error,
    },
    /// Another user owns the folder.
    #[error("the cache folder {dir} belongs to another user: what lies there cannot be trusted")]
    ForeignOwner {
        /// The folder.
        dir: String,
    },
    /// Other users can write to the folder.
    #[error("the cache folder {dir} can be written by others: make it private with chmod 700")]
    WritableByOthers {
        /// The folder.
        dir: String,
    },
}

/// A folder that only this user can write, or nobody.
#[derive(Clone, Debug)]
pub(crate) struct PrivateDir {
    dir: PathBuf,
    owner: u32,
    is_read_only: bool,
}

impl PrivateDir {
    /// Opens the folder, and creates it if it does not exist. Errors if another user owns it or can write to it.
    pub(crate) fn open(dir: &Path) -> Result<Self, PrivateDirError> {
        let shown = || dir.display().to_string();
        let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        created.map_err(|source| PrivateDirError::Create { dir: shown(), source })?;
        let meta = fs::metadata(dir).map_err(|source| PrivateDirError::Inspect { dir: shown(), source })?;
        // The owner of a new file is the user that this process runs as.
        let probe = tempfile::NamedTempFile::new_in(dir).and_then(|probe| probe.as_file().metadata());
        let (owner, is_read_only) = match probe {
            Ok(own) => (own.uid(), false),
            Err(err) if err.kind() == io::ErrorKind::ReadOnlyFilesystem => (geteuid().as_raw(), true),
            Err(source) => return Err(PrivateDirError::Write { dir: shown(), source }),
        };
        let opened = Self { dir: dir.to_owned(), owner, is_read_only };
        opened.check(&meta)?;
        Ok(opened)
    }

    /// Opens a folder that is there, to read what this user has written. Writes nothing, also no probe.
    pub(crate) fn open_to_read(dir: &Path) -> Result<Self, PrivateDirError> {
        let meta = fs::metadata(dir);
        let meta = meta.map_err(|source| PrivateDirError::Inspect { dir: dir.display().to_string(), source })?;
        let mount = statvfs(dir);
        let is_read_only = mount.is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY));
        let opened = Self { dir: dir.to_owned(), owner: geteuid().as_raw(), is_read_only };
        opened.check(&meta)?;
        Ok(opened)
    }

    /// Whether the file system is read-only, as that of an image is.
    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// On a read-only file system files of root are accepted too: root made the image.
    fn is_owned(&self, meta: &Metadata) -> bool {
        meta.uid() == self.owner || self.is_read_only && meta.uid() == 0
    }

    fn check(&self, meta: &Metadata) -> Result<(), PrivateDirError> {
        let dir = self.dir.display().to_string();
        if !self.is_owned(meta) {
            return Err(PrivateDirError::ForeignOwner { dir });
        }
        if meta.mode() & OTHERS_WRITE != 0 {
            return Err(PrivateDirError::WritableByOthers { dir });
        }
        Ok(())
    }

    /// Reads a file; `None` if it does not exist. Errors if another user owns it or can write to it.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // Does not follow a link and does not wait for the other end of a pipe.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(self.dir.join(name)) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        let meta = file.metadata()?;
        if !meta.is_file() || !self.is_owned(&meta) || meta.mode() & OTHERS_WRITE != 0 {
            let words = format!("{} is not a file that this user alone can write: delete it", self.display_path(name));
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Writes a file in one step and replaces an existing one.
    pub(crate) fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.as_file().sync_all()?;
        file.persist(self.dir.join(name))?;
        File::open(&self.dir)?.sync_all()
    }

    /// The names of the files, the newest first.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Another process may have deleted the file meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.extend(entry.file_name().into_string().ok().map(|name| (written, name)));
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|(_, name)| name).filter(|name| !name.starts_with('.')).collect())
    }

    /// Deletes a file if it exists.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    /// The path of a file, for messages.
    pub(crate) fn display_path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// A private folder that is opened when it is needed, and tried again until it can be: an operator may correct its rights
/// while the host runs.
#[derive(Clone, Debug)]
pub(crate) struct LateDir {
    /// The folder that must be private too, if there is one.
    above: Option<PathBuf>,
    dir: PathBuf,
    is_only_read: bool,
    opened: OnceLock<PrivateDir>,
}

impl LateDir {
    /// A folder that is not opened yet.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { above: None, dir: dir.to_owned(), is_only_read: false, opened: OnceLock::new() }
    }

    /// A folder in which nothing is written, and which is not created.
    pub(crate) fn to_read(dir: &Path) -> Self {
        Self { is_only_read: true, ..Self::new(dir) }
    }

    /// Whether nothing is to be written.
    pub(crate) fn is_only_read(&self) -> bool {
        self.is_only_read
    }

    /// A folder inside this one, which must be private too.
    pub(crate) fn folder(&self, name: &str) -> Self {
        Self { above: Some(self.dir.clone()), dir: self.dir.join(name), opened: OnceLock::new(), ..*self }
    }

    /// The folder; `None` while it cannot be used.
    pub(crate) fn get(&self) -> Option<&PrivateDir> {
        if self.opened.get().is_none() {
            let open = if self.is_only_read { PrivateDir::open_to_read } else { PrivateDir::open };
            let above = self.above.as_deref().map(open).transpose();
            let dir = above.and_then(|_| open(&self.dir)).ok()?;
            return Some(self.opened.get_or_init(|| dir));
        }
        self.opened.get()
    }
}

impl From<PrivateDir> for LateDir {
    fn from(opened: PrivateDir) -> Self {
        Self { opened: OnceLock::from(opened.clone()), ..Self::new(&opened.dir) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn private(home: &tempfile::TempDir) -> PrivateDir {
        PrivateDir::open(&home.path().join("cache")).unwrap()
    }

    #[test]
    fn a_folder_that_others_own_or_can_write_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = private(&home);
        let meta = fs::metadata(&dir.dir).unwrap();
        let stranger = PrivateDir { owner: dir.owner + 1, ..dir.clone() };
        assert!(stranger.check(&meta).unwrap_err().to_string().contains("another user"));
        for mode in [0o777, 0o770, 0o702] {
            fs::set_permissions(&dir.dir, fs::Permissions::from_mode(mode)).unwrap();
            let err = PrivateDir::open(&dir.dir).unwrap_err();
            assert!(err.to_string().contains("chmod 700"), "{err}");
        }
    }

    #[test]
    fn a_file_counts_only_when_this_user_alone_can_have_written_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = private(&home);
        dir.write("own", &[b"a", b"b"]).unwrap();
        assert_eq!(dir.read("own").unwrap().as_deref(), Some(&b"ab"[..]));
        assert_eq!(dir.read("none").unwrap(), None);

        let stranger = PrivateDir { owner: dir.owner + 1, ..dir.clone() };
        assert_eq!(stranger.read("own").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        symlink(dir.dir.join("own"), dir.dir.join("link")).unwrap();
        assert!(dir.read("link").is_err(), "a link is not followed");
        fs::create_dir(dir.dir.join("folder")).unwrap();
        assert!(dir.read("folder").is_err());
        fs::set_permissions(dir.dir.join("own"), fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(dir.read("own").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_folder_whose_rights_are_corrected_is_opened_then() {
        let home = tempfile::tempdir().unwrap();
        let may = |mode| fs::set_permissions(home.path(), fs::Permissions::from_mode(mode)).unwrap();
        let (cache, good) = (LateDir::new(home.path()), LateDir::new(home.path()).folder("good"));
        may(0o777);
        assert!(cache.get().is_none() && good.get().is_none());
        may(0o700);
        assert!(cache.get().is_some() && good.get().is_some());
    }

    #[test]
    fn a_folder_that_is_only_read_is_neither_created_nor_written() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("cache");
        let (cache, good) = (LateDir::to_read(&place), LateDir::to_read(&place).folder("good"));
        assert!(cache.get().is_none() && good.get().is_none() && !place.exists());
        PrivateDir::open(&place).unwrap().write("own", &[b"a"]).unwrap();
        assert_eq!(cache.get().unwrap().read("own").unwrap().as_deref(), Some(&b"a"[..]));
        assert!(good.get().is_none() && fs::read_dir(&place).unwrap().count() == 1);
        fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(LateDir::to_read(&place).get().is_none(), "others can write it");
    }
}
