//! The display rows of processes. Nothing correct depends on them.

use rusqlite::params;

use crate::unavailable;
use crate::write_tx::WriteTx;
use outbox_item::Millis;
use outbox_store::{Pod, StoreError};

/// A pod that has been silent for so long is forgotten.
const POD_KEPT_MS: Millis = 24 * 3600 * 1000;

pub(crate) fn heartbeat(tx: &mut WriteTx<'_>, pod: &Pod) -> Result<(), StoreError> {
    write_pod(tx, pod).map_err(unavailable("writing a heartbeat"))
}

fn write_pod(tx: &WriteTx<'_>, pod: &Pod) -> rusqlite::Result<()> {
    let mut write = tx.connection.prepare_cached(
        "INSERT INTO outbox_pods (instance, role, ready, heartbeat_at, plugins) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET role = excluded.role, ready = excluded.ready,
             heartbeat_at = excluded.heartbeat_at, plugins = excluded.plugins",
    )?;
    write.execute(params![pod.instance, pod.role, pod.ready, tx.now, pod.plugins.to_string()])?;
    let forget = "DELETE FROM outbox_pods WHERE heartbeat_at < ?1";
    tx.connection.prepare_cached(forget)?.execute([tx.now - POD_KEPT_MS])?;
    Ok(())
}
