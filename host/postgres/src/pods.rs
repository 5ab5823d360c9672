//! The display rows of processes. Nothing correct depends on them.

use crate::error::PgError;
use crate::tx::{Query as _, WriteTx, without_nul};
use outbox_item::Millis;
use outbox_store::Pod;

/// A pod that has been silent for so long is forgotten.
const POD_KEPT_MS: Millis = 24 * 3600 * 1000;

pub(crate) async fn heartbeat(tx: &mut WriteTx<'_>, pod: &Pod) -> Result<(), PgError> {
    let write = "INSERT INTO outbox.pods (instance, role, ready, heartbeat_at, plugins)
                 VALUES ($1::text, $2::text, $3::boolean, $4::bigint, $5::text::json)
                 ON CONFLICT (instance) DO UPDATE SET role = excluded.role, ready = excluded.ready,
                     heartbeat_at = excluded.heartbeat_at, plugins = excluded.plugins";
    let role = pod.role.as_deref().map(without_nul);
    tx.rows(write, &[&pod.instance, &role, &pod.ready, &tx.now, &pod.plugins.to_string()]).await?;
    let forget = "DELETE FROM outbox.pods WHERE heartbeat_at < $1";
    tx.rows(forget, &[&(tx.now - POD_KEPT_MS)]).await.map(drop)
}
