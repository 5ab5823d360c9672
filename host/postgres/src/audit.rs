//! The audit trail: appended to by the transactions that do what it records, and read.

use serde_json::Value;
use tokio_postgres::Row;

use crate::error::PgError;
use crate::queries::{json_column, unsigned, values};
use crate::tx::{Query, WriteTx, without_nul};
use outbox_item::ItemId;
use outbox_store::engine::operator_actions::NewAuditEntry;
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::{AuditEntry, AuditQuery};

/// Appends an entry about what was done to items.
pub(crate) async fn append(tx: &WriteTx<'_>, entry: &NewAuditEntry<'_>) -> Result<(), PgError> {
    let count = u64::try_from(entry.changes.len()).unwrap_or(u64::MAX);
    append_entry(tx, entry, count, &entry.changes_json()).await
}

/// Appends an entry about anything, under a lock that is held until the commit, so that numbers ascend in
/// the order of commits.
pub(crate) async fn append_entry(
    tx: &WriteTx<'_>,
    entry: &NewAuditEntry<'_>,
    count: u64,
    changes: &Value,
) -> Result<(), PgError> {
    tx.rows("SELECT pg_advisory_xact_lock(7206004, 0)", &[]).await?;
    let statement = "WITH entry AS (
            INSERT INTO outbox.audit (at, actor, action, selection, reason, job, count, changes)
            VALUES ($1, $2, $3, $4::text::json, $5, $6, $7, $8::text::json) RETURNING seq)
        INSERT INTO outbox.audit_items (item_id, seq)
        SELECT DISTINCT item, entry.seq FROM entry, unnest($9::bigint[]) AS item";
    let concerned: Vec<ItemId> = entry.changes.iter().map(|change| change.id).collect();
    let (actor, reason) = (without_nul(entry.actor), entry.reason.map(without_nul));
    let (selection, changes) = (entry.selection.to_string(), changes.to_string());
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    tx.rows(statement, &[&tx.now, &actor, &entry.action, &selection, &reason, &entry.job, &count, &changes, &concerned])
        .await
        .map(drop)
}

/// Everything that concerns an item, oldest first.
pub(crate) async fn entries_of_item(tx: &impl Query, id: ItemId) -> Result<Vec<AuditEntry>, PgError> {
    let query = AuditQuery { item: Some(id), limit: u32::MAX, ..AuditQuery::default() };
    let mut entries = list(tx, &query).await?;
    entries.reverse();
    Ok(entries)
}

pub(crate) async fn list(tx: &impl Query, query: &AuditQuery) -> Result<Vec<AuditEntry>, PgError> {
    let condition = SqlFilter::from_audit_query(query, "seq IN (SELECT seq FROM outbox.audit_items WHERE item_id = ?)");
    let statement = format!(
        "SELECT seq, at, actor, action, selection::text, reason, job, count, changes::text FROM outbox.audit
         WHERE {} ORDER BY seq DESC LIMIT {}",
        condition.sql,
        query.page_size()
    );
    tx.rows(&statement, &values(&condition)).await?.iter().map(|row| entry(row, query.item)).collect()
}

fn entry(row: &Row, item: Option<ItemId>) -> Result<AuditEntry, PgError> {
    let mut changes: Value = json_column(row, 8)?;
    if let (Some(id), Some(all)) = (item, changes.as_array_mut()) {
        all.retain(|change| change["id"] == id);
    }
    Ok(AuditEntry {
        seq: row.try_get(0)?,
        at: row.try_get(1)?,
        actor: row.try_get(2)?,
        action: row.try_get(3)?,
        selection: json_column(row, 4)?,
        reason: row.try_get(5)?,
        job: row.try_get(6)?,
        count: unsigned(row, 7)?,
        changes,
    })
}
