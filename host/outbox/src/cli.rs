//! The command line: arguments in, tables for people or JSON for programs out.
//!
//! One file per group of verbs below `cli/`; `serve` is the composition root of the crate. Results go to
//! standard output, everything else to standard error. The exit code is 0 for success, 1 when something
//! failed, 2 when the arguments or the configuration cannot be used. A reader that closes the pipe ends
//! the command quietly. Verbs that look never create or migrate a database.

mod arguments;
mod completions;
mod control;
mod doctor;
mod enqueue;
pub(crate) mod filesystem;
mod items;
mod jobs;
mod migrate;
mod operate;
pub(crate) mod output;
pub(crate) mod plugin;
pub(crate) mod progress;
pub(crate) mod serve;
mod signals;
mod stats;
mod stuck;
mod transfer;

use crate::{bench, open_store};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::cli::output::Output;
use crate::config::{Config, ConfigError, Flags};
use crate::telemetry;
use outbox_store::Store;
use outbox_store::engine::alerts::AlertSettings;

/// A durable outbox whose side-effect handlers are WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "outbox", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct GlobalArgs {
    /// The SQLite file, or a PostgreSQL URL; overrides `OUTBOX_DB`
    #[arg(long, global = true, value_name = "DATABASE")]
    db: Option<String>,
    /// The configuration file; overrides `OUTBOX_CONFIG`
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<String>,
    /// How log lines look, text or json; overrides `OUTBOX_LOG`
    #[arg(long, global = true, value_name = "FORMAT")]
    log: Option<String>,
    /// Print JSON for programs instead of tables for people
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer HTTP and perform the effects of what is written
    Serve(serve::ServeArgs),
    /// Perform the effects of items; HTTP answers health and metrics only
    Worker(serve::WorkerArgs),
    /// Enqueue one item, or many from a file
    Enqueue(enqueue::EnqueueArgs),
    /// List items, newest first
    List(items::ListArgs),
    /// Show one item with its history
    Show(items::ShowArgs),
    Replay(operate::ReplayArgs),
    Dead(operate::DeadArgs),
    Restore(operate::RestoreArgs),
    Reschedule(operate::RescheduleArgs),
    Release(operate::ReleaseArgs),
    Unblock(control::UnblockArgs),
    /// Stop claiming items of a type; attempts under way go on
    Pause(control::TypeArgs),
    /// Claim items of a paused type again
    Resume(control::TypeArgs),
    /// Delete DONE or DLQ items with their history
    Purge(operate::PurgeArgs),
    Stuck(stuck::StuckArgs),
    Failures(stuck::FailuresArgs),
    Audit(stuck::AuditTrailArgs),
    /// Show bulk actions and how far they are
    Jobs(jobs::JobsArgs),
    Export(transfer::ExportArgs),
    Import(transfer::ImportArgs),
    /// Show the state of the outbox in numbers
    Stats,
    /// Show the signals of sagas, oldest first
    Signals(signals::SignalsArgs),
    /// Look at plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    Bench(bench::BenchArgs),
    /// Create the database, or bring it to the newest schema
    Migrate(migrate::MigrateArgs),
    /// Check everything that the outbox needs and say what to do
    Doctor,
    /// Print a script that completes commands in a shell
    Completions(completions::CompletionsArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let mut cli = Cli::parse();
    if let Command::Bench(args) = &mut cli.command {
        args.is_named = cli.global.db.is_some();
    }
    run(cli).unwrap_or_else(|err| report(&err))
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let output = Output::new(cli.global.json);
    let config = Config::load(flags(&cli));
    match cli.command {
        Command::Completions(args) => completions::run(&args),
        Command::Doctor => finish(doctor::run(config, output)),
        command => {
            let context = Context { config: config?, output };
            telemetry::start(context.config.log, context.log_filter(&command))?;
            finish(dispatch(command, context))
        }
    }
}

async fn dispatch(command: Command, context: Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::serve(args, &context.config).await,
        Command::Worker(args) => serve::worker(args, &context.config).await,
        Command::Enqueue(args) => enqueue::run(args, &context).await,
        Command::List(args) => items::list(args, &context).await,
        Command::Show(args) => items::show(args, &context).await,
        Command::Replay(args) => operate::replay(args, &context).await,
        Command::Dead(args) => operate::dead(args, &context).await,
        Command::Restore(args) => operate::restore(args, &context).await,
        Command::Reschedule(args) => operate::reschedule(args, &context).await,
        Command::Release(args) => operate::release(args, &context).await,
        Command::Unblock(args) => control::unblock(args, &context).await,
        Command::Pause(args) => control::pause(args, &context).await,
        Command::Resume(args) => control::resume(args, &context).await,
        Command::Purge(args) => operate::purge(args, &context).await,
        Command::Stuck(args) => stuck::stuck(args, &context).await,
        Command::Failures(args) => stuck::failures(args, &context).await,
        Command::Audit(args) => stuck::audit(args, &context).await,
        Command::Export(args) => transfer::export(args, &context).await,
        Command::Import(args) => transfer::import(args, &context).await,
        Command::Jobs(args) => jobs::run(args, &context).await,
        Command::Stats => stats::run(&context).await,
        Command::Signals(args) => signals::run(args, &context).await,
        Command::Plugin(args) => plugin::run(args, &context).await,
        Command::Bench(args) => bench::run(args, &context).await,
        Command::Migrate(args) => migrate::run(&args, &context).await,
        Command::Doctor | Command::Completions(_) => unreachable!("run without a configuration by `run`"),
    }
}

/// Runs a command to its end, and ends the process soon after even if a thread is still compiling.
fn finish(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("starting the threads of this process")?;
    let code = runtime.block_on(command);
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// What the command line says about settings, under the names of the variables that it overrides.
fn flags(cli: &Cli) -> Flags {
    let GlobalArgs { db, config, log, .. } = &cli.global;
    let global = [("OUTBOX_DB", db), ("OUTBOX_CONFIG", config), ("OUTBOX_LOG", log)];
    let mut flags: Flags =
        global.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value))).collect();
    match &cli.command {
        Command::Serve(args) => flags.extend(args.host.flags()),
        Command::Worker(args) => flags.extend(args.host.flags()),
        _ => {}
    }
    flags
}

/// What every verb works with.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) output: Output,
}

impl Context {
    /// The store as it is: created and migrated by nobody but `serve`, `worker`, `enqueue` and `migrate`.
    async fn existing_store(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(open_store::open_existing(&self.config, &instance(&self.config)).await?)
    }

    /// The store, created and migrated where that is needed.
    async fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(open_store::open(&self.config, &instance(&self.config)).await?)
    }

    /// Which log lines are written when nobody says: a host tells what it does, a verb only what is wrong.
    fn log_filter(&self, command: &Command) -> &str {
        let default = if matches!(command, Command::Serve(_) | Command::Worker(_)) { "info" } else { "warn" };
        self.config.log_filter.as_deref().unwrap_or(default)
    }
}

/// What operators are told by items of their own.
pub(crate) fn alert_settings(config: &Config) -> Option<AlertSettings> {
    config.alerts.clone().map(|item_type| AlertSettings { item_type, min_interval: config.alert_period })
}

/// A name of this process that no other boot has: where it runs, as what, and something random.
fn instance(config: &Config) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let host = &config.identity.host;
    match &config.role {
        Some(role) => format!("{role}-{host}-{}", &random[..8]),
        None => format!("{host}-{}", &random[..8]),
    }
}

/// Says what went wrong, unless nobody was there to read the result.
fn report(err: &anyhow::Error) -> ExitCode {
    let code = exit_code(err);
    if code != 0 {
        output::to_stderr(&format!("error: {err:#}"));
    }
    ExitCode::from(code)
}

fn exit_code(err: &anyhow::Error) -> u8 {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::BrokenPipe)
    };
    if err.chain().any(closed) {
        return 0;
    }
    let usage = err.is::<ConfigError>() || err.is::<telemetry::InvalidFilter>() || err.is::<arguments::UsageError>();
    if usage { 2 } else { 1 }
}

/// The path that a message names.
fn shown(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_reader_that_closed_the_pipe_is_not_a_failure() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert_eq!(exit_code(&closed), 0);
        assert_eq!(exit_code(&io::Error::from(io::ErrorKind::StorageFull).into()), 1);
        assert_eq!(exit_code(&arguments::UsageError(String::new()).into()), 2);
    }
}
