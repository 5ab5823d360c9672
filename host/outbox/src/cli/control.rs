//! `unblock`, `pause` and `resume`: an operator's control of ordering keys and types.

use std::process::ExitCode;

use clap::Args;

use outbox_store::{Control, unknown_ordering_key};

use crate::cli::arguments::{AuditArgs, execution, not_forced};
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
    /// Also a key that no unfinished and no dead item has
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

/// A type, and who says why.
#[derive(Debug, Args)]
pub(crate) struct TypeArgs {
    /// The type
    #[arg(value_name = "TYPE", required_unless_present = "all")]
    item_type: Option<String>,
    /// Every type of which there are items, that a running host serves, or that is paused
    #[arg(long, conflicts_with = "item_type")]
    all: bool,
    /// Only say whether anything would change
    #[arg(long)]
    dry_run: bool,
    /// Also a type of which there is no item and that no plugin serves
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn unblock(args: UnblockArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    if !args.force
        && let Some(unknown) = unknown_ordering_key(&*store, &args.key).await?
    {
        return Err(not_forced(&unknown));
    }
    let control = Control::Unblock { ordering_key: args.key };
    send_control(&*store, control, execution(args.dry_run), args.audit, context).await
}

pub(crate) async fn pause(args: TypeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    control_types(|item_type| Control::Pause { item_type }, args, context).await
}

pub(crate) async fn resume(args: TypeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    control_types(|item_type| Control::Resume { item_type }, args, context).await
}

async fn control_types(
    control: impl Fn(String) -> Control,
    args: TypeArgs,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let (overview, paused) = (store.overview().await?, store.pauses().await?);
    let paused: Vec<_> = paused.into_iter().map(|pause| pause.r#type).collect();
    let types = match args.item_type {
        Some(item_type) => {
            control(item_type.clone()).validate()?;
            if !args.force {
                overview.check_type(&item_type, &paused).map_err(|unknown| not_forced(&unknown))?;
            }
            vec![item_type]
        }
        None => overview.known_types(&paused),
    };
    for item_type in types {
        send_control(&*store, control(item_type), execution(args.dry_run), args.audit.clone(), context).await?;
    }
    Ok(ExitCode::SUCCESS)
}
