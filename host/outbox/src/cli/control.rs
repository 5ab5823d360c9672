//! `unblock`, `pause` and `resume`: an operator's control of ordering keys and types.

use std::process::ExitCode;

use clap::Args;

use outbox_store::Control;

use crate::cli::arguments::{AuditArgs, execution};
use crate::cli::context::Context;
use crate::cli::requests::send_control;

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
    send_control(Control::Unblock { ordering_key: args.key }, execution(args.dry_run), args.audit, context).await
}

pub(crate) async fn pause(args: TypeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    send_control(Control::Pause { item_type: args.item_type }, execution(args.dry_run), args.audit, context).await
}

pub(crate) async fn resume(args: TypeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    send_control(Control::Resume { item_type: args.item_type }, execution(args.dry_run), args.audit, context).await
}
