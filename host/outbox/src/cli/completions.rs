//! `completions`: a script for the user's shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::cli::output::to_stdout;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Writes to memory first: the generator panics where a pipe is closed.
pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "outbox", &mut script);
    to_stdout(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
