//! Compiled code on disk, so that a restart does not compile again.
//!
//! The host runs code from here without validating it, so the files must be as trustworthy as the host's binary: only
//! this user can write them ([`PrivateDir`]). A file's name contains the digest of the component and the
//! configuration of the engine. A file whose contents do not match its name is compiled again.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::load::private_dir::{LateDir, PrivateDir};

/// Bytes of the digest at the start of a file.
const DIGEST_LEN: usize = 32;
/// Files that are kept besides those in use: several versions of a dozen plugins, also of other processes.
const KEPT: usize = 64;
const SUFFIX: &str = ".code";

/// A folder of compiled code.
#[derive(Debug)]
pub(crate) struct CodeCache {
    dir: LateDir,
    /// The digests of the components that this process follows. Their code is not removed.
    in_use: Mutex<HashSet<String>>,
}

impl CodeCache {
    /// A cache in this folder. Nothing is in it while the folder cannot be used.
    pub(crate) fn new(dir: impl Into<LateDir>) -> Self {
        Self { dir: dir.into(), in_use: Mutex::default() }
    }

    /// Keeps the code of the components with these digests, and of no others that were in use before.
    pub(crate) fn keep(&self, digests: HashSet<String>) {
        *self.in_use() = digests;
    }

    /// The component with this digest, if the cache has it.
    pub(crate) fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        load(self.dir.get()?, engine, &file_name(engine, digest))
    }

    /// Takes a component from the cache, or compiles it and adds it to the cache. Also says whether the cache has it now.
    /// `digest` is that of `bytes`.
    pub(crate) fn compile(&self, engine: &Engine, digest: &str, bytes: &[u8]) -> wasmtime::Result<(Component, bool)> {
        let Some(dir) = self.dir.get() else { return Ok((Component::from_binary(engine, bytes)?, false)) };
        let name = file_name(engine, digest);
        // Another load may have compiled it since this one looked.
        if let Some(component) = load(dir, engine, &name) {
            return Ok((component, true));
        }
        let component = Component::from_binary(engine, bytes)?;
        if self.dir.is_only_read() {
            return Ok((component, false));
        }
        let stored = self.store(dir, &name, &component);
        if let Err(reason) = &stored {
            tracing::warn!(path = dir.display_path(&name), %reason, "compiled code could not be cached");
        }
        Ok((component, stored.is_ok()))
    }

    fn in_use(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, dir: &PrivateDir, name: &str, component: &Component) -> wasmtime::Result<()> {
        let code = component.serialize()?;
        dir.write(name, &[&seal(name, &code), &code])?;
        let in_use = self.in_use();
        let is_in_use = |name: &String| name.split_once('-').is_some_and(|(digest, _)| in_use.contains(digest));
        let code_files = dir.names()?.into_iter().filter(|name| name.ends_with(SUFFIX));
        for old in code_files.filter(|name| !is_in_use(name)).skip(KEPT) {
            dir.remove(&old)?;
        }
        Ok(())
    }
}

fn load(dir: &PrivateDir, engine: &Engine, name: &str) -> Option<Component> {
    let read = dir.read(name);
    let read = read.inspect_err(|reason| tracing::warn!(%reason, "cached code is left alone: compiling again"));
    let bytes = read.ok().flatten()?;
    let sealed = bytes.split_at_checked(DIGEST_LEN);
    let Some((_, code)) = sealed.filter(|(digest, code)| seal(name, code)[..] == **digest) else {
        tracing::warn!(path = dir.display_path(name), "cached code is damaged: compiling again");
        return None;
    };
    deserialize(engine, code)
}

/// The file name for a component's digest and an engine's configuration.
fn file_name(engine: &Engine, digest: &str) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{digest}-{:016x}{SUFFIX}", hasher.finish())
}

/// The digest of code together with its file name, so that a renamed file is not accepted.
fn seal(name: &str, code: &[u8]) -> [u8; DIGEST_LEN] {
    Sha256::new().chain_update(name).chain_update([0]).chain_update(code).finalize().into()
}

#[expect(unsafe_code, reason = "the only place where compiled code is loaded without compiling; see SAFETY")]
fn deserialize(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: `CodeCache::store` wrote these bytes, from a component that wasmtime compiled: `PrivateDir::read` accepts
    // only files that no other user can have written, the digest in the file matches its name and contents, and
    // wasmtime itself refuses code of another version or configuration.
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
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    use super::*;

    struct Fixture {
        cache: CodeCache,
        engine: Engine,
        home: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let cache = CodeCache::new(PrivateDir::open(&home.path().join("cache")).unwrap());
            Self { cache, engine: Engine::default(), home }
        }

        /// Compiles a component as the one of a digest and answers the path of its code.
        fn compile(&self, digest: &str, text: &str) -> PathBuf {
            self.cache.compile(&self.engine, digest, &wat::parse_str(text).unwrap()).unwrap();
            self.path(digest)
        }

        fn path(&self, digest: &str) -> PathBuf {
            self.home.path().join("cache").join(file_name(&self.engine, digest))
        }

        fn is_cached(&self, digest: &str) -> bool {
            self.cache.get(&self.engine, digest).is_some()
        }
    }

    #[test]
    fn code_is_found_again_and_made_anew_when_it_was_tampered_with() {
        let f = Fixture::new();
        let path = f.compile("d", "(component)");
        let other = f.compile("other", "(component (core module))");
        assert!(f.is_cached("d"));
        let good = fs::read(&path).unwrap();
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            bytes
        };
        for (what, bytes) in [
            ("changed", with(&|bytes| *bytes.last_mut().unwrap() ^= 1)),
            ("cut", with(&|bytes| bytes.truncate(bytes.len() / 2))),
            ("shorter than its digest", with(&|bytes| bytes.truncate(5))),
            ("longer", with(&|bytes| bytes.push(0))),
            ("swapped for another component's", fs::read(&other).unwrap()),
        ] {
            fs::write(&path, bytes).unwrap();
            assert!(!f.is_cached("d"), "{what}");
            f.compile("d", "(component)");
            assert!(f.is_cached("d"), "{what}");
        }
    }

    #[test]
    fn code_that_others_could_have_written_is_not_run() {
        let f = Fixture::new();
        let path = f.compile("d", "(component)");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!f.is_cached("d"), "others can write it");
        f.compile("d", "(component)");
        assert!(f.is_cached("d"), "it was made anew");
        let elsewhere = f.home.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(!f.is_cached("d"), "it lies elsewhere");
        f.compile("d", "(component)");
        assert!(f.is_cached("d") && !Path::is_symlink(&path), "the link was replaced, not followed");
    }

    #[test]
    fn the_code_of_the_components_in_use_stays_however_many_they_are() {
        let f = Fixture::new();
        let digest = |number: usize| format!("d{number}");
        f.cache.keep((0..KEPT + 9).map(digest).collect());
        for number in 0..KEPT + 9 {
            f.compile(&digest(number), "(component)");
        }
        assert!((0..KEPT + 9).all(|number| f.is_cached(&digest(number))));
        f.cache.keep((1..KEPT + 9).map(digest).collect());
        for number in 0..KEPT {
            f.compile(&format!("e{number}"), "(component)");
        }
        assert!(!f.is_cached("d0") && f.is_cached("d1"), "only what is in use stays");
    }

    #[test]
    fn a_folder_whose_rights_are_corrected_is_used_from_then_on() {
        let home = tempfile::tempdir().unwrap();
        let may = |mode| fs::set_permissions(home.path(), fs::Permissions::from_mode(mode)).unwrap();
        let (cache, engine) = (CodeCache::new(LateDir::new(home.path())), Engine::default());
        let is_kept = || cache.compile(&engine, "d", &wat::parse_str("(component)").unwrap()).unwrap().1;
        may(0o777);
        assert!(!is_kept() && cache.get(&engine, "d").is_none());
        may(0o700);
        assert!(is_kept() && cache.get(&engine, "d").is_some());
    }

    #[test]
    fn the_cache_does_not_grow_without_bound() {
        let f = Fixture::new();
        for number in 0..KEPT + 3 {
            f.compile(&format!("d{number}"), "(component)");
        }
        assert_eq!(f.cache.dir.get().unwrap().names().unwrap().len(), KEPT);
        assert!(f.is_cached(&format!("d{}", KEPT + 2)), "the newest stay");
    }
}
