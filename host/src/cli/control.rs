//! `unblock`, `pause` and `resume`: an operator's word on keys and types.

use std::process::ExitCode;

use clap::Args;

use super::Context;
use super::arguments::AuditArgs;
use super::operate;
use super::output::count;
use crate::store::{Command, Control, Controlled, Run};

/// Let what waits behind dead-lettered items of an ordering key go on without them
///
/// The dead items stay in the DLQ; a replay of one puts it in front of its key again.
#[derive(Debug, Args)]
pub(super) struct Unblock {
    /// The ordering key
    key: String,
    /// Only say what would be unblocked
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

/// A type, and who says why.
#[derive(Debug, Args)]
pub(super) struct OfType {
    /// The type
    #[arg(value_name = "TYPE")]
    item_type: String,
    /// Only say whether anything would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(super) async fn unblock(args: Unblock, context: &Context) -> anyhow::Result<ExitCode> {
    say(Control::Unblock { ordering_key: args.key }, args.dry_run, args.audit, context).await
}

pub(super) async fn pause(args: OfType, context: &Context) -> anyhow::Result<ExitCode> {
    say(Control::Pause { item_type: args.item_type }, args.dry_run, args.audit, context).await
}

pub(super) async fn resume(args: OfType, context: &Context) -> anyhow::Result<ExitCode> {
    say(Control::Resume { item_type: args.item_type }, args.dry_run, args.audit, context).await
}

/// Carries out a command and tells what became of it. What is so already is no failure.
pub(super) async fn say(
    control: Control,
    dry_run: bool,
    audit: AuditArgs,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let (actor, reason) = audit.who_and_why(context);
    let command = Command { control, actor, reason, run: operate::run(dry_run) };
    let controlled = store.control(&command).await?;
    context.output.emit(&controlled, || told(&command, &controlled))?;
    Ok(ExitCode::SUCCESS)
}

fn told(command: &Command, controlled: &Controlled) -> String {
    let (verb, subject) = command.control.words();
    let items = match controlled.items.len() as u64 {
        0 => String::new(),
        items => format!(", past {}", count(items, "dead item")),
    };
    match (controlled.changed, command.run) {
        (false, _) => format!("{verb} {subject}: nothing to do"),
        (true, Run::Dry) => format!("{verb} {subject}: would be done{items}"),
        (true, Run::Real) => format!("{verb} {subject}: done{items}"),
    }
}
