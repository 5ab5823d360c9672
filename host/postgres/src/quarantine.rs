//! Components that are quarantined for every process.

use serde_json::json;
use tokio_postgres::Row;

use crate::error::PgError;
use crate::tx::{Query, WriteTx, without_nul};
use crate::{alerts, audit};
use outbox_store::QuarantineRecord;
use outbox_store::engine::operator_actions::NewAuditEntry;

const COLUMNS: &str = "digest, plugin, reason, at, pod";

pub(crate) async fn add(tx: &mut WriteTx<'_>, digest: &str, plugin: &str, reason: &str) -> Result<(), PgError> {
    let statement = "INSERT INTO outbox.quarantine (digest, plugin, reason, at, pod) VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT DO NOTHING RETURNING digest";
    let inserted = tx.rows(statement, &[&digest, &plugin, &without_nul(reason), &tx.now, &tx.pod]).await?;
    if inserted.is_empty() {
        return Ok(());
    }
    alerts::send(tx, outbox_store::engine::alerts::quarantine_message(plugin, digest, reason)).await
}

pub(crate) async fn list(tx: &impl Query) -> Result<Vec<QuarantineRecord>, PgError> {
    let statement = format!("SELECT {COLUMNS} FROM outbox.quarantine ORDER BY at DESC, digest");
    tx.rows(&statement, &[]).await?.iter().map(quarantined).collect()
}

fn quarantined(row: &Row) -> Result<QuarantineRecord, PgError> {
    Ok(QuarantineRecord {
        digest: row.try_get(0)?,
        plugin: row.try_get(1)?,
        reason: row.try_get(2)?,
        at: row.try_get(3)?,
        pod: row.try_get(4)?,
    })
}

/// Whether the component was quarantined.
pub(crate) async fn release(
    tx: &WriteTx<'_>,
    digest: &str,
    actor: &str,
    reason: Option<&str>,
) -> Result<bool, PgError> {
    let statement = format!("DELETE FROM outbox.quarantine WHERE digest = $1 RETURNING {COLUMNS}");
    let deleted = tx.rows(&statement, &[&digest]).await?;
    let Some(row) = deleted.first() else { return Ok(false) };
    let selection = json!({ "digest": digest });
    let entry = NewAuditEntry { actor, action: "release-plugin", selection, reason, job: None, changes: &[] };
    audit::append_entry(tx, &entry, 1, &json!([quarantined(row)?])).await?;
    Ok(true)
}
