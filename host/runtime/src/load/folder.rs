//! The plugin folders as files: which components are in them, whether they have changed, and their contents.
//!
//! It follows symbolic links, so a link to another file counts as a change. It knows nothing about the meaning of the
//! files.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outbox_core::ComponentDigest;

use crate::load::manifest::limits::COMPONENT_MAX;
use crate::load::private_dir::LateDir;
use crate::load::source::{PluginPath, PluginSource};
use crate::settings::{ImageDir, PluginSettings};

/// Bytes of a manifest or a signature: more than people write.
const MANIFEST_MAX: u64 = 1 << 20;

/// The roots of the plugin folders and, if the process has a role, the sub-folder of the role in each.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    roots: Vec<PathBuf>,
    role: Option<String>,
    /// The roots in the cache folder.
    images: Vec<ImageDir>,
    cache: LateDir,
}

/// The state of a plugin's files, from which a change is seen without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    wasm: FileStamp,
    manifest: Option<FileStamp>,
    signature: Option<FileStamp>,
}

impl Stamp {
    /// The present state of a component, its manifest and its signature.
    pub(crate) fn of(file: &Path, manifest: &Path) -> io::Result<Self> {
        Ok(Self {
            wasm: stamp(file)?,
            manifest: if_exists(stamp(manifest))?,
            signature: if_exists(stamp(&signature_of(file)))?,
        })
    }

    /// Whether there is a manifest beside the component.
    pub(crate) fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }

    /// Whether none of the files changed within the `time` before `now`, by the clock of the file system.
    pub(crate) fn is_unchanged_for(&self, time: Duration, now: SystemTime) -> bool {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let until = i64::try_from(since_epoch.saturating_sub(time).as_secs()).unwrap_or(i64::MAX);
        let files = [Some(self.wasm), self.manifest, self.signature];
        files.into_iter().flatten().all(|file| file.changed.0 < until)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Folder {
    /// The folders of a process. They need not exist. Those in the cache folder are looked at once this user alone can
    /// write it.
    pub(crate) fn of(settings: &PluginSettings) -> Self {
        let (images, cache) = (settings.image_dirs.clone(), settings.cache());
        let roots = settings.dirs.iter().chain(images.iter().map(|image| &image.dir)).cloned().collect();
        Self { roots, role: settings.role.clone(), images, cache }
    }

    fn may_count(&self, dir: &Path) -> bool {
        self.image_of(dir).is_none() || self.cache.get().is_some()
    }

    /// The image that a path belongs to.
    fn image_of(&self, path: &Path) -> Option<&ImageDir> {
        self.images.iter().find(|image| path.starts_with(&image.dir))
    }

    /// The image whose component has the name of this file of another folder. Only one of the two can run.
    pub(crate) fn namesake(&self, path: &PluginPath) -> Option<&str> {
        let is_named_so = |image: &&ImageDir| path.file.file_stem() == Some(image.name.as_ref());
        let image = self.images.iter().find(is_named_so).filter(|_| self.image_of(&path.file).is_none())?;
        Some(&image.image)
    }

    /// The roots and the folders of the role.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let of_role = self.roots.iter().filter_map(|root| Some(root.join(self.role.as_ref()?)));
        self.roots.iter().cloned().chain(of_role).collect()
    }

    /// The components in the folders. A folder that does not exist has none.
    pub(crate) fn list(&self) -> io::Result<Vec<PluginPath>> {
        let mut paths = Vec::new();
        for dir in self.directories().into_iter().filter(|dir| self.may_count(dir)) {
            let is_root = self.roots.contains(&dir);
            paths.extend(components(&dir)?.into_iter().map(|file| PluginPath { is_root, file }));
        }
        Ok(paths)
    }

    /// The present state of a plugin's files.
    pub(crate) fn stamp(&self, path: &PluginPath) -> io::Result<Stamp> {
        Stamp::of(&path.file, &self.manifest_of(&path.file))
    }

    /// The role whose folder a plugin is in; `None` for the root.
    pub(crate) fn role_of(&self, path: &PluginPath) -> Option<String> {
        self.role.clone().filter(|_| !path.is_root)
    }

    /// Reads a plugin's files.
    pub(crate) fn read(&self, path: &PluginPath) -> io::Result<PluginSource> {
        let mut source = read_with(&path.file, &self.manifest_of(&path.file))?;
        source.role = self.role_of(path);
        if let Some(image) = self.image_of(&path.file) {
            source.manifest_files.clone_from(&image.manifests);
        }
        Ok(source)
    }

    /// The manifest of a component: of an image, the first of the operator's files that exists. The link beside the
    /// component leads to the one that a host found last.
    fn manifest_of(&self, file: &Path) -> PathBuf {
        let files = self.image_of(file).map_or(&[][..], |image| &image.manifests);
        let found = files.iter().find(|manifest| manifest.exists()).or(files.last());
        found.cloned().unwrap_or_else(|| manifest_of(file))
    }
}

/// Reads a component with the manifest and the signature beside it. The plugin has no role.
pub(crate) fn read_source(file: &Path) -> io::Result<PluginSource> {
    read_with(file, &manifest_of(file))
}

fn read_with(file: &Path, manifest: &Path) -> io::Result<PluginSource> {
    // One byte more than any manifest allows, so that a component that is too large fails the size check.
    let wasm = read_bounded(file, COMPONENT_MAX + 1)?;
    let text = |path: &Path| {
        let bytes = if_exists(read_bounded(path, MANIFEST_MAX))?;
        io::Result::Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(PluginSource {
        name,
        role: None,
        file: file.to_owned(),
        digest: ComponentDigest::of(&wasm),
        wasm: Arc::new(wasm),
        manifest: text(manifest)?,
        manifest_files: vec![manifest_of(file)],
        signature: text(&signature_of(file))?,
    })
}

/// `None` if a file does not exist.
fn if_exists<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The manifest beside a component.
pub(crate) fn manifest_of(file: &Path) -> PathBuf {
    file.with_extension("toml")
}

fn signature_of(file: &Path) -> PathBuf {
    file.with_extension("wasm.minisig")
}

fn components(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| is_component(path)).collect())
}

/// Names that begin with a dot belong to files that are being written and to the targets of links.
fn is_component(path: &Path) -> bool {
    let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|extension| extension == "wasm") && path.is_file()
}

fn stamp(path: &Path) -> io::Result<FileStamp> {
    let meta = fs::metadata(path)?;
    Ok(FileStamp {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    /// What may lie in a folder under a name.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum FolderEntry {
        File,
        Folder,
        LinkToFile,
        LinkToNothing,
    }

    fn entries() -> impl Strategy<Value = Vec<(bool, String, FolderEntry)>> {
        let name = prop_oneof![3 => "[.a-c ü]{0,2}[a-c][.]wasm", 1 => "[.a-cW]{1,6}"];
        let kind = prop::sample::select(vec![
            FolderEntry::File,
            FolderEntry::Folder,
            FolderEntry::LinkToFile,
            FolderEntry::LinkToNothing,
        ]);
        prop::collection::vec((any::<bool>(), name, kind), 0..12)
    }

    /// Makes the entry, unless its name is taken or none; says whether it was made.
    fn make(dir: &Path, name: &str, entry: FolderEntry, target: &Path) -> bool {
        let path = dir.join(name);
        if name.chars().all(|c| c == '.') || path.symlink_metadata().is_ok() {
            return false;
        }
        match entry {
            FolderEntry::File => fs::write(path, name).unwrap(),
            FolderEntry::Folder => fs::create_dir(path).unwrap(),
            FolderEntry::LinkToFile => symlink(target, path).unwrap(),
            FolderEntry::LinkToNothing => symlink(dir.join("nowhere at all"), path).unwrap(),
        }
        true
    }

    proptest! {
        #[test]
        fn whatever_lies_in_the_folders_exactly_the_components_are_listed_and_all_can_be_read(entries in entries()) {
            let home = tempfile::tempdir().unwrap();
            let (root, target) = (home.path().join("plugins"), home.path().join("target"));
            fs::create_dir_all(root.join("role")).unwrap();
            fs::write(&target, "linked").unwrap();
            let mut expected = BTreeSet::new();
            for (is_root, name, entry) in &entries {
                let dir = if *is_root { root.clone() } else { root.join("role") };
                let is_file = matches!(entry, FolderEntry::File | FolderEntry::LinkToFile);
                let is_named_so = !name.starts_with('.') && Path::new(name).extension().is_some_and(|ext| ext == "wasm");
                if make(&dir, name, *entry, &target) && is_file && is_named_so {
                    expected.insert(dir.join(name));
                }
            }
            let cache = LateDir::new(&home.path().join("cache"));
            let folder =
                Folder { roots: vec![root.clone()], role: Some("role".into()), images: Vec::new(), cache };
            let paths = folder.list().unwrap();
            for path in &paths {
                prop_assert_eq!(path.is_root, path.file.parent() == Some(&root));
                prop_assert_eq!(folder.read(path).unwrap().digest.as_str().len(), 64);
                prop_assert_eq!(folder.stamp(path).unwrap(), folder.stamp(path).unwrap());
            }
            prop_assert_eq!(paths.into_iter().map(|path| path.file).collect::<BTreeSet<_>>(), expected);
        }
    }

    #[test]
    fn the_manifest_of_an_image_is_the_first_file_that_exists_wherever_the_link_leads() {
        let home = tempfile::tempdir().unwrap();
        let manifests = ["role/p.toml", "p.toml"].map(|name| home.path().join("manifests").join(name));
        let dir = home.path().join("current");
        for folder in [&dir, &home.path().join("manifests/role")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(dir.join("p.wasm"), "p").unwrap();
        symlink(&manifests[1], dir.join("p.toml")).unwrap();
        let path = PluginPath { is_root: true, file: dir.join("p.wasm") };
        let (name, image) = ("p".to_owned(), "oci://r.example/p:1".to_owned());
        let image = ImageDir { dir, name, image, manifests: manifests.to_vec() };
        let cache = LateDir::new(home.path());
        let folder = Folder { roots: Vec::new(), role: None, images: vec![image], cache };
        let has = |manifest: Option<&str>| {
            assert_eq!(folder.read(&path).unwrap().manifest.as_deref(), manifest);
            assert_eq!(folder.stamp(&path).unwrap().has_manifest(), manifest.is_some());
        };
        has(None);
        fs::write(&manifests[0], "of the role").unwrap();
        has(Some("of the role"));
        fs::write(&manifests[1], "general").unwrap();
        has(Some("of the role"));
        fs::remove_file(&manifests[0]).unwrap();
        has(Some("general"));
    }

    #[test]
    fn a_file_with_the_name_of_an_image_is_found_in_every_folder_but_that_of_the_image() {
        let image = ImageDir {
            dir: "/cache/images/p/current".into(),
            name: "p".to_owned(),
            image: "oci://r.example/p:1".to_owned(),
            manifests: Vec::new(),
        };
        let cache = LateDir::new(Path::new("/cache"));
        let folder = Folder { roots: vec!["/plugins".into()], role: None, images: vec![image], cache };
        let namesake = |file: &str| folder.namesake(&PluginPath { is_root: true, file: file.into() });
        for file in ["/plugins/p.wasm", "/plugins/vector/p.wasm"] {
            assert_eq!(namesake(file), Some("oci://r.example/p:1"), "{file}");
        }
        assert_eq!((namesake("/plugins/q.wasm"), namesake("/cache/images/p/current/p.wasm")), (None, None));
    }
}
