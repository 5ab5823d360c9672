//! Who stands in front of an ordering key, decided under the lock of the key.

use std::collections::BTreeMap;

use crate::error::PgError;
use crate::tx::{Query, WriteTx};
use outbox_item::ItemId;

/// Where a candidate of a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyPosition {
    /// In front: it may be claimed.
    First,
    /// Behind another.
    Behind,
    /// Somebody else is just moving an item of the key.
    Unknown,
}

/// Waits for the locks of the items' ordering keys. For those who hold no item yet.
pub(crate) async fn lock_keys(tx: &impl Query, items: &[ItemId]) -> Result<(), PgError> {
    let statement = "SELECT pg_advisory_xact_lock(7206002, hash)
                     FROM (SELECT DISTINCT hashtext(ordering_key) AS hash FROM outbox.items
                           WHERE id = ANY($1::bigint[]) AND ordering_key IS NOT NULL ORDER BY hash) AS keys";
    tx.rows(statement, &[&items]).await.map(drop)
}

/// Finds out where items stand that this transaction has locked, without waiting for anybody: who waits
/// while it holds items may be waited for.
pub(crate) async fn positions(tx: &WriteTx<'_>, items: &[(ItemId, &str)]) -> Result<Vec<KeyPosition>, PgError> {
    let (ids, keys): (Vec<_>, Vec<_>) = items.iter().copied().unzip();
    let lock = "SELECT pg_try_advisory_xact_lock(7206002, hashtext(key)) FROM unnest($1::text[]) AS key";
    let locked = tx.rows(lock, &[&keys]).await?;
    // A statement of its own, so that it sees what those committed who had the locks before.
    let rank = "SELECT NOT EXISTS (SELECT 1 FROM outbox.items WHERE ordering_key = key AND status = 'CLAIMED')
                   AND NOT EXISTS (SELECT 1 FROM outbox.items WHERE ordering_key = key AND id < candidate
                                   AND (status IN ('PENDING', 'CLAIMED') OR blocks_key))
                FROM unnest($1::bigint[], $2::text[]) AS new (candidate, key)";
    let first = tx.rows(rank, &[&ids, &keys]).await?;
    let position = |(locked, first): (&tokio_postgres::Row, &tokio_postgres::Row)| {
        Ok(match (locked.try_get(0)?, first.try_get(0)?) {
            (false, _) => KeyPosition::Unknown,
            (true, true) => KeyPosition::First,
            (true, false) => KeyPosition::Behind,
        })
    };
    locked.iter().zip(&first).map(position).collect()
}

/// So many items are held at once behind each item that was found behind another.
const HOLD_MAX: i64 = 1_000;

/// Takes items that stand behind others out of what is ready, until they come to the front: these, whose
/// keys are locked, and with them what was enqueued after them with the same key.
pub(crate) async fn mark_held(tx: &WriteTx<'_>, behind: &[(ItemId, &str)]) -> Result<(), PgError> {
    let mut first: BTreeMap<&str, ItemId> = BTreeMap::new();
    for (id, key) in behind {
        first.entry(key).and_modify(|first| *first = *id.min(first)).or_insert(*id);
    }
    let (keys, ids): (Vec<_>, Vec<_>) = first.into_iter().unzip();
    let sql = "UPDATE outbox.items SET held = true
               FROM unnest($1::text[], $2::bigint[]) AS new (key, start),
                    LATERAL (SELECT id AS late FROM outbox.items
                             WHERE ordering_key = key AND id >= start AND status = 'PENDING' AND NOT held
                             ORDER BY ordering_key, id LIMIT $3 FOR UPDATE SKIP LOCKED) AS queue
               WHERE id = late AND NOT held";
    tx.rows(sql, &[&keys, &ids, &HOLD_MAX]).await.map(drop)
}
