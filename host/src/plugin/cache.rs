//! Compiled code on disk, so that a restart does not compile again.
//!
//! Code from here is run as it is, so the folder is as trusted as the host's binary. Promises: a
//! folder that others may write is refused; a file is named by what it was made from and what made it,
//! written beside and renamed, never changed; one whose contents do not fit their digest is made anew.

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::hex;

const DIGEST_LEN: usize = 32;

/// A folder of compiled code that only this user can write.
#[derive(Debug)]
pub(super) struct CodeCache {
    dir: PathBuf,
}

impl CodeCache {
    /// Opens the folder, and makes it if it is not there.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("creating the cache folder {}", dir.display()))?;
        check_private(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The component that the bytes are, from the cache or compiled and put there.
    pub(super) fn compile(&self, engine: &Engine, digest: &str, bytes: &[u8]) -> wasmtime::Result<Component> {
        let path = self.path(engine, digest);
        if let Some(component) = load(engine, &path) {
            return Ok(component);
        }
        let component = Component::from_binary(engine, bytes)?;
        if let Err(reason) = self.store(&path, &component) {
            tracing::warn!(path = %path.display(), %reason, "compiled code could not be cached");
        }
        Ok(component)
    }

    fn path(&self, engine: &Engine, digest: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.dir.join(format!("{digest}-{:016x}.code", hasher.finish()))
    }

    fn store(&self, path: &Path, component: &Component) -> anyhow::Result<()> {
        let code = component.serialize()?;
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(&Sha256::digest(&code))?;
        file.write_all(&code)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(File::open(&self.dir)?.sync_all()?)
    }
}

fn check_private(dir: &Path) -> anyhow::Result<()> {
    let meta = fs::metadata(dir).with_context(|| format!("looking at the cache folder {}", dir.display()))?;
    // A file made by this process is owned by whom it runs as.
    let own = tempfile::NamedTempFile::new_in(dir)
        .and_then(|probe| probe.as_file().metadata())
        .with_context(|| format!("writing to the cache folder {}", dir.display()))?;
    if meta.uid() != own.uid() {
        bail!("the cache folder {} belongs to another user: compiled code there cannot be trusted", dir.display());
    }
    if meta.mode() & 0o022 != 0 {
        bail!("the cache folder {} can be written by others: make it private with chmod 700", dir.display());
    }
    Ok(())
}

fn load(engine: &Engine, path: &Path) -> Option<Component> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return None,
        Err(reason) => {
            tracing::warn!(path = %path.display(), %reason, "cached code could not be read");
            return None;
        }
    };
    let (digest, code) = bytes.split_at_checked(DIGEST_LEN)?;
    if Sha256::digest(code)[..] != *digest {
        tracing::warn!(path = %path.display(), sha256 = hex(digest), "cached code is damaged: compiling again");
        return None;
    }
    deserialize(engine, code)
}

#[expect(unsafe_code, reason = "the one place where compiled code is taken as it is; see SAFETY")]
fn deserialize(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: the bytes were written by `CodeCache::store` from a component that wasmtime compiled:
    // only this user can write the folder, the digest in the file fits its contents, and wasmtime
    // itself refuses code of another version or configuration.
    match unsafe { Component::deserialize(engine, code) } {
        Ok(component) => Some(component),
        Err(reason) => {
            tracing::warn!(%reason, "cached code does not fit this host: compiling again");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn code_is_found_again_and_made_anew_when_it_is_damaged() {
        let home = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(&home.path().join("cache")).unwrap();
        let (engine, bytes) = (Engine::default(), wat::parse_str("(component)").unwrap());
        cache.compile(&engine, "d", &bytes).unwrap();
        let [file] = &files(&cache.dir)[..] else { panic!("one file is expected") };
        assert!(load(&engine, file).is_some());
        let good = fs::read(file).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(file, bad).unwrap();
        assert!(load(&engine, file).is_none());
        cache.compile(&engine, "d", &bytes).unwrap();
        assert!(load(&engine, file).is_some());
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let err = CodeCache::open(home.path()).unwrap_err();
        assert!(err.to_string().contains("chmod 700"), "{err}");
    }
}
