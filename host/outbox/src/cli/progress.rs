//! A progress bar: one line on standard error that is overwritten. It is shown only on a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use crate::cli::output::to_stderr;

/// The progress of one task. `show` overwrites the line, `finish` ends it.
pub(crate) struct ProgressBar {
    is_shown: bool,
    what: &'static str,
    total: u64,
}

impl ProgressBar {
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        Self { is_shown: io::stderr().is_terminal() && total > 0, what, total }
    }

    pub(crate) fn show(&mut self, done: u64) {
        const WIDTH: u64 = 30;
        if !self.is_shown {
            return;
        }
        let done = done.min(self.total);
        let full = usize::try_from(done * WIDTH / self.total).unwrap_or_default();
        let line = format!("\r{} [{:30}] {done} of {}", self.what, "#".repeat(full), self.total);
        self.is_shown = io::stderr().write_all(line.as_bytes()).is_ok();
    }

    pub(crate) fn finish(&self) {
        if self.is_shown {
            to_stderr("");
        }
    }
}
