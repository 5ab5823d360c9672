//! `plugin quarantine` and `plugin release`: list quarantined components, and release one.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use outbox_store::QuarantineRecord;

use crate::cli::arguments::AuditArgs;
use crate::cli::context::Context;
use crate::cli::output::{Times, clean, table};

#[derive(Debug, Args)]
pub(crate) struct LiftQuarantineArgs {
    /// The component's SHA-256, or as much of its beginning as tells it apart
    digest: String,
    /// Only say what would be released
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let (now, quarantined) = (store.now().await?, store.list_quarantine().await?);
    context.output.emit(&quarantined, || quarantine_rows(context.output.times(now), &quarantined))?;
    Ok(ExitCode::SUCCESS)
}

fn quarantine_rows(times: Times, quarantined: &[QuarantineRecord]) -> String {
    if quarantined.is_empty() {
        return "No component is quarantined.".to_owned();
    }
    let row = |entry: &QuarantineRecord| {
        [entry.plugin.clone(), entry.digest.clone(), times.show(entry.at), entry.pod.clone(), clean(&entry.reason)]
    };
    table(["PLUGIN", "DIGEST", "SINCE", "POD", "REASON"], quarantined.iter().map(row))
}

/// Releases a component. Every host loads it again, as a canary, when it next reads the quarantine.
pub(crate) async fn release(args: LiftQuarantineArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let found = find(store.list_quarantine().await?, &args.digest)?;
    let actor = args.audit.actor.unwrap_or_else(|| context.config.identity.to_string());
    if !args.dry_run && !store.lift_quarantine(&found.digest, &actor, args.audit.reason.as_deref()).await? {
        bail!("{} was released by somebody else meanwhile", found.digest);
    }
    let done = if args.dry_run { "would release" } else { "released" };
    context.output.emit(&found, || format!("{done} {} of plugin {}: {}", found.digest, found.plugin, found.reason))?;
    Ok(ExitCode::SUCCESS)
}

fn find(quarantined: Vec<QuarantineRecord>, digest: &str) -> anyhow::Result<QuarantineRecord> {
    let mut found = quarantined.into_iter().filter(|entry| entry.digest.starts_with(digest));
    let Some(first) = found.next() else {
        bail!("no component with the digest {digest:?} is quarantined: look with `outbox plugin quarantine`");
    };
    match found.next() {
        None => Ok(first),
        Some(second) => bail!("{digest:?} may be {} or {}: give more of the digest", first.digest, second.digest),
    }
}
