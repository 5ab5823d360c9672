//! The verbs below `plugin`: dispatch only. Each verb has its own file below `plugin/`.

mod build;
mod check;
mod compile;
mod inspect;
mod kit;
mod list;
mod new;
mod pull;
mod push;
mod quarantine;
mod replay_item;
mod rollback;
mod sign;
mod state;
mod switch;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::context::Context;

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List the plugins of running hosts; without one, those that a host would load
    List,
    New(new::NewArgs),
    Build(build::BuildArgs),
    /// Show what a component is, asks for and is granted
    Inspect {
        /// The component's file
        file: PathBuf,
    },
    Compile(compile::CompileArgs),
    Sign(sign::SignArgs),
    Push(push::PushArgs),
    Pull(pull::PullArgs),
    Test(test::TestArgs),
    Check(check::CheckArgs),
    Switch(switch::SwitchArgs),
    /// List the components that were withdrawn because they kept faulting
    Quarantine,
    /// Let a quarantined component run again
    Release(quarantine::LiftQuarantineArgs),
    Rollback(rollback::RollbackArgs),
    /// Run a handler on an item's failed attempt again, with the recorded answers and without touching anything
    ReplayItem(replay_item::ReplayItemArgs),
    /// Look at what plugins keep, or remove it
    #[command(subcommand)]
    State(state::StateCommand),
}

pub(crate) async fn run(args: PluginCommand, context: &Context) -> anyhow::Result<ExitCode> {
    match args {
        PluginCommand::List => list::run(context).await,
        PluginCommand::New(args) => new::run(args, context),
        PluginCommand::Build(args) => build::run(&args, context),
        PluginCommand::Inspect { file } => inspect::run(&file, context).await,
        PluginCommand::Compile(args) => compile::run(args, context).await,
        PluginCommand::Sign(args) => sign::run(&args, context),
        PluginCommand::Push(args) => push::run(args, context).await,
        PluginCommand::Pull(args) => pull::run(args, context).await,
        PluginCommand::Test(args) => test::run(args, context).await,
        PluginCommand::Check(args) => check::run(args, context).await,
        PluginCommand::Switch(args) => switch::run(args, context).await,
        PluginCommand::Quarantine => quarantine::list(context).await,
        PluginCommand::Release(args) => quarantine::release(args, context).await,
        PluginCommand::Rollback(args) => rollback::run(args, context).await,
        PluginCommand::ReplayItem(args) => replay_item::run(args, context).await,
        PluginCommand::State(args) => state::run(args, context).await,
    }
}
