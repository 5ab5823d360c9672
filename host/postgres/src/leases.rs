//! Leases: one row for each claim and type, with the ids of the items in it.
//!
//! It does not know which items are claimed (`claim`), nor where an item goes afterwards (`places`).

use tokio_postgres::Row;

use outbox_core::Past;
use outbox_item::{ItemId, Millis};
use outbox_store::engine::attempt_record::{AttemptRecord, is_alert};
use outbox_store::{ClaimRef, ClaimToken};

use crate::error::PgError;
use crate::past::stored_count;
use crate::rows::numbers;
use crate::tx::{Query, WriteTx};
use crate::{ordering, past};

/// An item in a lease, with its past.
pub(crate) struct LeasedItem {
    /// The lease.
    pub(crate) token: ClaimToken,
    /// The item's place in the line of its ordering key.
    pub(crate) turn: Option<i64>,
    /// The number of items in front of it in its streak; `None` without an ordering key.
    pub(crate) ahead: Option<i32>,
    /// The attempt, without what only its end tells.
    pub(crate) attempt: AttemptRecord,
    /// The item's past, the claim counted.
    pub(crate) past: Past,
}

/// The id of an item in a lease.
pub(crate) type LeasedId = (ClaimToken, ItemId);

/// Leases that ended without a settlement.
pub(crate) struct EndedLeases {
    /// Their items.
    pub(crate) items: Vec<LeasedItem>,
    /// Ids in them of which there is no item.
    pub(crate) missing: Vec<LeasedId>,
}

/// Waits for the lines of the items' ordering keys, then for the leases of the claims. Returns the items of those
/// claims that still hold.
pub(crate) async fn lock_claims(tx: &impl Query, claims: &[&ClaimRef]) -> Result<Vec<LeasedItem>, PgError> {
    let (tokens, ids) = columns(claims.iter().map(|claim| (claim.token, claim.id)));
    let rows = tx.rows("SELECT * FROM outbox.lock_claims($1, $2)", &[&tokens, &ids]).await?;
    Ok(ended(&rows)?.items)
}

/// What follows items in the streaks of their ordering keys and is not among them itself. The transaction has locked the
/// leases, in which all of them are.
pub(crate) async fn items_behind(tx: &WriteTx<'_>, leaving: &[LeasedId]) -> Result<Vec<LeasedItem>, PgError> {
    if leaving.is_empty() {
        return Ok(Vec::new());
    }
    let (tokens, ids) = columns(leaving.iter().copied());
    Ok(ended(&tx.rows("SELECT * FROM outbox.items_behind($1, $2)", &[&tokens, &ids]).await?)?.items)
}

/// Waits for the lines of the items' ordering keys, then for the leases of the claims.
pub(crate) async fn lock_leases(tx: &impl Query, claims: &[&ClaimRef]) -> Result<(), PgError> {
    let (tokens, ids) = columns(claims.iter().map(|claim| (claim.token, claim.id)));
    tx.rows("SELECT outbox.lock_leases($1, $2)", &[&tokens, &ids]).await.map(drop)
}

/// The items of leases that this transaction has locked.
pub(crate) async fn read_leased(tx: &impl Query, leased: &[LeasedId]) -> Result<Vec<LeasedItem>, PgError> {
    if leased.is_empty() {
        return Ok(Vec::new());
    }
    let (tokens, ids) = columns(leased.iter().copied());
    let rows = tx.rows("SELECT * FROM outbox.leased_items($1, $2)", &[&tokens, &ids]).await?;
    Ok(ended(&rows)?.items)
}

fn columns(leased: impl Iterator<Item = LeasedId>) -> (Vec<i64>, Vec<i64>) {
    leased.map(|(token, id)| (token.get(), id.get())).unzip()
}

/// Up to `most` leases that have run out at `by` and are not `spared`, in a random order: leases that another
/// transaction has locked, or that cannot be ended, do not hide the others for ever.
pub(crate) async fn find_ended(
    tx: &impl Query,
    by: Millis,
    spared: &[ClaimToken],
    most: i64,
) -> Result<Vec<ClaimToken>, PgError> {
    let sql = "SELECT token FROM outbox.leases WHERE lease_until <= $1 AND token <> ALL($2::bigint[])
               ORDER BY random() LIMIT $3";
    let rows = tx.rows(sql, &[&by.get(), &token_numbers(spared), &most]).await?;
    rows.iter().map(|row| Ok(ClaimToken::new(row.try_get(0)?))).collect()
}

/// Locks those of the leases that have still run out at `by`, except for any that another transaction has locked. Returns
/// the items of one of them at least, and of further ones as long as they have no more than `most` items together.
pub(crate) async fn lock_ended(
    tx: &WriteTx<'_>,
    by: Millis,
    leases: &[ClaimToken],
    most: u32,
) -> Result<EndedLeases, PgError> {
    let sql = "SELECT * FROM outbox.lock_ended($1, $2, $3)";
    ended(&tx.rows(sql, &[&by.get(), &token_numbers(leases), &stored_count(most)]).await?)
}

fn token_numbers(tokens: &[ClaimToken]) -> Vec<i64> {
    tokens.iter().map(|token| token.get()).collect()
}

fn ended(rows: &[Row]) -> Result<EndedLeases, PgError> {
    let mut ended = EndedLeases { items: Vec::new(), missing: Vec::new() };
    for row in rows {
        match leased_item(row)? {
            Some(item) => ended.items.push(item),
            None => ended.missing.push(leased_id(row)?),
        }
    }
    Ok(ended)
}

fn leased_id(row: &Row) -> Result<LeasedId, PgError> {
    Ok((ClaimToken::new(row.try_get("token")?), ItemId::new(row.try_get("id")?)))
}

/// Decodes a row of the type `outbox.leased_item`; `None` when there is no such item.
fn leased_item(row: &Row) -> Result<Option<LeasedItem>, PgError> {
    let Some(idem_key) = row.try_get::<_, Option<&str>>("idem_key")? else { return Ok(None) };
    let past = past::read(row)?;
    let (token, id) = leased_id(row)?;
    let attempt = AttemptRecord {
        id,
        item_type: row.try_get("type")?,
        saga: row.try_get("saga")?,
        cid: row.try_get("cid")?,
        attempt: past.attempts,
        delivery: past.deliveries,
        started_at: Millis::new(row.try_get("claimed_at")?),
        pod: row.try_get("pod")?,
        maybe_executed: false,
        handler_digest: None,
        exchanges: None,
        ordering_key: row.try_get("ordering_key")?,
        is_alert: is_alert(idem_key),
    };
    Ok(Some(LeasedItem { token, turn: row.try_get("turn")?, ahead: row.try_get("ahead")?, attempt, past }))
}

/// Takes the items out of their leases, which this transaction has locked or made.
pub(crate) async fn leave_leases(tx: &WriteTx<'_>, leaving: &[LeasedId]) -> Result<(), PgError> {
    if leaving.is_empty() {
        return Ok(());
    }
    let (tokens, ids) = columns(leaving.iter().copied());
    tx.rows("SELECT outbox.leave_leases($1, $2)", &[&tokens, &ids]).await.map(drop)
}

/// Drops ids of leases of which there is no item, so that they block neither their leases nor their ordering keys. The
/// schema rules them out; somebody has deleted rows behind its back. The transaction has locked leases, and waits for no
/// line: an id in front of a key that another transaction is working on stays until its lease ends.
pub(crate) async fn drop_missing(tx: &WriteTx<'_>, missing: &[LeasedId]) -> Result<(), PgError> {
    if missing.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = missing.iter().map(|(_, id)| *id).collect();
    let sql = "SELECT ordering_key, id || streak AS line FROM outbox.lanes WHERE id = ANY($1) OR streak && $1";
    let lanes = tx.rows(sql, &[&numbers(&ids)]).await?;
    let lanes = lanes.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let lanes: Vec<(String, Vec<i64>)> = lanes.collect::<Result<_, PgError>>()?;
    let keys: Vec<_> = lanes.iter().map(|(key, _)| key.clone()).collect();
    let free = ordering::try_lock_lines(tx, &keys).await?;
    let busy: Vec<_> = lanes.iter().filter(|(key, _)| !free.contains(key)).flat_map(|(_, line)| line).collect();
    let dropped: Vec<_> = missing.iter().filter(|(_, id)| !busy.contains(&&id.get())).copied().collect();
    let shown: Vec<_> = dropped.iter().map(|(_, id)| id.get()).collect();
    tracing::error!(items = ?shown, "leases hold the ids of items that do not exist; the ids were dropped");
    leave_leases(tx, &dropped).await?;
    ordering::find_fronts(tx, &free.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The ids in these leases of which there is no item.
pub(crate) async fn missing_in(tx: &WriteTx<'_>, tokens: &[i64]) -> Result<Vec<LeasedId>, PgError> {
    let sql = "SELECT token, leased.id FROM outbox.leases CROSS JOIN LATERAL unnest(ids) AS leased (id)
               WHERE token = ANY($1) AND NOT EXISTS (SELECT 1 FROM outbox.items WHERE items.id = leased.id)";
    tx.rows(sql, &[&tokens]).await?.iter().map(leased_id).collect()
}

/// Locks the items and their places for an operator, so that none of them moves before the end of the transaction. The
/// caller has the lines of their ordering keys.
pub(crate) async fn lock_places(tx: &WriteTx<'_>, ids: &[ItemId]) -> Result<(), PgError> {
    tx.rows("SELECT outbox.lock_places($1)", &[&numbers(ids)]).await.map(drop)
}
