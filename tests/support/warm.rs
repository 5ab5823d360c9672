//! The compiled code of the built components, copied from the host of one test to the next. Each host has a cache
//! folder of its own; without this copy, compiling would take most of the suite's time.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::guests;

/// A cache folder that starts with the code that earlier hosts compiled, and keeps the code of its own hosts.
pub(crate) struct WarmCache(PathBuf);

impl WarmCache {
    pub(crate) fn fill(cache: PathBuf) -> Self {
        copy(&kept(), &cache).expect("filling a cache folder");
        Self(cache)
    }
}

impl Drop for WarmCache {
    fn drop(&mut self) {
        // An error is ignored: a host may be removing files there now, and the next test keeps the same code.
        drop(copy(&self.0, &kept()));
    }
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("code")
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for folder in [from, to] {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    for file in fs::read_dir(from)? {
        let file = file?;
        let name = file.file_name().into_string().unwrap_or_default();
        if digests().iter().any(|digest| name.starts_with(digest)) && !to.join(&name).exists() {
            let mut fresh = tempfile::NamedTempFile::new_in(to)?;
            io::copy(&mut File::open(file.path())?, &mut fresh)?;
            fresh.persist(to.join(name))?;
        }
    }
    Ok(())
}

/// The digests of the built components. The file names of their compiled code begin with them.
fn digests() -> &'static [String] {
    static DIGESTS: OnceLock<Vec<String>> = OnceLock::new();
    DIGESTS.get_or_init(|| {
        let handlers = ["vector-upsert", "belief-recompute", "webhook"];
        let handlers = handlers.map(|name| guests::plugins().join(name).with_extension("wasm"));
        let files = handlers.into_iter().chain([guests::chaos(1), guests::chaos(2)]);
        files.map(|file| hex(&Sha256::digest(fs::read(file).expect("reading a component")))).collect()
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string");
        hex
    })
}
