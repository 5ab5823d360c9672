//! The rows that show running processes to operators.
//!
//! No promise of the store depends on them.

use rusqlite::{Connection, params};

use outbox_core::{BreakerStatus, PluginStatus};
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
    if pod.breakers.is_empty() {
        tx.connection.prepare_cached("DELETE FROM outbox_breakers WHERE instance = ?1")?.execute([&pod.instance])?;
    } else {
        let breakers = BreakerStatus::list_to_json(&pod.breakers);
        tx.connection
            .prepare_cached("INSERT OR REPLACE INTO outbox_breakers (instance, breakers) VALUES (?1, ?2)")?
            .execute([&pod.instance, &breakers])?;
    }
    forget_silent(tx)
}

/// Removes the row of a process that stops, or marks it as not ready while there are leases of it.
pub(crate) fn end(tx: &WriteTx<'_>, instance: &str) -> rusqlite::Result<()> {
    let mark = "UPDATE outbox_pods SET ready = false WHERE instance = ?1";
    tx.connection.prepare_cached(mark)?.execute([instance])?;
    let remove = "DELETE FROM outbox_pods WHERE instance = ?1 AND instance NOT IN (SELECT pod FROM outbox_leases)";
    tx.connection.prepare_cached(remove)?.execute([instance])?;
    forget_silent(tx)
}

fn forget_silent(tx: &WriteTx<'_>) -> rusqlite::Result<()> {
    let forget = "DELETE FROM outbox_pods WHERE heartbeat_at < ?1";
    tx.connection.prepare_cached(forget)?.execute([tx.now.saturating_sub(POD_KEPT).get()])?;
    let orphans = "DELETE FROM outbox_breakers WHERE instance NOT IN (SELECT instance FROM outbox_pods)";
    tx.connection.prepare_cached(orphans)?.execute([])?;
    Ok(())
}

/// The processes whose last heartbeat is recent enough to be shown.
pub(crate) fn recent(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<Pod>> {
    let mut select = tx.prepare_cached(
        "SELECT instance, role, ready, heartbeat_at, plugins, coalesce(breakers, '[]')
         FROM outbox_pods LEFT JOIN outbox_breakers USING (instance)
         WHERE heartbeat_at > ?1 ORDER BY instance",
    )?;
    let rows = select.query_map([now.saturating_sub(POD_SHOWN).get()], |row| {
        let (plugins, breakers): (String, String) = (cell(row, 4)?, cell(row, 5)?);
        Ok(Pod {
            instance: cell(row, 0)?,
            role: cell(row, 1)?,
            ready: cell(row, 2)?,
            heartbeat_at: time(row, 3)?,
            plugins: PluginStatus::list_from_json(&plugins),
            breakers: BreakerStatus::list_from_json(&breakers),
        })
    })?;
    rows.collect()
}
