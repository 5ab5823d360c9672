//! The audit trail: appended to by the transactions that do what it records, and read.

use serde_json::Value;
use tokio_postgres::Row;

use super::fault::Fault;
use super::select::{json, unsigned, values};
use super::step::{Sql, Step, storable};
use crate::item::ItemId;
use crate::store::condition::Condition;
use crate::store::deed::Entry;
use crate::store::{AuditEntry, AuditQuery};

/// Appends an entry about what was done to items.
pub(super) async fn append(step: &Step<'_>, entry: &Entry<'_>) -> Result<(), Fault> {
    let count = u64::try_from(entry.changes.len()).unwrap_or(u64::MAX);
    append_about(step, entry, count, &entry.changes()).await
}

/// Appends an entry about anything, under a lock that is held until the commit, so that numbers ascend in
/// the order of commits.
pub(super) async fn append_about(step: &Step<'_>, entry: &Entry<'_>, count: u64, changes: &Value) -> Result<(), Fault> {
    step.rows("SELECT pg_advisory_xact_lock(7206004, 0)", &[]).await?;
    let statement = "WITH entry AS (
            INSERT INTO outbox.audit (at, actor, action, selection, reason, job, count, changes)
            VALUES ($1, $2, $3, $4::text::json, $5, $6, $7, $8::text::json) RETURNING seq)
        INSERT INTO outbox.audit_items (item_id, seq)
        SELECT DISTINCT item, entry.seq FROM entry, unnest($9::bigint[]) AS item";
    let concerned: Vec<ItemId> = entry.changes.iter().map(|change| change.id).collect();
    let (actor, reason) = (storable(entry.actor), entry.reason.map(storable));
    let (selection, changes) = (entry.selection.to_string(), changes.to_string());
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    step.rows(
        statement,
        &[&step.now, &actor, &entry.action, &selection, &reason, &entry.job, &count, &changes, &concerned],
    )
    .await
    .map(drop)
}

/// Everything that concerns an item, oldest first.
pub(super) async fn of_item(sql: &impl Sql, id: ItemId) -> Result<Vec<AuditEntry>, Fault> {
    let query = AuditQuery { item: Some(id), limit: u32::MAX, ..AuditQuery::default() };
    let mut entries = list(sql, &query).await?;
    entries.reverse();
    Ok(entries)
}

pub(super) async fn list(sql: &impl Sql, query: &AuditQuery) -> Result<Vec<AuditEntry>, Fault> {
    let condition = Condition::of_audit(query, "seq IN (SELECT seq FROM outbox.audit_items WHERE item_id = ?)");
    let statement = format!(
        "SELECT seq, at, actor, action, selection::text, reason, job, count, changes::text FROM outbox.audit
         WHERE {} ORDER BY seq DESC LIMIT {}",
        condition.sql,
        query.page()
    );
    sql.rows(&statement, &values(&condition)).await?.iter().map(|row| entry(row, query.item)).collect()
}

fn entry(row: &Row, item: Option<ItemId>) -> Result<AuditEntry, Fault> {
    let mut changes: Value = json(row, 8)?;
    if let (Some(id), Some(all)) = (item, changes.as_array_mut()) {
        all.retain(|change| change["id"] == id);
    }
    Ok(AuditEntry {
        seq: row.try_get(0)?,
        at: row.try_get(1)?,
        actor: row.try_get(2)?,
        action: row.try_get(3)?,
        selection: json(row, 4)?,
        reason: row.try_get(5)?,
        job: row.try_get(6)?,
        count: unsigned(row, 7)?,
        changes,
    })
}
