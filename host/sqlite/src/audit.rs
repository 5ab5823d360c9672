//! The audit trail: its entries are written by the transactions that do what they record.
//!
//! The triggers `outbox_audit_update`, `outbox_audit_delete` and their pair on `outbox_audit_items` refuse every change
//! of an entry.

use rusqlite::{Connection, Row, params};

use outbox_item::{ItemId, Millis};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::{NewAuditEntry, changes_of};
use outbox_store::{AUDIT_VALUE_MAX, AuditEntry, AuditQuery, ENTRIES_SHOWN, JobId};

use crate::rows::{bound, cell, json_value, time};
use crate::write_tx::WriteTx;

/// Appends the entry, and a row for each item that it concerns.
pub(crate) fn append(tx: &WriteTx<'_>, entry: &NewAuditEntry<'_>) -> rusqlite::Result<()> {
    let seq = insert(tx, entry)?;
    // A request may name an item twice; the entry concerns it once.
    let mut concern = tx
        .connection
        .prepare_cached("INSERT INTO outbox_audit_items (item_id, seq) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    for item_id in &entry.item_ids {
        concern.execute([item_id.get(), seq])?;
    }
    Ok(())
}

/// Writes the entry and returns its number.
fn insert(tx: &WriteTx<'_>, entry: &NewAuditEntry<'_>) -> rusqlite::Result<i64> {
    let mut insert = tx.connection.prepare_cached(
        "INSERT INTO outbox_audit (at, actor, action, selection, reason, job, count, changes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING seq",
    )?;
    let values = params![
        tx.now.get(),
        entry.actor,
        entry.action,
        entry.selection.to_string(),
        entry.reason,
        entry.job.map(JobId::get),
        entry.count,
        entry.changes.to_string()
    ];
    insert.query_row(values, |row| cell(row, 0))
}

/// The newest entries that concern the item, oldest first.
pub(crate) fn entries_of_item(tx: &Connection, id: ItemId) -> rusqlite::Result<Vec<AuditEntry>> {
    let query = AuditQuery { item: Some(id), limit: ENTRIES_SHOWN, ..AuditQuery::default() };
    let mut entries = list(tx, &query)?;
    entries.reverse();
    Ok(entries)
}

/// The entries that match, newest first.
pub(crate) fn list(tx: &Connection, query: &AuditQuery) -> rusqlite::Result<Vec<AuditEntry>> {
    let condition = SqlFilter::from_audit_query(query, "seq IN (SELECT seq FROM outbox_audit_items WHERE item_id = ?)");
    let limit = query.page_size();
    let shown = |column: &str| match query.item {
        Some(_) => column.to_owned(),
        None => format!(
            "CASE WHEN octet_length({column}) <= {AUDIT_VALUE_MAX} THEN {column}
                  ELSE json_object('bytes', octet_length({column})) END"
        ),
    };
    let (selection, changes) = (shown("selection"), shown("changes"));
    let sql = format!(
        "SELECT seq, at, actor, action, {selection}, reason, job, count, {changes} FROM outbox_audit
         WHERE {} ORDER BY seq DESC LIMIT {limit}",
        condition.sql
    );
    let mut select = tx.prepare_cached(&sql)?;
    select.query_map(&*bound(&condition.params), |row| entry(row, query.item))?.collect()
}

fn entry(row: &Row<'_>, item: Option<ItemId>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        seq: cell(row, 0)?,
        at: time(row, 1)?,
        actor: cell(row, 2)?,
        action: cell(row, 3)?,
        selection: json_value(row, 4)?,
        reason: cell(row, 5)?,
        job: cell::<Option<i64>>(row, 6)?.map(JobId::new),
        count: cell(row, 7)?,
        changes: changes_of(item, json_value(row, 8)?),
    })
}

/// Entries that one transaction stops to keep.
const PRUNE_ENTRIES: u32 = 500;
/// References from items to such entries that one transaction deletes.
const PRUNE_REFERENCES: u32 = 2_000;

/// Deletes a part of the entries from before `before`, the oldest first. The schema refuses to delete an entry that is
/// still kept, so the first one that is kept is written before. An entry goes after the references to it.
pub(crate) fn prune(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<()> {
    let keep = "INSERT INTO outbox_audit_kept (id, from_seq)
                SELECT 1, max(seq) + 1 FROM (SELECT seq, at FROM outbox_audit ORDER BY seq LIMIT ?2)
                WHERE at < ?1 HAVING count(*) > 0
                ON CONFLICT (id) DO UPDATE SET from_seq = max(from_seq, excluded.from_seq)";
    tx.connection.prepare_cached(keep)?.execute(params![before.get(), PRUNE_ENTRIES])?;
    let references = "DELETE FROM outbox_audit_items WHERE (item_id, seq) IN (
                          SELECT item_id, seq FROM outbox_audit_items
                          WHERE seq < (SELECT from_seq FROM outbox_audit_kept) LIMIT ?1)";
    if tx.connection.prepare_cached(references)?.execute([PRUNE_REFERENCES])? > 0 {
        return Ok(());
    }
    let entries = "DELETE FROM outbox_audit WHERE seq < (SELECT from_seq FROM outbox_audit_kept)";
    tx.connection.prepare_cached(entries)?.execute([]).map(drop)
}
