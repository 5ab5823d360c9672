//! The ordering of items that share an ordering key: one of them is claimed at a time, in the order of enqueue.
//!
//! Of each key one item is the head: the one that is CLAIMED, else the oldest that is not finished or blocks the key.
//! - A claim decides under the lock of the key whether an item is the head ([`positions`]), and marks the items queued
//!   behind it as held ([`mark_held`]).
//! - The trigger `items_insert` gives ids under a lock of the key, so that ids of one key ascend in the order of
//!   commits.
//! - The triggers `items_moved` and `items_unblocked` fire on every change that can move the head. They release the new
//!   head from being held.

use std::collections::BTreeMap;

use outbox_item::ItemId;

use crate::error::PgError;
use crate::rows::numbers;
use crate::tx::{Query, WriteTx};

/// The position of an item within its ordering key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyPosition {
    /// The head: it may be claimed.
    Head,
    /// Queued behind the head.
    Queued,
    /// Another transaction is changing an item of the key.
    Unknown,
}

/// Waits for the locks of the items' ordering keys. The transaction must not have locked an item yet.
pub(crate) async fn lock_keys(tx: &impl Query, items: &[ItemId]) -> Result<(), PgError> {
    let statement = "SELECT pg_advisory_xact_lock(7206002, hash)
                     FROM (SELECT DISTINCT hashtext(ordering_key) AS hash FROM outbox.items
                           WHERE id = ANY($1::bigint[]) AND ordering_key IS NOT NULL ORDER BY hash) AS keys";
    tx.rows(statement, &[&numbers(items)]).await.map(drop)
}

/// The positions of items that this transaction has locked. It takes the keys' locks with try-locks: waiting while
/// holding row locks could deadlock.
pub(crate) async fn positions(tx: &WriteTx<'_>, items: &[(ItemId, &str)]) -> Result<Vec<KeyPosition>, PgError> {
    let (ids, keys): (Vec<_>, Vec<_>) = items.iter().map(|(id, key)| (id.get(), *key)).unzip();
    let lock = "SELECT pg_try_advisory_xact_lock(7206002, hashtext(key)) FROM unnest($1::text[]) AS key";
    let locked = tx.rows(lock, &[&keys]).await?;
    // A statement of its own: it sees what the earlier holders of the locks committed.
    let rank = "SELECT NOT EXISTS (SELECT 1 FROM outbox.items WHERE ordering_key = key AND status = 'CLAIMED')
                   AND NOT EXISTS (SELECT 1 FROM outbox.items WHERE ordering_key = key AND id < candidate
                                   AND (status IN ('PENDING', 'CLAIMED') OR blocks_key))
                FROM unnest($1::bigint[], $2::text[]) AS new (candidate, key)";
    let first = tx.rows(rank, &[&ids, &keys]).await?;
    let position = |(locked, first): (&tokio_postgres::Row, &tokio_postgres::Row)| {
        Ok(match (locked.try_get(0)?, first.try_get(0)?) {
            (false, _) => KeyPosition::Unknown,
            (true, true) => KeyPosition::Head,
            (true, false) => KeyPosition::Queued,
        })
    };
    locked.iter().zip(&first).map(position).collect()
}

/// Items of one key that one statement marks as held, so that a long queue does not make a claim slow.
const HOLD_MAX: i64 = 1_000;

/// Marks queued items, whose keys are locked, as held: claims do not read them until they are the head. Items of the
/// same key that were enqueued later are marked with them.
pub(crate) async fn mark_held(tx: &WriteTx<'_>, queued: &[(ItemId, &str)]) -> Result<(), PgError> {
    let mut first: BTreeMap<&str, ItemId> = BTreeMap::new();
    for (id, key) in queued {
        first.entry(key).and_modify(|first| *first = *id.min(first)).or_insert(*id);
    }
    let (keys, ids): (Vec<_>, Vec<_>) = first.into_iter().map(|(key, id)| (key, id.get())).unzip();
    let sql = "UPDATE outbox.items SET held = true
               FROM unnest($1::text[], $2::bigint[]) AS new (key, start),
                    LATERAL (SELECT id AS late FROM outbox.items
                             WHERE ordering_key = key AND id >= start AND status = 'PENDING' AND NOT held
                             ORDER BY ordering_key, id LIMIT $3 FOR UPDATE SKIP LOCKED) AS queue
               WHERE id = late AND NOT held";
    tx.rows(sql, &[&keys, &ids, &HOLD_MAX]).await.map(drop)
}

/// Locks the key, then the items that block it. Returns them by ascending id.
pub(crate) async fn blocking(tx: &WriteTx<'_>, ordering_key: &str) -> Result<Vec<ItemId>, PgError> {
    tx.rows("SELECT pg_advisory_xact_lock(7206002, hashtext($1))", &[&ordering_key]).await?;
    let statement = "SELECT id FROM outbox.items WHERE ordering_key = $1 AND blocks_key ORDER BY id FOR UPDATE";
    tx.rows(statement, &[&ordering_key]).await?.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect()
}

/// Lets the items that are queued behind the blocking ones go on.
pub(crate) async fn unblock(tx: &WriteTx<'_>, ordering_key: &str) -> Result<(), PgError> {
    let statement = "UPDATE outbox.items SET blocks_key = false WHERE ordering_key = $1 AND blocks_key";
    tx.rows(statement, &[&ordering_key]).await.map(drop)
}
