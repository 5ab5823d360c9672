//! Claims ready items: each type's share of the limit, in the order of `available_at`.
//!
//! It does not decide what may be claimed of a type (`claim_limits`), nor which item is the head of its ordering key
//! (`ordering`).

use rusqlite::params;

use outbox_core::{Failure, FailureClass, OnDead};
use outbox_item::ItemId;
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::{Claim, ClaimBatch, ClaimRequest, ClaimTerms, ClaimToken, StoreError};

use crate::error::{unavailable, unusable};
use crate::expire::expire_leases;
use crate::rows::{self, COLUMNS, DecodedItem, optional_time};
use crate::settle::{dead_letter, write_history};
use crate::write_tx::{NEWEST_JOB_SQL, WriteTx};
use crate::{claim_limits, saga_signals};

/// Ends expired leases, then claims what the request allows.
pub(crate) fn claim(tx: &mut WriteTx<'_>, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
    expire_leases(tx)?;
    claim_ready(tx, request).map_err(unavailable("claiming items"))
}

/// Gives every type its share of the limit, then what the other types left over. The first type is drawn at random,
/// so that a share that rounds to nothing does not always fall on the same type.
fn claim_ready(tx: &mut WriteTx<'_>, request: &ClaimRequest) -> rusqlite::Result<ClaimBatch> {
    let mut claimed = ClaimBatch::default();
    let types = claim_limits::unpaused(tx, request)?;
    let start = fastrand::usize(..types.len().max(1));
    let rotated = || types.iter().copied().cycle().skip(start).take(types.len());
    for (index, terms) in rotated().enumerate() {
        let left = remaining(request, &claimed);
        let share = left.div_ceil(u32::try_from(types.len() - index).unwrap_or(u32::MAX));
        claim_type(tx, request, terms, share, &mut claimed)?;
    }
    for terms in rotated() {
        let left = remaining(request, &claimed);
        claim_type(tx, request, terms, left, &mut claimed)?;
    }
    for terms in rotated() {
        record_next_available(tx, terms, &mut claimed)?;
    }
    Ok(claimed)
}

fn remaining(request: &ClaimRequest, claimed: &ClaimBatch) -> u32 {
    request.limit.saturating_sub(u32::try_from(claimed.claims.len()).unwrap_or(u32::MAX))
}

fn claim_type(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    terms: &ClaimTerms,
    share: u32,
    claimed: &mut ClaimBatch,
) -> rusqlite::Result<()> {
    let limit = share.min(unclaimed(terms, claimed)).min(claim_limits::free(tx, terms)?);
    let mut left = limit;
    while left > 0 {
        let taken = claim_rows(tx, request, terms, left)?;
        let is_short = taken.len() < left as usize;
        for (decoded, token) in taken {
            if let Some(claim) = accept(tx, terms, decoded, token)? {
                claimed.claims.push(claim);
                left -= 1;
            }
        }
        if is_short && dead_letter_all_exhausted(tx, terms, left)? == 0 {
            break;
        }
    }
    claim_limits::take_tokens(tx, terms, limit - left)
}

/// How many more items of the type this call may claim.
fn unclaimed(terms: &ClaimTerms, claimed: &ClaimBatch) -> u32 {
    let of_type = claimed.claims.iter().filter(|claim| claim.item.item_type == terms.item_type).count();
    terms.limit.saturating_sub(u32::try_from(of_type).unwrap_or(u32::MAX))
}

/// Claims the items that are first in line, in one statement, except those that have no attempt left. An item that is
/// queued behind another of its ordering key is held, and the statement does not read it.
fn claim_rows(
    tx: &WriteTx<'_>,
    request: &ClaimRequest,
    terms: &ClaimTerms,
    limit: u32,
) -> rusqlite::Result<Vec<(DecodedItem, ClaimToken)>> {
    let token = uuid::Uuid::new_v4().simple().to_string();
    let lease_until = tx.now.saturating_add(terms.lease).get();
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = 'CLAIMED', epoch = {NEWEST_JOB_SQL}, attempts = attempts + 1, deliveries = deliveries + 1,
             claimed_at = ?2, claimed_by = ?3, claim_token = ?4 || id, lease_until = ?5
         WHERE id IN (SELECT id FROM (
            SELECT id, attempts FROM outbox_items
            WHERE type = ?1 AND status = 'PENDING' AND held = 0 AND available_at <= ?2
            ORDER BY available_at, id LIMIT ?6) WHERE attempts <= ?7)
         RETURNING {COLUMNS}"
    ))?;
    let arguments =
        params![terms.item_type, tx.now.get(), request.claimed_by, token, lease_until, limit, terms.max_retries];
    let rows = update.query_map(arguments, rows::item)?;
    let mut items: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    // RETURNING has no order of its own.
    items.sort_by_key(|decoded| (decoded.item.available_at, decoded.item.id));
    let with_token = |decoded: DecodedItem| {
        let token = ClaimToken::new(format!("{token}{}", decoded.item.id));
        (decoded, token)
    };
    Ok(items.into_iter().map(with_token).collect())
}

/// The claim, or `None` when the row cannot be read and was dead-lettered.
fn accept(
    tx: &mut WriteTx<'_>,
    terms: &ClaimTerms,
    decoded: DecodedItem,
    token: ClaimToken,
) -> rusqlite::Result<Option<Claim>> {
    let claim = Claim { item: decoded.item, token };
    if let Some(saga) = &claim.item.saga {
        saga_signals::begin_run_if_none(tx, saga, &claim.item.cid, claim.item.replays)?;
    }
    match decoded.defect {
        None => Ok(Some(claim)),
        Some(defect) => dead_letter_undecodable(tx, &claim, terms.on_dead, defect).map(|()| None),
    }
}

/// Dead-letters those of the first `limit` ready items that have no attempt left. Returns how many.
fn dead_letter_all_exhausted(tx: &mut WriteTx<'_>, terms: &ClaimTerms, limit: u32) -> rusqlite::Result<usize> {
    let ready: Vec<(ItemId, u32)> = {
        let mut select = tx.connection.prepare_cached(
            "SELECT id, attempts FROM outbox_items
             WHERE type = ?1 AND status = 'PENDING' AND held = 0 AND available_at <= ?2
             ORDER BY available_at, id LIMIT ?3",
        )?;
        let rows = select.query_map(params![terms.item_type, tx.now.get(), limit], |row| {
            Ok((ItemId::new(row.get(0)?), row.get(1)?))
        })?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    let exhausted: Vec<_> = ready.into_iter().filter(|(_, attempts)| *attempts > terms.max_retries).collect();
    for (id, _) in &exhausted {
        dead_letter_exhausted(tx, *id, terms.on_dead)?;
    }
    Ok(exhausted.len())
}

/// Dead-letters an item whose row cannot be read, so that it does not stop the others.
fn dead_letter_undecodable(
    tx: &mut WriteTx<'_>,
    claim: &Claim,
    on_dead: OnDead,
    defect: String,
) -> rusqlite::Result<()> {
    let attempted = AttemptRecord::from_claim(&ClaimedItem::of_row(&claim.item).map_err(unusable)?);
    let failure = Failure::new(FailureClass::Undecodable, "row.undecodable", defect);
    write_history(tx, &attempted, &failure, None)?;
    dead_letter(tx, &attempted, on_dead, &failure)
}

/// Dead-letters an item that has no retries left: the claim that finds it ends at once, without an attempt. The history
/// has a row for the last failure already.
fn dead_letter_exhausted(tx: &mut WriteTx<'_>, id: ItemId, on_dead: OnDead) -> rusqlite::Result<()> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_items WHERE id = ?1");
    let item = tx.connection.prepare_cached(&sql)?.query_row([id.get()], rows::item)?.item;
    if let Some(saga) = &item.saga {
        saga_signals::begin_run_if_none(tx, saga, &item.cid, item.replays)?;
    }
    let message = item.last_error.clone().unwrap_or_else(|| "no retries are left".into());
    let failure = Failure::new(FailureClass::Lost, "retries.exhausted", message);
    let claim = ClaimedItem { item: &item, claimed_at: tx.now, claimed_by: tx.pod };
    let attempted = AttemptRecord { handler_digest: item.handler_digest.clone(), ..AttemptRecord::from_claim(&claim) };
    dead_letter(tx, &attempted, on_dead, &failure)
}

/// Lowers `next_available_in` to the time until an item of the type becomes available, or until a type that has used
/// up its rate has a token again.
fn record_next_available(tx: &WriteTx<'_>, terms: &ClaimTerms, claimed: &mut ClaimBatch) -> rusqlite::Result<()> {
    let mut select = tx.connection.prepare_cached(
        "SELECT min(available_at) FROM outbox_items
         WHERE status = 'PENDING' AND held = 0 AND type = ?1 AND available_at > ?2",
    )?;
    let next = select.query_row(params![terms.item_type, tx.now.get()], |row| optional_time(row, 0))?;
    let timed = next.map(|at| at.since(tx.now));
    let refilled = claim_limits::until_next_token(tx, terms)?;
    claimed.next_available_in = [claimed.next_available_in, timed, refilled].into_iter().flatten().min();
    Ok(())
}
