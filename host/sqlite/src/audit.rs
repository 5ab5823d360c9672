//! The audit trail: appended to by the transactions that do what it records, and read.

use rusqlite::{Connection, Row, params};
use serde_json::Value;

use crate::queries::bound;
use crate::write_tx::WriteTx;
use outbox_item::ItemId;
use outbox_store::engine::operator_actions::NewAuditEntry;
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::{AuditEntry, AuditQuery};

/// Records what an action changed of items.
pub(crate) fn append(tx: &WriteTx<'_>, entry: &NewAuditEntry<'_>) -> rusqlite::Result<()> {
    let seq = record(tx, entry, entry.changes.len() as u64, &entry.changes_json())?;
    let mut concern = tx.connection.prepare_cached("INSERT INTO outbox_audit_items (item_id, seq) VALUES (?1, ?2)")?;
    for change in entry.changes {
        concern.execute([change.id, seq])?;
    }
    Ok(())
}

/// Records what an action changed of something else than items: `count` of them, which were `removed`.
pub(crate) fn append_entry(
    tx: &WriteTx<'_>,
    entry: &NewAuditEntry<'_>,
    count: u64,
    removed: &Value,
) -> rusqlite::Result<()> {
    record(tx, entry, count, removed).map(drop)
}

/// Writes the row and says which number it has.
fn record(tx: &WriteTx<'_>, entry: &NewAuditEntry<'_>, count: u64, changes: &Value) -> rusqlite::Result<i64> {
    let mut insert = tx.connection.prepare_cached(
        "INSERT INTO outbox_audit (at, actor, action, selection, reason, job, count, changes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING seq",
    )?;
    let values = params![
        tx.now,
        entry.actor,
        entry.action,
        entry.selection.to_string(),
        entry.reason,
        entry.job,
        count,
        changes.to_string()
    ];
    insert.query_row(values, |row| row.get(0))
}

/// Everything that concerns an item, oldest first.
pub(crate) fn entries_of_item(tx: &Connection, id: ItemId) -> rusqlite::Result<Vec<AuditEntry>> {
    let query = AuditQuery { item: Some(id), limit: u32::MAX, ..AuditQuery::default() };
    let mut entries = list(tx, &query)?;
    entries.reverse();
    Ok(entries)
}

pub(crate) fn list(tx: &Connection, query: &AuditQuery) -> rusqlite::Result<Vec<AuditEntry>> {
    let condition = SqlFilter::from_audit_query(query, "seq IN (SELECT seq FROM outbox_audit_items WHERE item_id = ?)");
    let limit = query.page_size();
    let sql = format!(
        "SELECT seq, at, actor, action, selection, reason, job, count, changes FROM outbox_audit
         WHERE {} ORDER BY seq DESC LIMIT {limit}",
        condition.sql
    );
    let mut select = tx.prepare_cached(&sql)?;
    select.query_map(&*bound(&condition.params), |row| entry(row, query.item))?.collect()
}

fn entry(row: &Row<'_>, item: Option<ItemId>) -> rusqlite::Result<AuditEntry> {
    let text = |column: usize| row.get::<_, String>(column);
    let mut changes: Value = serde_json::from_str(&text(8)?).unwrap_or_default();
    if let (Some(id), Some(all)) = (item, changes.as_array_mut()) {
        all.retain(|change| change["id"] == id);
    }
    Ok(AuditEntry {
        seq: row.get(0)?,
        at: row.get(1)?,
        actor: row.get(2)?,
        action: row.get(3)?,
        selection: serde_json::from_str(&text(4)?).unwrap_or_default(),
        reason: row.get(5)?,
        job: row.get(6)?,
        count: row.get(7)?,
        changes,
    })
}
