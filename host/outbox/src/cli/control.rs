//! `unblock`, `pause` and `resume`: an operator's word on keys and types.

use std::process::ExitCode;

use clap::Args;

use crate::cli::arguments::AuditArgs;
use crate::cli::output::count;
use crate::cli::{Context, operate};
use outbox_store::{Control, ControlReport, ControlRequest, Execution};

/// Let what waits behind dead-lettered items of an ordering key go on without them
///
/// The dead items stay in the DLQ; a replay of one puts it in front of its key again.
#[derive(Debug, Args)]
pub(crate) struct UnblockArgs {
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
pub(crate) struct TypeArgs {
    /// The type
    #[arg(value_name = "TYPE")]
    item_type: String,
    /// Only say whether anything would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn unblock(args: UnblockArgs, context: &Context) -> anyhow::Result<ExitCode> {
    send_control(Control::Unblock { ordering_key: args.key }, args.dry_run, args.audit, context).await
}

pub(crate) async fn pause(args: TypeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    send_control(Control::Pause { item_type: args.item_type }, args.dry_run, args.audit, context).await
}

pub(crate) async fn resume(args: TypeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    send_control(Control::Resume { item_type: args.item_type }, args.dry_run, args.audit, context).await
}

/// Carries out a command and tells what became of it. What is so already is no failure.
pub(crate) async fn send_control(
    control: Control,
    dry_run: bool,
    audit: AuditArgs,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let (actor, reason) = audit.actor_and_reason(context);
    let request = ControlRequest { control, actor, reason, execution: operate::execution(dry_run) };
    let report = store.control(&request).await?;
    context.output.emit(&report, || summary(&request, &report))?;
    Ok(ExitCode::SUCCESS)
}

fn summary(request: &ControlRequest, report: &ControlReport) -> String {
    let (verb, subject) = request.control.action_and_target();
    let items = match report.items.len() as u64 {
        0 => String::new(),
        items => format!(", past {}", count(items, "dead item")),
    };
    match (report.changed, request.execution) {
        (false, _) => format!("{verb} {subject}: nothing to do"),
        (true, Execution::DryRun) => format!("{verb} {subject}: would be done{items}"),
        (true, Execution::Apply) => format!("{verb} {subject}: done{items}"),
    }
}
