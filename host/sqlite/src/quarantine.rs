//! Components that are quarantined for every process.

use rusqlite::{Connection, params};
use serde_json::json;

use crate::write_tx::WriteTx;
use crate::{alerts, audit, unavailable};
use outbox_store::engine::operator_actions::NewAuditEntry;
use outbox_store::{QuarantineRecord, StoreError};

pub(crate) fn add(tx: &mut WriteTx<'_>, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO outbox_quarantine (digest, plugin, reason, at, pod) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT DO NOTHING";
    let insert = tx.connection.prepare_cached(sql);
    let inserted = insert.and_then(|mut insert| insert.execute(params![digest, plugin, reason, tx.now, tx.pod]));
    let alert_message = inserted.and_then(|rows| match rows {
        0 => Ok(()),
        _ => alerts::quarantined(tx, plugin, digest, reason),
    });
    alert_message.map_err(unavailable("quarantining a component"))
}

pub(crate) fn list(tx: &Connection) -> rusqlite::Result<Vec<QuarantineRecord>> {
    let sql = "SELECT digest, plugin, reason, at, pod FROM outbox_quarantine ORDER BY at DESC, digest";
    let mut select = tx.prepare_cached(sql)?;
    let rows = select.query_map([], |row| {
        let [digest, plugin, reason, pod] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(4)?];
        Ok(QuarantineRecord { digest, plugin, reason, at: row.get(3)?, pod })
    })?;
    rows.collect()
}

pub(crate) fn release(
    tx: &mut WriteTx<'_>,
    digest: &str,
    actor: &str,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    delete_audited(tx, digest, actor, reason).map_err(unavailable("lifting a quarantine"))
}

fn delete_audited(tx: &WriteTx<'_>, digest: &str, actor: &str, reason: Option<&str>) -> rusqlite::Result<bool> {
    let Some(was) = list(tx.connection)?.into_iter().find(|entry| entry.digest == digest) else { return Ok(false) };
    tx.connection.prepare_cached("DELETE FROM outbox_quarantine WHERE digest = ?1")?.execute([digest])?;
    let selection = json!({ "digest": digest });
    let entry = NewAuditEntry { actor, action: "release-plugin", selection, reason, job: None, changes: &[] };
    audit::append_entry(tx, &entry, 1, &json!([was]))?;
    Ok(true)
}
