//! `config`: shows every setting with its origin, or prints an example of the file.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::output::{Output, or_dash, table, to_stdout};
use crate::config::{Config, Flags, ShownSetting};

/// Show the settings and where each comes from
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: Option<ConfigCommand>,
    /// Print an outbox.toml with every key, its default and its meaning
    #[arg(long)]
    example: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every setting with its value and its origin; secrets are not shown
    Show,
}

pub(crate) fn run(args: &ConfigArgs, flags: Flags, output: Output) -> anyhow::Result<ExitCode> {
    if args.example {
        to_stdout(&Config::example())?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Config::shown(flags)?;
    output.emit(&settings, || rows(&settings))?;
    Ok(ExitCode::SUCCESS)
}

fn rows(settings: &[ShownSetting]) -> String {
    let row = |ShownSetting { key, value, origin }: &ShownSetting| {
        let value = or_dash(Some(value.as_str()).filter(|value| !value.is_empty()));
        [key.clone(), value, origin.clone()]
    };
    table(["SETTING", "VALUE", "ORIGIN"], settings.iter().map(row))
}
