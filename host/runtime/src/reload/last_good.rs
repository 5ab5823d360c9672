//! The last good versions of each plugin, kept so that a restart can run one when the file in the folder
//! is broken or quarantined.
//!
//! One file contains a component with its manifest and its signature, so the parts of two versions cannot be mixed.
//! This module does not decide what is good, nor whether a kept version still loads.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use outbox_core::{ComponentDigest, sha256};

use crate::load::folder::manifest_of;
use crate::load::private_dir::{LateDir, PrivateDir};
use crate::load::source::PluginSource;

/// Versions that are kept of each plugin: the last good one, and one more in case the last one is quarantined later.
const KEPT: usize = 2;
/// Digits of a path's digest in a file name: enough to distinguish the plugins of one user.
const PREFIX_LEN: usize = 16;

/// The folder of the kept versions.
#[derive(Debug)]
pub(crate) struct LastGoodStore {
    dir: LateDir,
}

/// The first line of a file, before the bytes of the component.
#[derive(Serialize, Deserialize)]
struct StoredHeader {
    digest: ComponentDigest,
    manifest: Option<String>,
    signature: Option<String>,
}

impl LastGoodStore {
    /// A store in this folder. It keeps nothing while the folder cannot be used.
    pub(crate) fn new(dir: LateDir) -> Self {
        Self { dir }
    }

    fn dir(&self) -> Option<&PrivateDir> {
        self.dir.get().filter(|dir| !dir.is_read_only())
    }

    /// The folder, where it is not only read.
    fn writable(&self) -> Option<&PrivateDir> {
        self.dir().filter(|_| !self.dir.is_only_read())
    }

    /// Keeps a version as the newest good one of its plugin.
    pub(crate) fn keep(&self, source: &PluginSource) -> io::Result<()> {
        let Some(dir) = self.writable() else { return Ok(()) };
        let PluginSource { digest, manifest, signature, .. } = source.clone();
        let name = format!("{}{digest}", prefix(&source.file));
        let mut header = serde_json::to_vec(&StoredHeader { digest, manifest, signature })?;
        header.push(b'\n');
        dir.write(&name, &[&header, &source.wasm])?;
        for old in names(dir, &source.file)?.into_iter().filter(|kept| *kept != name).skip(KEPT - 1) {
            dir.remove(&old)?;
        }
        Ok(())
    }

    /// The undamaged versions of a plugin, the newest first.
    pub(crate) fn versions_of(&self, file: &Path, role: Option<&str>) -> Vec<PluginSource> {
        let Some(dir) = self.dir() else { return Vec::new() };
        let names = names(dir, file).unwrap_or_else(|reason| {
            tracing::warn!(%reason, "the last good components could not be listed");
            Vec::new()
        });
        names.iter().filter_map(|name| read(dir, name, file, role)).collect()
    }

    /// Deletes the versions of a plugin that was removed.
    pub(crate) fn forget(&self, file: &Path) -> io::Result<()> {
        let Some(dir) = self.writable() else { return Ok(()) };
        for name in names(dir, file)? {
            dir.remove(&name)?;
        }
        Ok(())
    }
}

fn names(dir: &PrivateDir, file: &Path) -> io::Result<Vec<String>> {
    let prefix = prefix(file);
    Ok(dir.names()?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

fn read(dir: &PrivateDir, name: &str, file: &Path, role: Option<&str>) -> Option<PluginSource> {
    let bytes = dir.read(name);
    let bytes = bytes.inspect_err(|reason| tracing::warn!(%reason, "a last good component is left alone"));
    let source = decode(&bytes.ok().flatten()?, file, role);
    if source.is_none() {
        tracing::warn!(path = dir.display_path(name), "a last good component is damaged and left alone");
    }
    source
}

fn decode(bytes: &[u8], file: &Path, role: Option<&str>) -> Option<PluginSource> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let StoredHeader { digest, manifest, signature } = serde_json::from_slice(&bytes[..end]).ok()?;
    let wasm = bytes[end + 1..].to_vec();
    if ComponentDigest::of(&wasm) != digest {
        return None;
    }
    let name = file.file_stem()?.to_string_lossy().into_owned();
    let (role, file, manifest_files) = (role.map(str::to_owned), file.to_owned(), vec![manifest_of(file)]);
    Some(PluginSource { name, role, file, wasm: Arc::new(wasm), digest, manifest, manifest_files, signature })
}

/// The beginning of the names of one plugin's files. It depends on the path, because several folders may contain
/// plugins of one name.
fn prefix(file: &Path) -> String {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    format!("{}-", &sha256(file.as_os_str().as_encoded_bytes())[..PREFIX_LEN])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn source(file: &str, wasm: &str) -> PluginSource {
        PluginSource {
            name: "p".into(),
            role: None,
            file: PathBuf::from(file),
            wasm: Arc::new(wasm.into()),
            digest: ComponentDigest::of(wasm.as_bytes()),
            manifest: Some(format!("# of\n# {wasm}")),
            manifest_files: Vec::new(),
            signature: None,
        }
    }

    fn kept(good: &LastGoodStore, file: &str) -> Vec<String> {
        let sources = good.versions_of(Path::new(file), None).into_iter();
        sources.map(|source| String::from_utf8(source.wasm.to_vec()).unwrap()).collect()
    }

    #[test]
    fn the_two_newest_of_each_plugin_are_kept_with_what_belongs_to_them() {
        let home = tempfile::tempdir().unwrap();
        let good = LastGoodStore::new(LateDir::new(&home.path().join("good")));
        for wasm in ["a", "b\nb", "c", "b\nb"] {
            good.keep(&source("/x/p.wasm", wasm)).unwrap();
        }
        good.keep(&source("/y/p.wasm", "other")).unwrap();
        assert_eq!(kept(&good, "/x/p.wasm"), ["b\nb", "c"]);
        assert_eq!(good.versions_of(Path::new("/x/p.wasm"), None)[1].manifest.as_deref(), Some("# of\n# c"));
        good.forget(Path::new("/x/p.wasm")).unwrap();
        assert_eq!((kept(&good, "/x/p.wasm").len(), kept(&good, "/y/p.wasm").len()), (0, 1));
    }

    #[test]
    fn a_folder_that_is_only_read_keeps_what_it_has() {
        let home = tempfile::tempdir().unwrap();
        let [good, looked_at] = [LateDir::new(home.path()), LateDir::to_read(home.path())].map(LastGoodStore::new);
        good.keep(&source("/x/p.wasm", "a")).unwrap();
        looked_at.keep(&source("/x/p.wasm", "b")).unwrap();
        looked_at.forget(Path::new("/x/p.wasm")).unwrap();
        assert_eq!((kept(&looked_at, "/x/p.wasm"), kept(&good, "/x/p.wasm")), (vec!["a".into()], vec!["a".into()]));
    }

    #[test]
    fn what_was_changed_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let good = LastGoodStore::new(LateDir::new(&home.path().join("good")));
        good.keep(&source("/x/p.wasm", "a")).unwrap();
        let path = std::fs::read_dir(home.path().join("good")).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&b""[..], b"{}", &whole[..whole.len() - 1], &[&whole[..], b"!"].concat()] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(kept(&good, "/x/p.wasm").len(), 0);
        }
    }
}
