//! The rows that show running processes to operators.
//!
//! No promise of the store depends on them.

use rusqlite::{Connection, params};

use outbox_core::PluginStatus;
use outbox_item::Millis;
use outbox_store::engine::{POD_KEPT, POD_SHOWN};
use outbox_store::{Pod, StoreError};

use crate::error::unavailable;
use crate::rows::{cell, time};
use crate::write_tx::WriteTx;

/// Writes this process's row, and removes the rows of processes that have been silent for long.
pub(crate) fn heartbeat(tx: &mut WriteTx<'_>, pod: &Pod) -> Result<(), StoreError> {
    write_pod(tx, pod).map_err(unavailable("writing a heartbeat"))
}

fn write_pod(tx: &WriteTx<'_>, pod: &Pod) -> rusqlite::Result<()> {
    let mut write = tx.connection.prepare_cached(
        "INSERT INTO outbox_pods (instance, role, ready, heartbeat_at, plugins) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET role = excluded.role, ready = excluded.ready,
             heartbeat_at = excluded.heartbeat_at, plugins = excluded.plugins",
    )?;
    write.execute(params![
        pod.instance,
        pod.role,
        pod.ready,
        tx.now.get(),
        PluginStatus::list_to_json(&pod.plugins)
    ])?;
    let forget = "DELETE FROM outbox_pods WHERE heartbeat_at < ?1";
    tx.connection.prepare_cached(forget)?.execute([tx.now.saturating_sub(POD_KEPT).get()])?;
    Ok(())
}

/// The processes whose last heartbeat is recent enough to be shown.
pub(crate) fn recent(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<Pod>> {
    let mut select = tx.prepare_cached(
        "SELECT instance, role, ready, heartbeat_at, plugins FROM outbox_pods
         WHERE heartbeat_at > ?1 ORDER BY instance",
    )?;
    let rows = select.query_map([now.saturating_sub(POD_SHOWN).get()], |row| {
        let plugins: String = cell(row, 4)?;
        Ok(Pod {
            instance: cell(row, 0)?,
            role: cell(row, 1)?,
            ready: cell(row, 2)?,
            heartbeat_at: time(row, 3)?,
            plugins: PluginStatus::list_from_json(&plugins),
        })
    })?;
    rows.collect()
}
