//! Finds, installs and runs the third-party tools that make components.
//!
//! Installed tools are kept in the cache folder, under a digest of their lock file. All projects share them. A version
//! of this program that needs other tools installs them beside these.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use crate::cli::output::Output;
use crate::cli::plugin::kit;
use crate::cli::plugin::kit::Files;
use crate::filesystem::shown;

/// A program that must be installed.
pub(crate) struct Program {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// Arguments with which it only succeeds.
    pub(crate) probe: &'static [&'static str],
    /// Its purpose, for the error message.
    pub(crate) purpose: &'static str,
    /// How to install it, for the error message.
    pub(crate) install: &'static str,
}

/// The folder of installed tools, and the output for progress messages.
pub(crate) struct Tools {
    dir: PathBuf,
    output: Output,
}

impl Tools {
    pub(crate) fn new(cache_dir: &Path, output: Output) -> Self {
        Self { dir: cache_dir.join("tools"), output }
    }

    /// Tells people which step begins.
    pub(crate) fn step(&self, what: &str) {
        self.output.hint(&format!("{what} …"));
    }

    /// The folder with the tools that `files` describe. Calls `install` with a new folder unless they are installed.
    pub(crate) fn installed(
        &self,
        what: &str,
        files: Files,
        install: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let folder = self.dir.join(format!("{what}-{:016x}", fingerprint(files)));
        if folder.is_dir() {
            return Ok(folder);
        }
        self.step(&format!("installing {what} into {}, once", shown(&folder)));
        std::fs::create_dir_all(&self.dir).with_context(|| format!("making {}", shown(&self.dir)))?;
        let draft = tempfile::Builder::new().prefix(".installing-").tempdir_in(&self.dir);
        let draft = draft.with_context(|| format!("making a folder in {}", shown(&self.dir)))?;
        kit::write(draft.path(), files)?;
        install(draft.path()).with_context(|| format!("installing {what}"))?;
        match std::fs::rename(draft.path(), &folder) {
            // Another process installed the same tools at the same time.
            Err(_) if folder.is_dir() => Ok(folder),
            renamed => renamed.map(|()| folder).with_context(|| format!("installing {what}")),
        }
    }
}

impl Program {
    /// Errors when the program is missing; the error says how to install it.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let missing = || format!("{} needs {}, which does not run here: {}", self.purpose, self.name, self.install);
        let probe = Command::new(self.name).args(self.probe).stdin(Stdio::null()).output();
        match probe {
            Ok(probe) if probe.status.success() => Ok(()),
            Ok(_) => bail!(missing()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => bail!(missing()),
            Err(err) => Err(err).with_context(missing),
        }
    }
}

/// A command with an empty standard input.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns its standard output. If it fails, its output is the error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("running {name}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).trim().to_owned());
    bail!("{name} failed ({}):\n{}", output.status, said.join("\n").trim());
}

fn fingerprint(files: Files) -> u64 {
    let mut hash = Sha256::new();
    for (path, text) in files {
        hash.update(path);
        hash.update([0]);
        hash.update(text);
        hash.update([0]);
    }
    let digest = hash.finalize();
    u64::from_be_bytes(std::array::from_fn(|at| digest[at]))
}
