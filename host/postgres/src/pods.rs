//! The rows that show running processes to operators.
//!
//! No promise of the store depends on them.

use tokio_postgres::Row;

use outbox_core::{BreakerStatus, PluginStatus};
use outbox_item::Millis;
use outbox_store::Pod;
use outbox_store::engine::{POD_KEPT, POD_SHOWN};

use crate::error::PgError;
use crate::rows::time;
use crate::tx::{Query, WriteTx, without_nul};

/// Writes this process's row, and removes the rows of processes that have been silent for long.
pub(crate) async fn heartbeat(tx: &mut WriteTx<'_>, pod: &Pod) -> Result<(), PgError> {
    let write = "INSERT INTO outbox.pods (instance, role, ready, heartbeat_at, plugins)
                 VALUES ($1::text, $2::text, $3::boolean, $4::bigint, $5::text::json)
                 ON CONFLICT (instance) DO UPDATE SET role = excluded.role, ready = excluded.ready,
                     heartbeat_at = excluded.heartbeat_at, plugins = excluded.plugins";
    let role = pod.role.as_deref().map(without_nul);
    tx.rows(write, &[&pod.instance, &role, &pod.ready, &tx.now.get(), &PluginStatus::list_to_json(&pod.plugins)])
        .await?;
    if pod.breakers.is_empty() {
        tx.rows("DELETE FROM outbox.breakers WHERE instance = $1", &[&pod.instance]).await?;
    } else {
        let write = "INSERT INTO outbox.breakers (instance, breakers) VALUES ($1::text, $2::text::json)
                     ON CONFLICT (instance) DO UPDATE SET breakers = excluded.breakers";
        tx.rows(write, &[&pod.instance, &BreakerStatus::list_to_json(&pod.breakers)]).await?;
    }
    forget_silent(tx).await
}

/// Removes the row of a process that stops, or marks it as not ready while there are leases of it.
pub(crate) async fn end(tx: &WriteTx<'_>, instance: &str) -> Result<(), PgError> {
    tx.rows("UPDATE outbox.pods SET ready = false WHERE instance = $1", &[&instance]).await?;
    let remove = "DELETE FROM outbox.pods
                  WHERE instance = $1 AND NOT EXISTS (SELECT FROM outbox.leases WHERE pod = instance)";
    tx.rows(remove, &[&instance]).await?;
    forget_silent(tx).await
}

async fn forget_silent(tx: &WriteTx<'_>) -> Result<(), PgError> {
    let orphans = "DELETE FROM outbox.breakers WHERE NOT EXISTS (SELECT FROM outbox.pods
                                                                 WHERE pods.instance = breakers.instance)";
    tx.rows(orphans, &[]).await?;
    let forget = "DELETE FROM outbox.pods WHERE heartbeat_at < $1";
    tx.rows(forget, &[&tx.now.saturating_sub(POD_KEPT).get()]).await.map(drop)
}

/// The processes whose last heartbeat is recent enough to be shown.
pub(crate) async fn recent(tx: &impl Query, now: Millis) -> Result<Vec<Pod>, PgError> {
    let statement = "SELECT instance, role, ready, heartbeat_at, plugins::text, coalesce(breakers::text, '[]')
                     FROM outbox.pods LEFT JOIN outbox.breakers USING (instance)
                     WHERE heartbeat_at > $1 ORDER BY instance COLLATE \"C\"";
    let pod = |row: &Row| {
        Ok(Pod {
            instance: row.try_get(0)?,
            role: row.try_get(1)?,
            ready: row.try_get(2)?,
            heartbeat_at: time(row, 3)?,
            plugins: PluginStatus::list_from_json(row.try_get(4)?),
            breakers: BreakerStatus::list_from_json(row.try_get(5)?),
        })
    };
    tx.rows(statement, &[&now.saturating_sub(POD_SHOWN).get()]).await?.iter().map(pod).collect()
}
