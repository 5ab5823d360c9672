//! `export --verify`: compares a file with a store, on either side of a move.
//!
//! It does not know how a file is written, nor how records are stored.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use outbox_item::ItemId;
use outbox_store::engine::{integer_column, text_column};
use outbox_store::{ExportPosition, Record, RecordColumns, Store};

use super::export_file::{PAGE_SIZE, is_pause_of_export, read_summary, records_of};
use crate::cli::context::Context;
use crate::cli::output::count;

/// Items that a report names.
const NAMED: usize = 5;

/// What a store has, as far as it is compared.
#[derive(Default)]
struct StoreContent {
    records: HashSet<RecordDigest>,
    items: BTreeSet<ItemId>,
    totals: BTreeMap<[String; 4], i64>,
}

/// The first half of a SHA-256, which no two records share.
type RecordDigest = [u8; 16];

/// How a file and a store differ.
#[derive(Default)]
struct FileDifferences {
    /// Records of the file that the store does not have so.
    missing: u64,
    /// Items that differ, or that the store does not have.
    changed: Vec<ItemId>,
    /// Items that the file does not have.
    new: BTreeSet<ItemId>,
}

pub(super) async fn verify(store: &dyn Store, path: &Path, context: &Context) -> anyhow::Result<ExitCode> {
    let summary = read_summary(path)?;
    let mut stored = read_store(store).await?;
    let mut found = FileDifferences::default();
    for record in records_of(path, summary.records)? {
        found.compare(&mut stored, record?);
    }
    found.new = stored.items;
    let report = json!({ "records": summary.records, "missing": found.missing, "new": found.new.len() });
    context.output.emit(&report, || found.sentence(path, summary.records))?;
    Ok(if found.missing == 0 && found.new.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn read_store(store: &dyn Store) -> anyhow::Result<StoreContent> {
    let mut stored = StoreContent::default();
    let mut snapshot = store.begin_export().await?;
    let mut next = Some(ExportPosition::START);
    while let Some(position) = next {
        let page = snapshot.page(position, PAGE_SIZE).await?;
        page.records
            .into_iter()
            .filter(|record| !is_pause_of_export(record))
            .try_for_each(|record| stored.add(record))?;
        next = page.next;
    }
    Ok(stored)
}

impl StoreContent {
    fn add(&mut self, record: Record) -> anyhow::Result<()> {
        self.items.extend(record.item_id());
        match &record {
            Record::Total { total } => {
                self.totals.insert(total_key(total), integer_column(total, "total").unwrap_or_default());
            }
            _ => {
                self.records.insert(digest(record)?);
            }
        }
        Ok(())
    }

    fn has(&self, record: Record) -> bool {
        match &record {
            // The store may have counted on.
            Record::Total { total } => self.totals.get(&total_key(total)).copied() >= integer_column(total, "total"),
            _ => digest(record).is_ok_and(|digest| self.records.contains(&digest)),
        }
    }
}

fn total_key(total: &RecordColumns) -> [String; 4] {
    ["name", "saga", "type", "outcome"].map(|name| text_column(total, name).to_owned())
}

fn digest(record: Record) -> serde_json::Result<RecordDigest> {
    let whole: [u8; 32] = Sha256::digest(serde_json::to_vec(&record.wherever())?).into();
    let mut half = [0; 16];
    half.copy_from_slice(&whole[..16]);
    Ok(half)
}

impl FileDifferences {
    fn compare(&mut self, stored: &mut StoreContent, record: Record) {
        let id = record.item_id();
        if let Some(id) = id {
            stored.items.remove(&id);
        }
        if !stored.has(record) {
            self.missing += 1;
            self.changed.extend(id);
        }
    }

    fn sentence(&self, path: &Path, records: u64) -> String {
        let path = path.display();
        if self.missing == 0 && self.new.is_empty() {
            return format!("All {} of {path} are in this store, and it has no other item.", count(records, "record"));
        }
        format!(
            "{} of {path} are missing here or differ{}; this store has {} that the file does not have{}.",
            count(self.missing, "record"),
            named(self.changed.iter()),
            count(self.new.len() as u64, "item"),
            named(self.new.iter())
        )
    }
}

fn named<'a>(ids: impl Iterator<Item = &'a ItemId>) -> String {
    let ids: Vec<_> = ids.take(NAMED).map(ToString::to_string).collect();
    if ids.is_empty() { String::new() } else { format!(" (items {})", ids.join(", ")) }
}
