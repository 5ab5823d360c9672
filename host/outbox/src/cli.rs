//! The command line: parses arguments, runs a verb, and reports errors with an exit code.
//!
//! Each group of verbs has a file below `cli/`. Results go to standard output, everything else to standard error. The
//! exit code is 0 for success, 1 for a failure, and 2 when the arguments or the configuration cannot be used. A reader
//! that closes the pipe ends the command without an error. Verbs that only read never create or migrate a database.

mod arguments;
mod backup;
mod completions;
mod config;
mod confirm;
mod consent;
pub(crate) mod context;
mod control;
mod doctor;
mod enqueue;
mod groups;
mod items;
mod jobs;
mod man;
mod migrate;
mod operate;
pub(crate) mod output;
mod plugin;
pub(crate) mod progress;
mod requests;
mod serve;
mod signals;
mod stats;
mod stuck;
mod token;
mod top;
mod transfer;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::bench::{self, BenchPlace};
use crate::cli::context::Context;
use crate::cli::output::{Output, OutputFormat, TimeForm};
use crate::config::{Config, ConfigError, Flags, TelemetrySettings, command_line, without_users};
use crate::telemetry::{InvalidFilter, Log};

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
#[command(next_help_heading = "Global options")]
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
    /// Print points in time in UTC, as the log has them, instead of their distance from now
    #[arg(long, global = true)]
    utc: bool,
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
    /// Stop claiming items of a type or of a fairness key; attempts under way go on
    Pause(control::TypeArgs),
    /// Claim items of a paused type or fairness key again
    Resume(control::TypeArgs),
    /// Delete DONE or DLQ items with their history
    Purge(operate::PurgeArgs),
    Top(top::TopArgs),
    Stuck(stuck::StuckArgs),
    Failures(stuck::FailuresArgs),
    Audit(stuck::AuditTrailArgs),
    /// Show bulk actions and how far they are
    Jobs(jobs::JobsArgs),
    Export(transfer::ExportArgs),
    Import(transfer::ImportArgs),
    /// Show the state of the outbox in numbers
    Stats(stats::StatsArgs),
    /// Show the signals of sagas, oldest first
    Signals(signals::SignalsArgs),
    /// Look at plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    Bench(bench::BenchArgs),
    /// Create the database, or bring it to the newest schema
    Migrate(migrate::MigrateArgs),
    Backup(backup::BackupArgs),
    Config(config::ConfigArgs),
    /// Make tokens for callers of the HTTP server
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Check everything that the outbox needs and say what to do
    Doctor,
    /// Print a script that completes commands in a shell
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// Runs the command of this process and returns its exit code.
pub fn main() -> ExitCode {
    let matches = groups::grouped(Cli::command()).try_get_matches();
    let mut cli = matches.and_then(|matches| Cli::from_arg_matches(&matches)).unwrap_or_else(|err| refuse(&err));
    if let Command::Bench(args) = &mut cli.command {
        args.place = if cli.global.db.is_some() { BenchPlace::BesideDatabase } else { BenchPlace::Temporary };
    }
    run(cli).unwrap_or_else(|err| report(&err))
}

/// Tells what is wrong with the arguments, or the help that they ask for, and ends the process. clap repeats words that it
/// does not take, and a URL among them may have a password.
fn refuse(err: &clap::Error) -> ! {
    let told = err.to_string();
    let shown = without_users(&told);
    if shown == told {
        err.exit();
    }
    output::to_stderr(shown.trim_end());
    std::process::exit(err.exit_code())
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let format = if cli.global.json { OutputFormat::Json } else { OutputFormat::Human };
    let output = Output::new(format, if cli.global.utc { TimeForm::Utc } else { TimeForm::Distance });
    let flags = flags(&cli);
    if let Command::Config(args) = &cli.command {
        return config::run(args, flags, output);
    }
    if let Command::Token(command) = &cli.command {
        return token::run(command, output);
    }
    let config = Config::load(flags.clone());
    match cli.command {
        Command::Completions(args) => completions::run(&args, &mut Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command(), output),
        Command::Doctor => finish(doctor::run(config, output)),
        command => {
            let config = config?;
            let telemetry = if is_host(&command) { config.telemetry.clone() } else { TelemetrySettings::default() };
            let log = Log::start(config.log, log_filter(&command, &config), &telemetry)?;
            finish(dispatch(command, Context { config, flags, output, arguments: command_line(), log }))
        }
    }
}

async fn dispatch(command: Command, context: Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::serve(args, &context).await,
        Command::Worker(args) => serve::worker(args, &context).await,
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
        Command::Top(args) => top::run(args, &context).await,
        Command::Stuck(args) => stuck::stuck(args, &context).await,
        Command::Failures(args) => stuck::failures(args, &context).await,
        Command::Audit(args) => stuck::audit(args, &context).await,
        Command::Export(args) => transfer::export(args, &context).await,
        Command::Import(args) => transfer::import(args, &context).await,
        Command::Jobs(args) => jobs::run(args, &context).await,
        Command::Stats(args) => stats::run(args, &context).await,
        Command::Signals(args) => signals::run(args, &context).await,
        Command::Plugin(args) => plugin::run(args, &context).await,
        Command::Bench(args) => bench::run(args, &context).await,
        Command::Migrate(args) => migrate::run(&args, &context).await,
        Command::Backup(args) => backup::run(&args, &context),
        Command::Doctor | Command::Completions(_) | Command::Man(_) | Command::Config(_) | Command::Token(_) => {
            unreachable!("run without a configuration by `run`")
        }
    }
}

/// Runs a command to its end. Then waits at most a second for threads, which may still compile a component.
fn finish(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("starting the threads of this process")?;
    let code = runtime.block_on(command);
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// The settings that the flags make, under the names of the variables that they override.
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

/// What a host logs by default: its work, and what its handlers log.
const HOST_LOG: &str = "info,wasmtime_wasi_http=off";
/// What a verb logs by default: problems. Its own output shows what handlers log.
const VERB_LOG: &str = "warn,wasmtime_wasi_http=off,outbox::plugin::log=off";

/// The filter of log lines. Both defaults leave out the sandbox's own HTTP lines: a handler can cause any number of them,
/// and they name neither the plugin nor the item. Nothing is logged over the screen of `top`.
fn log_filter<'a>(command: &Command, config: &'a Config) -> &'a str {
    if matches!(command, Command::Top(args) if args.hides_the_log()) {
        return "off";
    }
    let default = if is_host(command) { HOST_LOG } else { VERB_LOG };
    config.log_filter.as_deref().unwrap_or(default)
}

fn is_host(command: &Command) -> bool {
    matches!(command, Command::Serve(_) | Command::Worker(_))
}

/// Prints an error, unless the error is that the reader of the result is gone.
fn report(err: &anyhow::Error) -> ExitCode {
    let code = exit_code(err);
    if code != 0 {
        output::to_stderr(&format!("error: {}", output::whole_error(err)));
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
    let usage = err.is::<ConfigError>() || err.is::<InvalidFilter>() || err.is::<arguments::UsageError>();
    if usage { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
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
