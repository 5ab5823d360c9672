//! `plugin rollback`: withdraws the running version of a plugin, so that each host returns to the version before it.

use std::process::ExitCode;

use clap::Args;

use outbox_store::Control;

use crate::cli::arguments::{AuditArgs, execution};
use crate::cli::context::Context;
use crate::cli::requests::send_control;

/// Return to the version of a plugin before the running one
///
/// The running component is quarantined: no host runs it until `outbox plugin release`. The items that it dead-lettered
/// are one group: `outbox replay --status DLQ --handler-digest SHA-256`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The plugin: the name of its file without .wasm
    name: String,
    /// The version to return to, by the beginning of its SHA-256; without it, the one that each host ran before
    digest: Option<String>,
    /// Only say what would be withdrawn
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn run(args: RollbackArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let RollbackArgs { name, digest, dry_run, audit } = args;
    for digest in store.overview().await?.withdrawn(&name, digest.as_deref())? {
        let control = Control::RollBack { plugin: name.clone(), digest };
        send_control(&*store, control, execution(dry_run), audit.clone(), context).await?;
    }
    Ok(ExitCode::SUCCESS)
}
