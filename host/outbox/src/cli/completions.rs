//! `completions`: prints a completion script for a shell.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::output::to_stdout;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script for a command. Writes it to memory first, because the generator panics on a closed pipe.
pub(crate) fn run(args: &CompletionsArgs, command: &mut Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "outbox", &mut script);
    to_stdout(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
