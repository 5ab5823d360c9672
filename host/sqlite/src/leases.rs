//! Leases: one row for each claim and type, with the ids of the items in it.
//!
//! It does not know which items are claimed (`claim`), nor where an item goes afterwards (`places`).

use rusqlite::{OptionalExtension, Row, params};

use outbox_core::Past;
use outbox_item::{ItemId, Millis};
use outbox_store::engine::attempt_record::{AttemptRecord, is_alert};
use outbox_store::{ClaimRef, ClaimToken};

use crate::id_list::{id_list, read_ids};
use crate::ordering::find_fronts_behind;
use crate::past::past;
use crate::rows::{cell, optional_text_or_like, text_or_like};
use crate::write_tx::{NEWEST_JOB_SQL, WriteTx};

/// A lease that a claim writes.
pub(crate) struct NewLease<'a> {
    pub(crate) token: ClaimToken,
    pub(crate) item_type: &'a str,
    pub(crate) claimed_by: &'a str,
    pub(crate) lease_until: Millis,
}

/// Puts items that have just left the queue into a lease. A claim that takes items of a type twice adds to its lease.
pub(crate) fn enter_lease(tx: &WriteTx<'_>, lease: &NewLease<'_>, ids: &[ItemId]) -> rusqlite::Result<()> {
    let mut insert = tx.connection.prepare_cached(&format!(
        "INSERT INTO outbox_leases (token, type, pod, claimed_at, lease_until, epoch, count, ids)
         VALUES (?1, ?2, ?3, ?4, ?5, {NEWEST_JOB_SQL}, ?6, ?7)
         ON CONFLICT DO UPDATE SET count = count + excluded.count, ids = (
             SELECT json_group_array(value) FROM (
                 SELECT value FROM json_each(outbox_leases.ids)
                 UNION ALL SELECT value FROM json_each(excluded.ids) ORDER BY value))"
    ))?;
    let NewLease { token, item_type, claimed_by, lease_until } = *lease;
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    let (now, lease_until) = (tx.now.get(), lease_until.get());
    insert.execute(params![token.get(), item_type, claimed_by, now, lease_until, count(&ids), id_list(&ids)])?;
    Ok(())
}

/// The items that have left a lease.
pub(crate) struct LeftLease {
    /// The type of all of them.
    pub(crate) item_type: String,
    /// Their ids, ascending.
    pub(crate) ids: Vec<ItemId>,
}

/// Takes the items out of the lease, as far as they are in it; `None` when there is no such lease. The caller puts them
/// into another place.
pub(crate) fn leave_lease(
    tx: &WriteTx<'_>,
    token: ClaimToken,
    mut leaving: Vec<ItemId>,
) -> rusqlite::Result<Option<LeftLease>> {
    leaving.sort_unstable();
    leaving.dedup();
    let whole = "DELETE FROM outbox_leases WHERE token = ?1 AND ids = ?2 RETURNING type";
    let mut delete = tx.connection.prepare_cached(whole)?;
    let deleted = delete.query_row(params![token.get(), id_list(&leaving)], |row| cell(row, 0)).optional()?;
    match deleted {
        Some(item_type) => Ok(Some(LeftLease { item_type, ids: leaving })),
        None => shrink_lease(tx, token, &leaving),
    }
}

fn shrink_lease(tx: &WriteTx<'_>, token: ClaimToken, leaving: &[ItemId]) -> rusqlite::Result<Option<LeftLease>> {
    let mut select = tx.connection.prepare_cached("SELECT type, ids FROM outbox_leases WHERE token = ?1")?;
    let found = select.query_row([token.get()], |row| Ok((cell(row, 0)?, read_ids(row, 1)?))).optional()?;
    let Some((item_type, held)) = found else { return Ok(None) };
    let (ids, rest): (Vec<_>, Vec<_>) = held.into_iter().partition(|id| leaving.binary_search(id).is_ok());
    match (ids.is_empty(), rest.is_empty()) {
        (true, _) => {}
        (false, true) => {
            tx.connection.prepare_cached("DELETE FROM outbox_leases WHERE token = ?1")?.execute([token.get()])?;
        }
        (false, false) => {
            let sql = "UPDATE outbox_leases SET count = ?2, ids = ?3 WHERE token = ?1";
            tx.connection.prepare_cached(sql)?.execute(params![token.get(), count(&rest), id_list(&rest)])?;
        }
    }
    Ok(Some(LeftLease { item_type, ids }))
}

/// Deletes a lease that holds no id of an item, so that it hides no others that have run out.
pub(crate) fn drop_lease(tx: &WriteTx<'_>, token: ClaimToken) -> rusqlite::Result<()> {
    tracing::error!(
        token = token.get(),
        "a lease held no id: it was deleted; `outbox doctor` names items that it lost"
    );
    tx.connection.prepare_cached("DELETE FROM outbox_leases WHERE token = ?1")?.execute([token.get()]).map(|_| ())
}

/// An item in a lease, with its past.
pub(crate) struct LeasedItem {
    /// The lease.
    pub(crate) token: ClaimToken,
    /// The attempt, without what only its end tells.
    pub(crate) attempt: AttemptRecord,
    /// The item's past, the claim counted.
    pub(crate) past: Past,
}

/// The item of the claim, if the claim still holds.
pub(crate) fn leased_item(tx: &WriteTx<'_>, claim: &ClaimRef) -> rusqlite::Result<Option<LeasedItem>> {
    let sql = leased("lease.token = ?1 AND leased.value = ?2");
    let values = params![claim.token.get(), claim.id.get()];
    tx.connection.prepare_cached(&sql)?.query_row(values, LeasedItem::read).optional()
}

/// The item, if it is in a lease.
pub(crate) fn leased_by_id(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<Option<LeasedItem>> {
    let sql = leased("leased.value = ?1");
    tx.connection.prepare_cached(&sql)?.query_row([id.get()], LeasedItem::read).optional()
}

/// The tokens as a JSON array.
pub(crate) fn token_list(tokens: &[ClaimToken]) -> String {
    let numbers: Vec<_> = tokens.iter().map(ClaimToken::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// Takes these ids of the lease out of it, and returns their items. An id without an item is dropped, so that it does
/// not hold up others.
pub(crate) fn leave_with_items(
    tx: &WriteTx<'_>,
    token: ClaimToken,
    leaving: &[ItemId],
) -> rusqlite::Result<Vec<LeasedItem>> {
    let mut items = leased_items(tx, token)?;
    items.retain(|leased| leaving.contains(&leased.attempt.id));
    let left = leave_lease(tx, token, leaving.to_vec())?.map(|left| left.ids).unwrap_or_default();
    let is_ghost = |id: &&ItemId| !items.iter().any(|leased| leased.attempt.id == **id);
    for ghost in left.iter().filter(is_ghost) {
        tracing::error!(item.id = ghost.get(), "a lease held the id of no item: it was dropped");
        find_fronts_behind(tx, *ghost)?;
    }
    Ok(items)
}

/// All items of the lease.
fn leased_items(tx: &WriteTx<'_>, token: ClaimToken) -> rusqlite::Result<Vec<LeasedItem>> {
    let sql = leased("lease.token = ?1");
    tx.connection.prepare_cached(&sql)?.query_map([token.get()], LeasedItem::read)?.collect()
}

/// SQL that selects leased items, as [`LeasedItem::read`] reads them. Of `outbox_items` it reads what comes before the
/// payload; what comes after it is in an index, for the items that others may wait for. The correlation id is needed of
/// items of a saga only.
fn leased(condition: &str) -> String {
    format!(
        "SELECT coalesce(past.attempts, 1) AS attempts, coalesce(past.deliveries, 1) AS deliveries,
                coalesce(past.losses, 0) AS losses, coalesce(past.replays, 0) AS replays,
                coalesce(past.effects, 0) AS effects, coalesce(past.give_backs, 0) AS give_backs,
                coalesce(past.maybe_executed, 0) AS maybe_executed, past.given_back_since,
                handler.digest AS handler_digest, past.last_error,
                item.id, lease.type, item.idem_key, linked.saga, coalesce(linked.cid, '') AS cid, linked.ordering_key,
                lease.token AS claim_token, lease.claimed_at, lease.pod AS claimed_by
         FROM outbox_leases AS lease CROSS JOIN json_each(lease.ids) AS leased
         CROSS JOIN outbox_items AS item ON item.id = leased.value
         LEFT JOIN (SELECT id, saga, cid, ordering_key FROM outbox_items INDEXED BY outbox_items_linked
                    WHERE saga IS NOT NULL OR ordering_key IS NOT NULL) AS linked ON linked.id = leased.value
         LEFT JOIN outbox_past AS past ON past.id = leased.value
         LEFT JOIN outbox_handlers AS handler ON handler.id = past.handler
         WHERE {condition}"
    )
}

impl LeasedItem {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let past = past(row)?;
        let attempt = AttemptRecord {
            id: ItemId::new(cell(row, "id")?),
            item_type: text_or_like(row, "type")?,
            saga: optional_text_or_like(row, "saga")?,
            cid: text_or_like(row, "cid")?,
            attempt: past.attempts,
            delivery: past.deliveries,
            started_at: Millis::new(cell(row, "claimed_at")?),
            pod: cell(row, "claimed_by")?,
            maybe_executed: false,
            handler_digest: None,
            exchanges: None,
            ordering_key: optional_text_or_like(row, "ordering_key")?,
            is_alert: is_alert(&text_or_like(row, "idem_key")?),
        };
        Ok(Self { token: ClaimToken::new(cell(row, "claim_token")?), attempt, past })
    }
}

fn count(ids: &[ItemId]) -> i64 {
    i64::try_from(ids.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::empty_outbox;

    /// The columns of `outbox_items` that the statement reads from the table itself, by their places in it.
    fn columns_of_items(sql: &str) -> Vec<i64> {
        let database = empty_outbox();
        let root: i64 = database
            .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'outbox_items'", [], |row| row.get(0))
            .unwrap();
        let mut explain = database.prepare(&format!("EXPLAIN {sql}")).unwrap();
        let read = |row: &Row<'_>| Ok((row.get::<_, String>(1)?, [row.get(2)?, row.get(3)?]));
        let steps: Vec<(String, [i64; 2])> = explain.query_map([], read).unwrap().map(Result::unwrap).collect();
        let opened = steps.iter().filter(|(step, [_, page])| step == "OpenRead" && *page == root);
        let cursors: Vec<_> = opened.map(|(_, [cursor, _])| *cursor).collect();
        let columns = steps.iter().filter(|(step, [cursor, _])| step == "Column" && cursors.contains(cursor));
        columns.map(|(_, [_, column])| *column).collect()
    }

    #[test]
    fn the_end_of_a_claim_reads_nothing_of_an_item_that_comes_after_its_payload() {
        let payload = 3;
        for condition in ["lease.token = 1", "lease.token = 1 AND leased.value = 2", "leased.value = 2"] {
            let columns = columns_of_items(&leased(condition));
            assert!(columns.iter().all(|column| *column < payload), "{condition}: {columns:?}");
        }
        assert_eq!(columns_of_items("SELECT payload, cid FROM outbox_items"), [3, 7]);
    }
}
