//! The audit trail: its entries are written by the transactions that do what they record.
//!
//! The triggers `audit_guard` and `audit_items_guard` refuse every change of an entry.

use tokio_postgres::Row;

use outbox_item::{ItemId, Millis};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::{NewAuditEntry, changes_of};
use outbox_store::{AUDIT_VALUE_MAX, AuditEntry, AuditQuery, ENTRIES_SHOWN, JobId};

use crate::error::PgError;
use crate::rows::{json_value, numbers, time, unsigned, values};
use crate::tx::{Query, WriteTx, without_nul};

/// Appends the entry, and a row for each item that it concerns. A lock that is held until the commit makes the numbers
/// of entries ascend in the order of commits.
pub(crate) async fn append(tx: &WriteTx<'_>, entry: &NewAuditEntry<'_>) -> Result<(), PgError> {
    tx.rows("SELECT pg_advisory_xact_lock(7206004, 0)", &[]).await?;
    let statement = "WITH entry AS (
            INSERT INTO outbox.audit (at, actor, action, selection, reason, job, count, changes)
            VALUES ($1, $2, $3, $4::text::json, $5, $6, $7, $8::text::json) RETURNING seq)
        INSERT INTO outbox.audit_items (item_id, seq)
        SELECT DISTINCT item, entry.seq FROM entry, unnest($9::bigint[]) AS item";
    let (actor, reason) = (without_nul(entry.actor), entry.reason.map(without_nul));
    let (selection, changes) = (entry.selection.to_string(), entry.changes.to_string());
    let (job, count) = (entry.job.map(JobId::get), i64::try_from(entry.count).unwrap_or(i64::MAX));
    let items = &numbers(&entry.item_ids);
    tx.rows(statement, &[&tx.now.get(), &actor, &entry.action, &selection, &reason, &job, &count, &changes, items])
        .await
        .map(drop)
}

/// The newest entries that concern the item, oldest first.
pub(crate) async fn entries_of_item(tx: &impl Query, id: ItemId) -> Result<Vec<AuditEntry>, PgError> {
    let query = AuditQuery { item: Some(id), limit: ENTRIES_SHOWN, ..AuditQuery::default() };
    let mut entries = list(tx, &query).await?;
    entries.reverse();
    Ok(entries)
}

/// The entries that match, newest first.
pub(crate) async fn list(tx: &impl Query, query: &AuditQuery) -> Result<Vec<AuditEntry>, PgError> {
    let condition = SqlFilter::from_audit_query(query, "seq IN (SELECT seq FROM outbox.audit_items WHERE item_id = ?)");
    let shown = |column: &str| match query.item {
        Some(_) => format!("{column}::text"),
        None => format!(
            "CASE WHEN octet_length({column}::text) <= {AUDIT_VALUE_MAX} THEN {column}::text
                  ELSE json_build_object('bytes', octet_length({column}::text))::text END"
        ),
    };
    let (selection, changes) = (shown("selection"), shown("changes"));
    let statement = format!(
        "SELECT seq, at, actor, action, {selection}, reason, job, count, {changes} FROM outbox.audit
         WHERE {} ORDER BY seq DESC LIMIT {}",
        condition.sql,
        query.page_size()
    );
    tx.rows(&statement, &values(&condition)).await?.iter().map(|row| entry(row, query.item)).collect()
}

fn entry(row: &Row, item: Option<ItemId>) -> Result<AuditEntry, PgError> {
    Ok(AuditEntry {
        seq: row.try_get(0)?,
        at: time(row, 1)?,
        actor: row.try_get(2)?,
        action: row.try_get(3)?,
        selection: json_value(row, 4)?,
        reason: row.try_get(5)?,
        job: row.try_get::<_, Option<i64>>(6)?.map(JobId::new),
        count: unsigned(row, 7)?,
        changes: changes_of(item, json_value(row, 8)?),
    })
}

/// Entries that one transaction stops to keep.
const PRUNE_ENTRIES: i64 = 250;
/// References from items to such entries that one transaction deletes.
const PRUNE_REFERENCES: i64 = 1_000;

/// Deletes a part of the entries from before `before`, the oldest first. The schema refuses to delete an entry that is
/// still kept, so the first one that is kept is written before. An entry goes after the references to it.
pub(crate) async fn prune(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    let keep = "INSERT INTO outbox.audit_kept AS kept (id, from_seq)
                SELECT 1, max(seq) + 1 FROM (SELECT seq, at FROM outbox.audit ORDER BY seq LIMIT $2) AS oldest
                WHERE at < $1 HAVING count(*) > 0
                ON CONFLICT (id) DO UPDATE SET from_seq = greatest(kept.from_seq, excluded.from_seq)";
    tx.rows(keep, &[&before.get(), &PRUNE_ENTRIES]).await?;
    let references = "DELETE FROM outbox.audit_items AS reference USING (
                          SELECT item_id, seq FROM outbox.audit_items
                          WHERE seq < (SELECT from_seq FROM outbox.audit_kept) ORDER BY seq LIMIT $1) AS old
                      WHERE reference.item_id = old.item_id AND reference.seq = old.seq RETURNING 1";
    if !tx.rows(references, &[&PRUNE_REFERENCES]).await?.is_empty() {
        return Ok(());
    }
    let entries = "DELETE FROM outbox.audit WHERE seq < (SELECT from_seq FROM outbox.audit_kept)";
    tx.rows(entries, &[]).await.map(drop)
}
