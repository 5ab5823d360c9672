//! Clocks that a test gives to processes, and that it moves while they run.
//!
//! The library of `faketime` reads the difference from the true time in a file, at each look at the clock. The monotonic
//! clock stays true.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::guests::place;

/// The clock of some processes. It is true until it is moved.
#[derive(Debug)]
pub(crate) struct ProcessClock {
    file: PathBuf,
}

impl ProcessClock {
    /// A clock that is kept in this file. The processes must be able to read it.
    pub(crate) fn in_file(path: &Path) -> Self {
        let clock = Self { file: path.to_owned() };
        clock.set(0);
        clock
    }

    /// From now on the clock is so many seconds ahead of the true time; behind it when the number is negative.
    pub(crate) fn set(&self, seconds: i64) {
        place(format!("{seconds:+}").as_bytes(), &self.file);
    }

    /// The environment of a process with this clock.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let file = self.file.display().to_string();
        let mut settings = preloaded();
        settings.extend([("FAKETIME_TIMESTAMP_FILE", file), ("FAKETIME_NO_CACHE", "1".into())]);
        settings
    }
}

/// The environment of a process whose clock always differs from the true time as `offset` says, such as `+10m`.
pub(crate) fn offset_by(offset: &str) -> Vec<(&'static str, String)> {
    let mut settings = preloaded();
    settings.push(("FAKETIME", offset.into()));
    settings
}

/// What every process needs whose clock differs: the library, as `faketime` names it, which leaves other clocks alone.
fn preloaded() -> Vec<(&'static str, String)> {
    // Several threads look at the clock.
    let output = Command::new("faketime").args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).output();
    let library = String::from_utf8(output.expect("faketime is installed: `make tools`").stdout).expect("a path");
    let yes = || "1".to_owned();
    vec![("LD_PRELOAD", library.trim().to_owned()), ("FAKETIME_DONT_FAKE_MONOTONIC", yes()), ("NO_FAKE_STAT", yes())]
}
