//! `export` and `import`: move an outbox to another store, as a file with one JSON record per line.
//!
//! It knows the order of the steps. The form of the file is in `export_file`, its comparison with a store in `compare`.

mod compare;
mod export_file;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use serde_json::json;

use outbox_item::{ItemId, Status};
use outbox_store::{Control, ControlRequest, Execution, IMPORT_PAUSE_REASON, JobState, Record, Store, StoreError};

use self::export_file::{EXPORT_PAUSE_REASON, read_summary, records_of, write};
use crate::cli::arguments::{AuditArgs, execution};
use crate::cli::context::Context;
use crate::cli::output::count;
use crate::cli::progress::ProgressBar;
use crate::cli::requests::send_control;

/// The pause between two looks at whether all claims have ended.
const DRAIN_POLL: Duration = Duration::from_millis(200);

/// Write everything that another store needs to take over into a file
///
/// Nothing may be claimed meanwhile: the types have to be paused and their claims drained.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Where to; the file must not exist
    file: PathBuf,
    /// Pause every type first, and wait until nothing is claimed
    #[arg(long)]
    pause: bool,
    /// Instead: compare the file with this store, the one that wrote it or the one that imported it
    #[arg(long, conflicts_with = "pause")]
    verify: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

/// Take over what another store has exported, with its ids, keys, attempts and history
///
/// Types stay paused until what was imported has been verified. An import that was interrupted is
/// repeated; nothing is imported twice.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["file", "reserve"]))]
pub(crate) struct ImportArgs {
    /// What `outbox export` wrote
    file: Option<PathBuf>,
    /// Instead: let new items get ids above this one, so that an import of ids up to it finds them free
    #[arg(long, value_name = "ID")]
    reserve: Option<ItemId>,
    /// Leave out what operators did: pauses, the quarantine, jobs, signals and the audit trail
    #[arg(long)]
    items_only: bool,
    /// Only say what would be imported, and what is in the way
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn export(args: ExportArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let path = &args.file;
    if args.verify {
        return compare::verify(&*store, path, context).await;
    }
    refuse_running_jobs(&*store).await?;
    pause_and_drain(&*store, &args, context).await?;
    // It holds payloads and results, which only this user may read.
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("creating {}", path.display()))?;
    let trailer = write(&*store, file).await.with_context(|| format!("writing {}", path.display()))?;
    context
        .output
        .emit(&trailer, || format!("Exported {} to {}.", count(trailer.records, "record"), path.display()))?;
    context.output.hint("The types stay paused here: outbox resume TYPE, if this store shall go on after all.");
    Ok(ExitCode::SUCCESS)
}

async fn refuse_running_jobs(store: &dyn Store) -> anyhow::Result<()> {
    let jobs = store.jobs(None, u32::MAX).await?;
    match jobs.iter().find(|job| job.state == JobState::Running) {
        Some(job) => bail!("job {0} is running: let it end, or stop it with outbox jobs cancel {0}", job.id),
        None => Ok(()),
    }
}

/// Makes sure that every type is paused and no item is claimed.
async fn pause_and_drain(store: &dyn Store, args: &ExportArgs, context: &Context) -> anyhow::Result<()> {
    let paused: Vec<_> = store.pauses().await?.into_iter().map(|pause| pause.r#type).collect();
    let types = store.overview().await?.by_type.into_keys().filter(|item_type| !paused.contains(item_type));
    let open: Vec<_> = types.collect();
    if !args.pause && !open.is_empty() {
        bail!("types {} are not paused, so items would move meanwhile: add --pause", open.join(", "));
    }
    for item_type in open {
        let (actor, reason) = args.audit.clone().actor_and_reason(context);
        let control = Control::Pause { item_type };
        let reason = Some(
            reason.map_or_else(|| EXPORT_PAUSE_REASON.to_owned(), |reason| format!("{EXPORT_PAUSE_REASON}: {reason}")),
        );
        store.control(&ControlRequest { control, actor, reason, execution: Execution::Apply }).await?;
    }
    let mut has_hinted = false;
    while store.overview().await?.by_status[Status::Claimed.as_str()] > 0 {
        if !std::mem::replace(&mut has_hinted, true) {
            context.output.hint("Waiting until nothing is claimed: attempts under way end, or their leases do.");
        }
        store.expire_leases(&[]).await?;
        tokio::time::sleep(DRAIN_POLL).await;
    }
    Ok(())
}

pub(crate) async fn import(args: ImportArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.file else {
        let control = Control::ReserveIds { up_to: args.reserve.unwrap_or(ItemId::new(0)) };
        let store = context.existing_store().await?;
        return send_control(&*store, control, execution(args.dry_run), args.audit, context).await;
    };
    let summary = read_summary(path)?;
    let store = context.existing_store().await?;
    let import = ImportRun { store: &*store, path, records: summary.records, items_only: args.items_only };
    let would_create = import.run_pass("check", Execution::DryRun).await?;
    if !args.dry_run {
        let resumed = import.pause(&summary.types, &args.audit, context).await?;
        import.run_pass("import", Execution::Apply).await?;
        let missing = import.run_pass("verify", Execution::DryRun).await?;
        if missing > 0 {
            bail!("{} are missing after the import: the types stay paused; import again", count(missing, "record"));
        }
        let kept = if args.items_only { BTreeSet::new() } else { summary.paused };
        import.resume(resumed.into_iter().filter(|item_type| !kept.contains(item_type)), &args.audit, context).await?;
    }
    let report = json!({ "records": summary.records, "created": would_create, "verified": !args.dry_run });
    let verb = if args.dry_run { "Would import" } else { "Imported and verified" };
    let database = &context.config.database;
    context.output.emit(&report, || {
        let present = summary.records - would_create;
        format!("{verb} {} into {database}; {present} were there already.", count(would_create, "record"))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// One import of a file.
struct ImportRun<'a> {
    store: &'a dyn Store,
    path: &'a Path,
    records: u64,
    /// Whether rows of operators are left out.
    items_only: bool,
}

impl ImportRun<'_> {
    /// Passes every record to the store once. Returns the number of records that it created, or would create.
    async fn run_pass(&self, what: &'static str, execution: Execution) -> anyhow::Result<u64> {
        let mut file = records_of(self.path, self.records)?;
        let mut progress = ProgressBar::new(what, self.records);
        let (mut left, mut created) = (self.records, 0);
        while left > 0 {
            let page_size = left.min(self.store.import_size() as u64);
            let mut records = Vec::new();
            for record in file.by_ref().take(usize::try_from(page_size)?) {
                let record = record?;
                if !self.items_only || !matches!(record, Record::Row { .. }) {
                    records.push(record);
                }
            }
            created += self.store.import(records, execution).await.map_err(explain_conflict)?.created;
            left -= page_size;
            progress.show(self.records - left);
        }
        progress.finish();
        Ok(created)
    }

    /// Pauses the types that nothing else has paused. Returns them: the import resumes them in the end.
    async fn pause(
        &self,
        types: &BTreeSet<String>,
        audit: &AuditArgs,
        context: &Context,
    ) -> anyhow::Result<Vec<String>> {
        let paused = self.store.pauses().await?;
        let by_others = |item_type: &str| {
            paused.iter().any(|pause| pause.r#type == item_type && pause.reason.as_deref() != Some(IMPORT_PAUSE_REASON))
        };
        let ours: Vec<_> = types.iter().filter(|item_type| !by_others(item_type)).cloned().collect();
        for item_type in &ours {
            self.send_control(Control::Pause { item_type: item_type.clone() }, audit, context).await?;
        }
        Ok(ours)
    }

    async fn resume(
        &self,
        types: impl Iterator<Item = String>,
        audit: &AuditArgs,
        context: &Context,
    ) -> anyhow::Result<()> {
        for item_type in types {
            self.send_control(Control::Resume { item_type }, audit, context).await?;
        }
        Ok(())
    }

    async fn send_control(&self, control: Control, audit: &AuditArgs, context: &Context) -> anyhow::Result<()> {
        let (actor, _) = audit.clone().actor_and_reason(context);
        let request = ControlRequest {
            control,
            actor,
            reason: Some(IMPORT_PAUSE_REASON.to_owned()),
            execution: Execution::Apply,
        };
        self.store.control(&request).await?;
        Ok(())
    }
}

fn explain_conflict(err: StoreError) -> anyhow::Error {
    match err {
        StoreError::Conflict { idem_key, first, .. } => anyhow::anyhow!(
            "item {first} of this store is in the way of the imported item with the key {idem_key:?}: import into a \
             store without these ids, or keep them free with outbox import --reserve ID before anything is enqueued"
        ),
        err => err.into(),
    }
}
