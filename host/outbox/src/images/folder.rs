//! The files of one image below the cache folder: its newest component, and those before it.
//!
//! Each image has a folder of its own, named by its digest, and the link `current` leads to the newest. The link is
//! replaced in one step, so a component is never seen with the signature of another. The manifest is a link to the
//! operator's file. Only this user can write the folders. It does not know which image is wanted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use outbox_core::sha256;
use outbox_registry::{ImageReference, PulledImage};
use outbox_runtime::private_folder;

/// The folder of all images in the cache folder.
const IMAGES: &str = "images";
/// The link to the newest image.
const CURRENT: &str = "current";
/// The file with the digest of the component. The runtime does not look at names that begin with a dot.
const COMPONENT: &str = ".component";
/// Images that are kept besides the newest, for the way back and to know what still runs.
const KEPT: usize = 3;
/// Beginnings of the names of what is being written.
const UNFINISHED: [&str; 2] = [".new-", ".link-"];
/// Age from which what is unfinished is a process's that has ended: writing takes seconds.
const UNFINISHED_AGE: Duration = Duration::from_hours(1);
/// Digits of a digest in the name of a folder: enough to distinguish the images of one user.
const SUFFIX_LEN: usize = 16;

/// The folder of one image.
#[derive(Clone, Debug)]
pub(crate) struct ImageFolder {
    cache: PathBuf,
    dir: PathBuf,
    name: String,
    /// Where the manifest may be. The first that exists is taken.
    manifests: Vec<PathBuf>,
}

impl ImageFolder {
    /// The folder of an image in a cache folder. Processes of one role share it.
    pub(crate) fn new(cache: &Path, image: &ImageReference, manifests: &Path, role: Option<&str>) -> Self {
        let name = image.name().to_owned();
        let key = format!("{image}\n{}", role.unwrap_or_default());
        let dir = cache.join(IMAGES).join(format!("{name}-{}", &sha256(key.as_bytes())[..SUFFIX_LEN]));
        let manifests = std::path::absolute(manifests).unwrap_or_else(|_| manifests.to_owned());
        let file = format!("{name}.toml");
        let of_role = role.map(|role| manifests.join(role).join(&file));
        let manifests = of_role.into_iter().chain([manifests.join(&file)]).collect();
        Self { cache: cache.to_owned(), dir, name, manifests }
    }

    /// The folder in which the runtime finds the component. It need not exist.
    pub(crate) fn current(&self) -> PathBuf {
        self.dir.join(CURRENT)
    }

    /// The component, as the runtime names it.
    pub(crate) fn component(&self) -> PathBuf {
        self.component_in(CURRENT)
    }

    fn component_in(&self, folder: &str) -> PathBuf {
        self.dir.join(folder).join(format!("{}.wasm", self.name))
    }

    /// The digest of the newest image, if its component is there.
    pub(crate) fn newest(&self) -> Option<String> {
        let folder = fs::read_link(self.current()).ok()?;
        digest_of(folder.file_name()?.to_str()?).filter(|_| self.component().is_file())
    }

    /// Whether an image is kept, with the component that was pulled. Reads all of it.
    pub(crate) fn has(&self, digest: &str) -> bool {
        let folder = folder_name(digest);
        let Ok(wanted) = fs::read_to_string(self.dir.join(&folder).join(COMPONENT)) else { return false };
        fs::read(self.component_in(&folder)).is_ok_and(|component| sha256(&component) == wanted)
    }

    /// The digest of the image of each component that is kept.
    pub(crate) fn images(&self) -> BTreeMap<String, String> {
        let of_folder = |name: &String| {
            let component = fs::read_to_string(self.dir.join(name).join(COMPONENT)).ok()?;
            Some((component, digest_of(name)?))
        };
        self.kept().iter().filter_map(of_folder).collect()
    }

    /// The folders of images, the newest first.
    fn kept(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let mut kept: Vec<_> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok().filter(|name| digest_of(name).is_some())?;
                Some((entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH), name))
            })
            .collect();
        kept.sort_by(|a, b| b.cmp(a));
        kept.into_iter().map(|(_, name)| name).collect()
    }

    /// Keeps an image and makes it the newest. Whatever fails, the one before stays. Errors with the reason.
    pub(crate) fn keep(&self, image: &PulledImage) -> Result<(), String> {
        self.check()?;
        self.write(image).and_then(|()| self.select_folder(&folder_name(&image.digest))).map_err(|err| {
            format!(
                "{}: {err}; make room, or set OUTBOX_CACHE_DIR to a folder that this user can write",
                self.dir.display()
            )
        })?;
        self.prune();
        Ok(())
    }

    /// Errors if somebody else could have written what is in the cache folder.
    pub(crate) fn check_cache(&self) -> Result<(), String> {
        private_folder(&self.cache).map(drop)
    }

    /// Errors if somebody else could have written the files, or if nothing can be written.
    fn check(&self) -> Result<(), String> {
        for dir in [&self.cache, &self.dir] {
            if !private_folder(dir)? {
                return Err(format!("{} is on a read-only file system: set OUTBOX_CACHE_DIR", dir.display()));
            }
        }
        Ok(())
    }

    fn write(&self, image: &PulledImage) -> io::Result<()> {
        let fresh = tempfile::Builder::new().prefix(UNFINISHED[0]).tempdir_in(&self.dir)?;
        let wasm = format!("{}.wasm", self.name);
        write(&fresh.path().join(&wasm), &image.component)?;
        write(&fresh.path().join(COMPONENT), image.component_digest.as_bytes())?;
        if let Some(signature) = &image.signature {
            write(&fresh.path().join(format!("{wasm}.minisig")), signature.as_bytes())?;
        }
        symlink(self.manifest(), fresh.path().join(format!("{}.toml", self.name)))?;
        let place = self.dir.join(folder_name(&image.digest));
        if self.has(&image.digest) {
            // Another process was faster.
            return Ok(());
        }
        match fs::remove_dir_all(&place) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        fs::rename(fresh.keep(), place)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Makes an image that is kept the newest. Errors with the reason.
    pub(crate) fn select(&self, digest: &str) -> Result<(), String> {
        self.check()?;
        self.select_folder(&folder_name(digest)).map_err(|err| format!("{}: {err}", self.dir.display()))
    }

    fn select_folder(&self, folder: &str) -> io::Result<()> {
        self.link(Path::new(folder), &self.current())?;
        self.link_manifest()
    }

    /// Lets the manifest be the operator's file as it is found now.
    pub(crate) fn link_manifest(&self) -> io::Result<()> {
        if self.newest().is_none() {
            return Ok(());
        }
        self.link(self.manifest(), &self.dir.join(CURRENT).join(format!("{}.toml", self.name)))
    }

    /// The operator's files that the manifest may be. The first that exists is taken.
    pub(crate) fn manifests(&self) -> &[PathBuf] {
        &self.manifests
    }

    fn manifest(&self) -> &Path {
        let found = self.manifests.iter().find(|file| file.exists());
        found.or(self.manifests.last()).map_or(Path::new(""), PathBuf::as_path)
    }

    /// Makes a link in one step, unless it leads there already.
    fn link(&self, target: &Path, link: &Path) -> io::Result<()> {
        if fs::read_link(link).is_ok_and(|present| present == target) {
            return Ok(());
        }
        let beside = tempfile::Builder::new().prefix(UNFINISHED[1]).tempdir_in(&self.dir)?;
        let fresh = beside.path().join("link");
        symlink(target, &fresh)?;
        fs::rename(fresh, link)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Deletes the oldest images, and what processes left that ended while they wrote. One that cannot be deleted stays
    /// until the next time.
    fn prune(&self) {
        let newest = self.newest().map(|digest| folder_name(&digest));
        let old = self.kept().into_iter().filter(|name| Some(name) != newest.as_ref()).skip(KEPT);
        for old in old.chain(self.left_behind()) {
            if let Err(reason) = fs::remove_dir_all(self.dir.join(&old)) {
                tracing::warn!(folder = %self.dir.display(), %reason, "an old image stays");
            }
        }
    }

    /// What was being written long ago.
    fn left_behind(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let is_old = |entry: &fs::DirEntry| {
            let written = entry.metadata().and_then(|meta| meta.modified());
            written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > UNFINISHED_AGE))
        };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let is_unfinished = |name: &String| UNFINISHED.iter().any(|prefix| name.starts_with(prefix));
        entries.filter_map(Result::ok).filter(is_old).filter_map(name).filter(is_unfinished).collect()
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The name of an image's folder: its digest without a colon, which some file systems refuse.
fn folder_name(digest: &str) -> String {
    digest.replacen(':', "-", 1)
}

fn digest_of(folder: &str) -> Option<String> {
    Some(format!("sha256:{}", folder.strip_prefix("sha256-")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        home: tempfile::TempDir,
        folder: ImageFolder,
    }

    impl Fixture {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let folder = Self::of(home.path(), None);
            Self { home, folder }
        }

        fn of(home: &Path, role: Option<&str>) -> ImageFolder {
            let image = "localhost:5000/team/p:stable".parse().unwrap();
            ImageFolder::new(&home.join("cache"), &image, &home.join("manifests"), role)
        }

        fn text(&self, end: &str) -> Option<String> {
            fs::read_to_string(self.folder.current().join(format!("p.{end}"))).ok()
        }
    }

    fn image(number: usize, signature: Option<&str>) -> PulledImage {
        let component = format!("component {number}").into_bytes();
        PulledImage {
            digest: format!("sha256:{number:064}"),
            component_digest: sha256(&component),
            component,
            signature: signature.map(str::to_owned),
        }
    }

    #[test]
    fn the_newest_image_is_seen_whole_and_those_before_are_known() {
        let f = Fixture::new();
        assert_eq!((f.folder.newest(), f.folder.images().len()), (None, 0));
        for number in 0..6 {
            let image = image(number, (number % 2 == 0).then_some("signed"));
            f.folder.keep(&image).unwrap();
            assert_eq!(f.text("wasm"), Some(format!("component {number}")));
            assert_eq!(f.text("wasm.minisig").is_some(), number % 2 == 0, "the signature is that of the component");
            assert_eq!(f.folder.newest(), Some(image.digest));
        }
        let images = f.folder.images();
        assert_eq!(
            (images.len(), images[&image(5, None).component_digest].as_str()),
            (KEPT + 1, image(5, None).digest.as_str())
        );
        let back = image(4, None).digest;
        assert!(f.folder.has(&back) && !f.folder.has(&image(0, None).digest));
        f.folder.select(&back).unwrap();
        assert_eq!(f.text("wasm").as_deref(), Some("component 4"));
    }

    #[test]
    fn the_manifest_is_the_operators_and_that_of_the_role_comes_first() {
        let f = Fixture::new();
        let of_role = ImageFolder { dir: f.folder.dir.clone(), ..Fixture::of(f.home.path(), Some("vector")) };
        of_role.keep(&image(1, None)).unwrap();
        assert_eq!(f.text("toml"), None);
        let manifests = f.home.path().join("manifests");
        fs::create_dir_all(manifests.join("vector")).unwrap();
        fs::write(manifests.join("p.toml"), "all").unwrap();
        assert_eq!(f.text("toml").as_deref(), Some("all"));
        fs::write(manifests.join("vector/p.toml"), "vector").unwrap();
        of_role.link_manifest().unwrap();
        assert_eq!(f.text("toml").as_deref(), Some("vector"));
        assert_ne!(Fixture::of(f.home.path(), Some("vector")).dir, f.folder.dir, "roles do not share a folder");
    }

    #[test]
    fn a_component_that_was_changed_is_not_kept_and_is_replaced() {
        let (f, image) = (Fixture::new(), image(1, Some("signed")));
        f.folder.keep(&image).unwrap();
        f.folder.keep(&image).unwrap();
        assert!(f.folder.has(&image.digest));
        fs::write(f.folder.component(), "another").unwrap();
        assert!(!f.folder.has(&image.digest));
        f.folder.keep(&image).unwrap();
        assert!(f.folder.has(&image.digest));
        fs::remove_dir_all(&f.folder.dir).unwrap();
        assert!(!f.folder.has(&image.digest));
    }

    #[test]
    fn what_a_process_left_unfinished_is_deleted_once_it_is_old() {
        let f = Fixture::new();
        f.folder.keep(&image(1, None)).unwrap();
        for name in [".new-old", ".link-old", ".new-fresh", "other"] {
            fs::create_dir(f.folder.dir.join(name)).unwrap();
        }
        let old = SystemTime::now() - 2 * UNFINISHED_AGE;
        for name in [".new-old", ".link-old", "other"] {
            File::open(f.folder.dir.join(name)).unwrap().set_modified(old).unwrap();
        }
        f.folder.keep(&image(2, None)).unwrap();
        let are_there = [".new-old", ".link-old", ".new-fresh", "other"].map(|name| f.folder.dir.join(name).exists());
        assert_eq!(are_there, [false, false, true, true]);
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let f = Fixture::new();
        fs::create_dir_all(&f.folder.dir).unwrap();
        fs::set_permissions(&f.folder.dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(f.folder.keep(&image(1, None)).unwrap_err().contains("chmod 700"));
        assert_eq!(f.folder.newest(), None);
    }
}
