//! `export` and `import`: move an outbox to another store, as a file with one JSON record per line.
//!
//! The first line names the format. The last line has the number of records and their digest, so that the import
//! detects a truncated or changed file before it imports anything.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use outbox_core::hex;
use outbox_item::{ItemId, Status};
use outbox_store::{Control, ControlRequest, Execution, ExportPosition, Record, Store, StoreError};

use crate::cli::arguments::{AuditArgs, execution};
use crate::cli::context::Context;
use crate::cli::output::count;
use crate::cli::progress::ProgressBar;
use crate::cli::requests::send_control;

/// Records per call to the store.
const PAGE_SIZE: u32 = 200;
/// The pause between two looks at whether all claims have ended.
const DRAIN_POLL: Duration = Duration::from_millis(200);
/// The reason of the pauses that an import makes. A repeated import recognises them by it, and ends them.
const IMPORT_PAUSE_REASON: &str = "until the import is verified";

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
    /// Only say what would be imported, and what is in the way
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

#[derive(Debug, Serialize, Deserialize)]
struct ExportHeader {
    outbox_export: u32,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct ExportTrailer {
    records: u64,
    sha256: String,
}

pub(crate) async fn export(args: ExportArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    pause_and_drain(&*store, &args, context).await?;
    let path = &args.file;
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
        let reason = reason.or_else(|| Some("export".to_owned()));
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

async fn write(store: &dyn Store, file: File) -> anyhow::Result<ExportTrailer> {
    let mut out = BufWriter::new(file);
    writeln!(out, "{}", json!(ExportHeader { outbox_export: 1 }))?;
    let mut progress = ProgressBar::new("export", store.overview().await?.by_status.values().sum());
    let (mut records, mut digest) = (0, Sha256::new());
    let mut next = Some(ExportPosition::Item(ItemId::new(0)));
    while let Some(position) = next {
        let page = store.export(position, PAGE_SIZE).await?;
        for record in &page.records {
            let line = serde_json::to_string(record)?;
            digest.update(&line);
            writeln!(out, "{line}")?;
        }
        records += page.records.len() as u64;
        progress.show(records);
        next = page.next;
    }
    progress.finish();
    let trailer = ExportTrailer { records, sha256: hex(&digest.finalize()) };
    writeln!(out, "{}", json!(trailer))?;
    out.into_inner()?.sync_all()?;
    Ok(trailer)
}

pub(crate) async fn import(args: ImportArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.file else {
        let control = Control::ReserveIds { up_to: args.reserve.unwrap_or(ItemId::new(0)) };
        let store = context.existing_store().await?;
        return send_control(&*store, control, execution(args.dry_run), args.audit, context).await;
    };
    let summary = read_summary(path)?;
    let store = context.existing_store().await?;
    let import = ImportRun { store: &*store, path, records: summary.records };
    let would_create = import.run_pass("check", Execution::DryRun).await?;
    if !args.dry_run {
        let resumed = import.pause(&summary.types, &args.audit, context).await?;
        import.run_pass("import", Execution::Apply).await?;
        let missing = import.run_pass("verify", Execution::DryRun).await?;
        if missing > 0 {
            bail!("{} are missing after the import: the types stay paused; import again", count(missing, "record"));
        }
        import.resume(resumed, &args.audit, context).await?;
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

/// The content of an export file, in numbers.
struct ExportSummary {
    records: u64,
    types: BTreeSet<String>,
}

/// Reads the whole file. Errors unless it is exactly what an export wrote.
fn read_summary(path: &Path) -> anyhow::Result<ExportSummary> {
    let mut lines = BufReader::new(open(path)?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let header: ExportHeader = serde_json::from_str(&first)
        .with_context(|| format!("{} does not begin like an export of outbox", path.display()))?;
    if header.outbox_export != 1 {
        bail!("{} has the format {}, this program knows 1", path.display(), header.outbox_export);
    }
    let (mut found, mut digest, mut types) = (ExportTrailer::default(), Sha256::new(), BTreeSet::new());
    for line in lines {
        let line = line.with_context(|| format!("reading {}", path.display()))?;
        if let Ok(trailer) = serde_json::from_str::<ExportTrailer>(&line) {
            found.sha256 = hex(&digest.finalize());
            if trailer != found {
                bail!("{} is not what was exported: its records were changed", path.display());
            }
            return Ok(ExportSummary { records: found.records, types });
        }
        let record: Record = serde_json::from_str(&line)
            .with_context(|| format!("record {} of {}", found.records + 1, path.display()))?;
        types.extend(record.item_type().map(str::to_owned));
        digest.update(&line);
        found.records += 1;
    }
    bail!("{} has no end: it was cut, or its export was interrupted", path.display());
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

/// One import of a file.
struct ImportRun<'a> {
    store: &'a dyn Store,
    path: &'a Path,
    records: u64,
}

impl ImportRun<'_> {
    /// Passes every record to the store once. Returns the number of records that it created, or would create.
    async fn run_pass(&self, what: &'static str, execution: Execution) -> anyhow::Result<u64> {
        let mut lines = BufReader::new(open(self.path)?).lines().skip(1);
        let mut progress = ProgressBar::new(what, self.records);
        let (mut left, mut created) = (self.records, 0);
        while left > 0 {
            let page_size = left.min(PAGE_SIZE.into());
            let mut records = Vec::new();
            for line in lines.by_ref().take(usize::try_from(page_size)?) {
                records.push(serde_json::from_str(&line?)?);
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

    async fn resume(&self, types: Vec<String>, audit: &AuditArgs, context: &Context) -> anyhow::Result<()> {
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
