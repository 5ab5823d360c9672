//! Asks the person at the terminal before something is deleted.

use std::io::{self, IsTerminal as _};

use crate::cli::output::to_stderr;

/// Whether a person can answer on standard input.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// Asks a question on standard error and reads the answer from standard input. Every answer but yes means no.
pub(crate) fn is_confirmed(question: &str) -> anyhow::Result<bool> {
    to_stderr(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
