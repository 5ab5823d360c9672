//! From which item follow-ups descend, and the bound on their number.
//!
//! It does not enqueue: `enqueue` does. Processes that settle at the same time do not see each other's follow-ups, so
//! a few more than the bound can be enqueued.

use outbox_core::{DESCENDANTS_PERIOD, HostWrites};
use outbox_item::ItemId;
use outbox_store::StoreError;

use crate::error::PgError;
use crate::tx::{Query, WriteTx};

/// The root of the parent `$1`, the depth of the parent, and how many items descend from the root since `$2`, counted
/// up to `$3`.
const DESCENT: &str = "\
    SELECT root, depth, (SELECT count(*) FROM (SELECT FROM outbox.descendants AS other
                         WHERE other.root = parent.root AND other.created_at > $2 LIMIT $3) AS counted)::bigint
    FROM (SELECT coalesce((SELECT root FROM outbox.descendants WHERE id = $1), $1) AS root,
                 coalesce((SELECT depth FROM outbox.descendants WHERE id = $1), 0) AS depth) AS parent";

/// The place of new follow-ups among the items that descend from their root.
pub(crate) struct Descent {
    root: ItemId,
    depth: i32,
}

impl Descent {
    /// That of `new` follow-ups in `writes`, which the handler of `parent` emitted. Errors with
    /// [`StoreError::Descendants`] when so many more may not descend from the root.
    pub(crate) async fn of_followups(
        tx: &WriteTx<'_>,
        parent: ItemId,
        writes: &HostWrites,
        new: usize,
    ) -> Result<Self, PgError> {
        let max = writes.descendants_max;
        let since = tx.now.saturating_sub(DESCENDANTS_PERIOD).get();
        let rows = tx.rows(DESCENT, &[&parent.get(), &since, &max.map_or(0, i64::from)]).await?;
        let row = rows.first().ok_or(PgError::LostRace)?;
        let (root, depth, count): (_, i32, i64) = (ItemId::new(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?);
        let wanted = u64::try_from(count).unwrap_or_default() + new as u64;
        match max {
            Some(max) if wanted > u64::from(max) => Err(StoreError::Descendants { root, max }.into()),
            _ => Ok(Self { root, depth: depth.saturating_add(1) }),
        }
    }

    /// Records new follow-ups.
    pub(crate) async fn record(&self, tx: &WriteTx<'_>, ids: &[i64]) -> Result<(), PgError> {
        let sql = "INSERT INTO outbox.descendants (id, root, depth, created_at)
                   SELECT id, $2, $3, $4 FROM unnest($1::bigint[]) AS id";
        tx.rows(sql, &[&ids, &self.root.get(), &self.depth, &tx.now.get()]).await.map(drop)
    }
}
