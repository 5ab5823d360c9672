//! Components that are quarantined for every process, with their alerts and audit entries.
//!
//! It does not know why a component was quarantined.

use rusqlite::{Connection, params};

use outbox_store::engine::NewAuditEntry;
use outbox_store::{QuarantineRecord, StoreError};

use crate::error::unavailable;
use crate::rows::{cell, time};
use crate::write_tx::WriteTx;
use crate::{alerts, audit};

/// Quarantines the component and alerts operators. A component that is quarantined already keeps its first reason.
pub(crate) fn add(tx: &mut WriteTx<'_>, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError> {
    let alerted = insert(tx, digest, plugin, reason)
        .and_then(|is_new| if is_new { alerts::quarantined(tx, plugin, digest, reason) } else { Ok(()) });
    alerted.map_err(unavailable("quarantining a component"))
}

/// Quarantines the component without an alert. False if it was quarantined already.
pub(crate) fn insert(tx: &WriteTx<'_>, digest: &str, plugin: &str, reason: &str) -> rusqlite::Result<bool> {
    let sql = "INSERT INTO outbox_quarantine (digest, plugin, reason, at, pod) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT DO NOTHING";
    let mut insert = tx.connection.prepare_cached(sql)?;
    Ok(insert.execute(params![digest, plugin, reason, tx.now.get(), tx.pod])? > 0)
}

/// The quarantined components, the newest first.
pub(crate) fn list(tx: &Connection) -> rusqlite::Result<Vec<QuarantineRecord>> {
    let sql = "SELECT digest, plugin, reason, at, pod FROM outbox_quarantine ORDER BY at DESC, digest";
    let mut select = tx.prepare_cached(sql)?;
    let rows = select.query_map([], |row| {
        let [digest, plugin, reason, pod] = [cell(row, 0)?, cell(row, 1)?, cell(row, 2)?, cell(row, 4)?];
        Ok(QuarantineRecord { digest, plugin, reason, at: time(row, 3)?, pod })
    })?;
    rows.collect()
}

/// Lifts the quarantine of a component. False when the component was not quarantined.
pub(crate) fn release(
    tx: &mut WriteTx<'_>,
    digest: &str,
    actor: &str,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    delete_audited(tx, digest, actor, reason).map_err(unavailable("lifting a quarantine"))
}

fn delete_audited(tx: &WriteTx<'_>, digest: &str, actor: &str, reason: Option<&str>) -> rusqlite::Result<bool> {
    let Some(lifted) = list(tx.connection)?.into_iter().find(|entry| entry.digest == digest) else { return Ok(false) };
    tx.connection.prepare_cached("DELETE FROM outbox_quarantine WHERE digest = ?1")?.execute([digest])?;
    audit::append(tx, &NewAuditEntry::of_lifted_quarantine(&lifted, actor, reason))?;
    Ok(true)
}
