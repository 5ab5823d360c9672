//! The rows of follow-ups that say from which item they descend.
//!
//! It does not enqueue: `enqueue` does. Whether there is room is decided by `outbox_store`. Processes that settle at the
//! same time do not see each other's follow-ups, so a few more than the bound can be enqueued.

use outbox_core::{DESCENDANTS_PERIOD, HostWrites};
use outbox_item::ItemId;
use outbox_store::engine::descent::Descent;

use crate::error::PgError;
use crate::tx::{Query, WriteTx};

/// The root of the parent `$1`, the depth of the parent, and how many items descend from the root since `$2`, counted
/// up to `$3`.
const DESCENT: &str = "\
    SELECT root, depth, (SELECT count(*) FROM (SELECT FROM outbox.descendants AS other
                         WHERE other.root = parent.root AND other.created_at > $2 LIMIT $3) AS counted)::bigint
    FROM (SELECT coalesce((SELECT root FROM outbox.descendants WHERE id = $1), $1) AS root,
                 coalesce((SELECT depth FROM outbox.descendants WHERE id = $1), 0) AS depth) AS parent";

/// The descent of the follow-ups in `writes`, which the handler of `parent` emitted.
pub(crate) async fn of_followups(tx: &WriteTx<'_>, parent: ItemId, writes: &HostWrites) -> Result<Descent, PgError> {
    let max = writes.descendants_max;
    let since = tx.now.saturating_sub(DESCENDANTS_PERIOD).get();
    let rows = tx.rows(DESCENT, &[&parent.get(), &since, &max.map_or(0, i64::from)]).await?;
    let row = rows.first().ok_or(PgError::LostRace)?;
    let (depth, present): (i32, i64) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Descent {
        root: ItemId::new(row.try_get(0)?),
        depth: depth.unsigned_abs().saturating_add(1),
        max,
        present: u32::try_from(present).unwrap_or(u32::MAX),
    })
}

/// Records new follow-ups.
pub(crate) async fn record(tx: &WriteTx<'_>, descent: &Descent, ids: &[i64]) -> Result<(), PgError> {
    let sql = "INSERT INTO outbox.descendants (id, root, depth, created_at)
               SELECT id, $2, $3, $4 FROM unnest($1::bigint[]) AS id";
    let depth = i32::try_from(descent.depth).unwrap_or(i32::MAX);
    tx.rows(sql, &[&ids, &descent.root.get(), &depth, &tx.now.get()]).await.map(drop)
}
