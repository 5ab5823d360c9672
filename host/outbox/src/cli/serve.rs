//! `serve` and `worker`: their arguments. The host itself is in `host.rs`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::output::whole_error;
use crate::config::ConfigError;
use crate::host::{self, HostMode, HostStart};

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

/// The flags of a process that hosts plugins.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Where to answer HTTP; overrides `OUTBOX_LISTEN`
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The role of this process; overrides `OUTBOX_ROLE`
    #[arg(long)]
    role: Option<String>,
    /// The folder of plugins, or images; overrides `OUTBOX_PLUGINS`
    #[arg(long, value_name = "FOLDER")]
    plugins: Option<String>,
    /// Attempts in flight, of this process; overrides `OUTBOX_CONCURRENCY`
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<String>,
    /// Listen beyond this machine without a token: something in front of the outbox checks who calls
    #[arg(long)]
    allow_unauthenticated: bool,
}

impl HostArgs {
    /// The settings that the flags make, under the names of their variables.
    pub(crate) fn flags(&self) -> impl Iterator<Item = (&'static str, String)> {
        let flags = [
            ("OUTBOX_LISTEN", &self.listen),
            ("OUTBOX_ROLE", &self.role),
            ("OUTBOX_PLUGINS", &self.plugins),
            ("OUTBOX_CONCURRENCY", &self.concurrency),
        ];
        flags.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value)))
    }
}

pub(crate) async fn serve(args: ServeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mode = if context.config.is_enabled { HostMode::ServeDurable } else { HostMode::ServeInline };
    run(&args.host, mode, context).await
}

pub(crate) async fn worker(args: WorkerArgs, context: &Context) -> anyhow::Result<ExitCode> {
    run(&args.host, HostMode::Work, context).await
}

async fn run(args: &HostArgs, mode: HostMode, context: &Context) -> anyhow::Result<ExitCode> {
    let Context { config, flags, log, .. } = context;
    if !args.allow_unauthenticated {
        config.require_authentication()?;
    }
    match host::run(HostStart { mode, config, flags, log }).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(err) if err.is::<ConfigError>() => Err(err),
        // A reader of standard error that does not read must not keep a host that has failed.
        Err(err) => {
            log.print(&format!("error: {}", whole_error(&err)));
            Ok(ExitCode::FAILURE)
        }
    }
}
