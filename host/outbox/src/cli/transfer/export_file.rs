//! The file of an export: one JSON record per line.
//!
//! The first line names the format. The last line has the number of records and their digest, so that a reader detects
//! a truncated or changed file before it uses anything. It does not know what is done with the records.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use outbox_core::hex;
use outbox_store::{ExportPosition, Record, Store};

use crate::cli::progress::ProgressBar;

/// Records per call to the store.
pub(super) const PAGE_SIZE: u32 = 200;
/// How the reason of a pause begins that an export makes. Such pauses are not exported.
pub(super) const EXPORT_PAUSE_REASON: &str = "export";

#[derive(Debug, Serialize, Deserialize)]
struct ExportHeader {
    outbox_export: u32,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ExportTrailer {
    pub(super) records: u64,
    sha256: String,
}

/// Writes everything in the store into the file.
pub(super) async fn write(store: &dyn Store, file: File) -> anyhow::Result<ExportTrailer> {
    let mut out = BufWriter::new(file);
    writeln!(out, "{}", json!(ExportHeader { outbox_export: 1 }))?;
    let mut progress = ProgressBar::new("export", store.overview().await?.by_status.values().sum());
    let (mut records, mut digest) = (0, Sha256::new());
    let mut snapshot = store.begin_export().await?;
    let mut next = Some(ExportPosition::START);
    while let Some(position) = next {
        let page = snapshot.page(position, PAGE_SIZE).await?;
        for record in page.records.iter().filter(|record| !is_pause_of_export(record)) {
            let line = serde_json::to_string(record)?;
            digest.update(&line);
            writeln!(out, "{line}")?;
            records += 1;
        }
        progress.show(records);
        next = page.next;
    }
    progress.finish();
    let trailer = ExportTrailer { records, sha256: hex(&digest.finalize()) };
    writeln!(out, "{}", json!(trailer))?;
    out.into_inner()?.sync_all()?;
    Ok(trailer)
}

/// Whether the record is a pause that an export made, and that belongs to this store alone.
pub(super) fn is_pause_of_export(record: &Record) -> bool {
    let is_ours = |reason: &str| reason == EXPORT_PAUSE_REASON || reason.starts_with("export: ");
    record.pause().is_some_and(|(_, reason)| is_ours(reason))
}

/// The content of an export file, in numbers.
pub(super) struct ExportSummary {
    pub(super) records: u64,
    pub(super) types: BTreeSet<String>,
    /// The types that were paused where the file comes from, and stay so.
    pub(super) paused: BTreeSet<String>,
}

/// Reads the whole file. Errors unless it is exactly what an export wrote.
pub(super) fn read_summary(path: &Path) -> anyhow::Result<ExportSummary> {
    let mut lines = BufReader::new(open(path)?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let header: ExportHeader = serde_json::from_str(&first)
        .with_context(|| format!("{} does not begin like an export of outbox", path.display()))?;
    if header.outbox_export != 1 {
        bail!("{} has the format {}, this program knows 1", path.display(), header.outbox_export);
    }
    let (mut found, mut digest) = (ExportTrailer::default(), Sha256::new());
    let (mut types, mut paused) = (BTreeSet::new(), BTreeSet::new());
    for line in lines {
        let line = line.with_context(|| format!("reading {}", path.display()))?;
        if let Ok(trailer) = serde_json::from_str::<ExportTrailer>(&line) {
            found.sha256 = hex(&digest.finalize());
            if trailer != found {
                bail!("{} is not what was exported: its records were changed", path.display());
            }
            return Ok(ExportSummary { records: found.records, types, paused });
        }
        let record: Record = serde_json::from_str(&line)
            .with_context(|| format!("record {} of {}", found.records + 1, path.display()))?;
        types.extend(record.item_type().map(str::to_owned));
        paused.extend(record.pause().map(|(item_type, _)| item_type.to_owned()));
        digest.update(&line);
        found.records += 1;
    }
    bail!("{} has no end: it was cut, or its export was interrupted", path.display());
}

/// The records of a file that [`read_summary`] accepts.
pub(super) fn records_of(path: &Path, records: u64) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Record>>> {
    let lines = BufReader::new(open(path)?).lines().skip(1).take(usize::try_from(records)?);
    Ok(lines.map(|line| Ok(serde_json::from_str(&line?)?)))
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}
