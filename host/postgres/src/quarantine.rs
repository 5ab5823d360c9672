//! Components that are quarantined for every process, with their alerts and audit entries.
//!
//! It does not know why a component was quarantined.

use tokio_postgres::Row;

use crate::error::PgError;
use crate::rows::time;
use crate::tx::{Query, WriteTx, without_nul};
use crate::{alerts, audit};
use outbox_store::QuarantineRecord;
use outbox_store::engine::NewAuditEntry;

const COLUMNS: &str = "digest, plugin, reason, at, pod";

/// Quarantines the component and alerts operators. A component that is quarantined already keeps its first reason.
pub(crate) async fn add(tx: &mut WriteTx<'_>, digest: &str, plugin: &str, reason: &str) -> Result<(), PgError> {
    if !insert(tx, digest, plugin, reason).await? {
        return Ok(());
    }
    alerts::send(tx, outbox_store::engine::alerts::quarantine_message(plugin, digest, reason)).await
}

/// Quarantines the component without an alert. False if it was quarantined already.
pub(crate) async fn insert(tx: &WriteTx<'_>, digest: &str, plugin: &str, reason: &str) -> Result<bool, PgError> {
    let statement = "INSERT INTO outbox.quarantine (digest, plugin, reason, at, pod) VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT DO NOTHING RETURNING digest";
    let inserted = tx.rows(statement, &[&digest, &plugin, &without_nul(reason), &tx.now.get(), &tx.pod]).await?;
    Ok(!inserted.is_empty())
}

/// The quarantined components, the newest first.
pub(crate) async fn list(tx: &impl Query) -> Result<Vec<QuarantineRecord>, PgError> {
    let statement = format!("SELECT {COLUMNS} FROM outbox.quarantine ORDER BY at DESC, digest");
    tx.rows(&statement, &[]).await?.iter().map(quarantined).collect()
}

fn quarantined(row: &Row) -> Result<QuarantineRecord, PgError> {
    Ok(QuarantineRecord {
        digest: row.try_get(0)?,
        plugin: row.try_get(1)?,
        reason: row.try_get(2)?,
        at: time(row, 3)?,
        pod: row.try_get(4)?,
    })
}

/// Lifts the quarantine of a component. False when the component was not quarantined.
pub(crate) async fn release(
    tx: &WriteTx<'_>,
    digest: &str,
    actor: &str,
    reason: Option<&str>,
) -> Result<bool, PgError> {
    let statement = format!("DELETE FROM outbox.quarantine WHERE digest = $1 RETURNING {COLUMNS}");
    let deleted = tx.rows(&statement, &[&digest]).await?;
    let Some(row) = deleted.first() else { return Ok(false) };
    let lifted = quarantined(row)?;
    audit::append(tx, &NewAuditEntry::of_lifted_quarantine(&lifted, actor, reason)).await?;
    Ok(true)
}
