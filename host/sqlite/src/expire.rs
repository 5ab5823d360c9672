//! Ends leases that ran out.
//!
//! It knows the lease and the history of its items. Who calls it, and how often, is the caller's.

use rusqlite::params;

use outbox_core::saga::StepOutcome;
use outbox_core::{ClaimedPast, Failure, ItemMove};
use outbox_item::{ItemId, Millis};
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::store_failures::lease_expired;
use outbox_store::{ClaimToken, StoreError};

use crate::error::unavailable;
use crate::id_list::read_ids;
use crate::leases::{LeasedItem, drop_lease, leave_with_items, token_list};
use crate::places::arrive;
use crate::saga_signals;
use crate::settle::{claimed_past, streak_behind, write_history};
use crate::write_tx::WriteTx;

/// Items whose claims one transaction ends, so that it stays short; the rest follow in the next.
const EXPIRE_MAX: usize = 100;

/// Ends claims whose leases have run out by now and by `latest`, of any type, except the `spared` ones: the items are
/// PENDING again at once, and their history says that the attempt was lost. Returns how many claims it ended.
pub(crate) fn expire_leases(tx: &mut WriteTx<'_>, latest: Millis, spared: &[ClaimToken]) -> Result<u32, StoreError> {
    let ended = end_expired(tx, tx.now.min(latest), spared).map_err(unavailable("ending expired leases"))?;
    tx.wakes_workers |= ended > 0;
    Ok(u32::try_from(ended).unwrap_or(u32::MAX))
}

fn end_expired(tx: &mut WriteTx<'_>, by: Millis, spared: &[ClaimToken]) -> rusqlite::Result<usize> {
    let mut ended = 0;
    for (token, ids) in expired(tx, by, spared)? {
        if ended == EXPIRE_MAX {
            break;
        }
        if ids.is_empty() {
            drop_lease(tx, token)?;
            continue;
        }
        let first: Vec<_> = ids.into_iter().take(EXPIRE_MAX - ended).collect();
        ended += expire_what_can_be(tx, token, &first)?;
    }
    Ok(ended)
}

/// Ends the claims of these items of the lease: together, or each by itself when one of them cannot be ended, so that
/// it does not hold up the others. Returns how many claims it ended.
fn expire_what_can_be(tx: &mut WriteTx<'_>, token: ClaimToken, ending: &[ItemId]) -> rusqlite::Result<usize> {
    let err = match tx.in_savepoint(|tx| expire(tx, token, ending))? {
        Ok(()) => return Ok(ending.len()),
        Err(err) => err,
    };
    if let [id] = ending {
        tracing::error!(item.id = id.get(), error = %err, "an expired lease cannot be ended: trying again");
        return Ok(0);
    }
    let mut ended = 0;
    // From the last one on, so that each takes along no more of its streak than has to leave with it.
    for id in ending.iter().rev() {
        ended += expire_what_can_be(tx, token, &[*id])?;
    }
    Ok(ended)
}

/// The leases that have run out by then, oldest first, with the ids in them.
fn expired(tx: &WriteTx<'_>, by: Millis, spared: &[ClaimToken]) -> rusqlite::Result<Vec<(ClaimToken, Vec<ItemId>)>> {
    let mut select = tx.connection.prepare_cached(
        "SELECT token, ids FROM outbox_leases
         WHERE lease_until <= ?1 AND token NOT IN (SELECT value FROM json_each(?2))
         ORDER BY lease_until, token LIMIT ?3",
    )?;
    let values = params![by.get(), token_list(spared), EXPIRE_MAX];
    let rows = select.query_map(values, |row| Ok((ClaimToken::new(row.get(0)?), read_ids(row, 1)?)))?;
    rows.collect()
}

/// Ends the claims of these items of the lease, and of what follows them in their streaks: those attempts may have begun
/// too.
fn expire(tx: &mut WriteTx<'_>, token: ClaimToken, ending: &[ItemId]) -> rusqlite::Result<()> {
    let mut items = leave_with_items(tx, token, ending)?;
    let mut behind = Vec::new();
    for leased in &items {
        behind.extend(streak_behind(tx, leased)?);
    }
    behind.retain(|id| !ending.contains(id));
    if !behind.is_empty() {
        items.extend(leave_with_items(tx, token, &behind)?);
    }
    items.iter().try_for_each(|leased| end_lease(tx, leased, &lease_expired(&leased.attempt.pod), ItemMove::expired))
}

/// The claim of an item that has left its lease ends without a settlement: PENDING at once, as `decide` says, with
/// `failure` in the history.
pub(crate) fn end_lease(
    tx: &mut WriteTx<'_>,
    ended: &LeasedItem,
    failure: &Failure,
    decide: fn(ClaimedPast<'_>, &Failure, Millis) -> ItemMove,
) -> rusqlite::Result<()> {
    let attempt = AttemptRecord { maybe_executed: true, ..ended.attempt.clone() };
    write_history(tx, &attempt, failure, None)?;
    arrive(tx, &attempt, &decide(claimed_past(&attempt, &ended.past), failure, tx.now))?;
    saga_signals::advance_run(tx, &attempt, StepOutcome::Retried, failure.class.as_str())
}
