//! Claiming what is ready, and ending leases that ran out.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use crate::jobs::NEWEST_JOB_SQL;
use crate::rows::{COLUMNS, DecodedItem};
use crate::settle::{dead_letter, write_history};
use crate::write_tx::WriteTx;
use crate::{rows, unavailable};
use outbox_core::saga::StepOutcome;
use outbox_core::{Failure, FailureClass, OnDead};
use outbox_item::{ItemId, Millis, Status, Transition};
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::millis;
use outbox_store::engine::token_bucket::available_tokens;
use outbox_store::{Claim, ClaimBatch, ClaimRequest, ClaimTerms, StoreError};

/// So many expired leases are ended in one transaction; the rest follow in the next.
const EXPIRE_MAX: u32 = 100;

pub(crate) fn claim(tx: &mut WriteTx<'_>, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
    expire_leases(tx)?;
    claim_ready(tx, request).map_err(unavailable("claiming items"))
}

/// Gives every type its share of the limit, then what others left over. Starts at another type each
/// time, so that a share that rounds to nothing falls on each in turn.
fn claim_ready(tx: &mut WriteTx<'_>, request: &ClaimRequest) -> rusqlite::Result<ClaimBatch> {
    let mut claimed = ClaimBatch::default();
    let types = unpaused(tx, request)?;
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

/// The terms of the types that no operator has paused.
fn unpaused<'a>(tx: &WriteTx<'_>, request: &'a ClaimRequest) -> rusqlite::Result<Vec<&'a ClaimTerms>> {
    let mut select = tx.connection.prepare_cached("SELECT type FROM outbox_pauses")?;
    let paused: Vec<String> = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(request.types.iter().filter(|terms| !paused.contains(&terms.item_type)).collect())
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
    let limit = share.min(unclaimed(terms, claimed)).min(free_concurrency(tx, terms)?).min(tokens(tx, terms)?);
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
    take_tokens(tx, terms, limit - left)
}

/// How many more items of the type this call may claim.
fn unclaimed(terms: &ClaimTerms, claimed: &ClaimBatch) -> u32 {
    let of_type = claimed.claims.iter().filter(|claim| claim.item.item_type == terms.item_type).count();
    terms.limit.saturating_sub(u32::try_from(of_type).unwrap_or(u32::MAX))
}

/// Moves the items that are first in line to CLAIMED, in one statement, but for those that have no attempt
/// left. Items that wait behind another of their ordering key are held, and not looked at.
fn claim_rows(
    tx: &WriteTx<'_>,
    request: &ClaimRequest,
    terms: &ClaimTerms,
    limit: u32,
) -> rusqlite::Result<Vec<(DecodedItem, String)>> {
    let token = uuid::Uuid::new_v4().simple().to_string();
    let lease_until = tx.now.saturating_add(millis(terms.lease));
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
    let arguments = params![terms.item_type, tx.now, request.claimed_by, token, lease_until, limit, terms.max_retries];
    let rows = update.query_map(arguments, rows::item)?;
    let mut items: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    // The statement answers in the order of its own work.
    items.sort_by_key(|decoded| (decoded.item.available_at, decoded.item.id));
    let with_token = |decoded: DecodedItem| {
        let token = format!("{token}{}", decoded.item.id);
        (decoded, token)
    };
    Ok(items.into_iter().map(with_token).collect())
}

fn accept(
    tx: &mut WriteTx<'_>,
    terms: &ClaimTerms,
    decoded: DecodedItem,
    token: String,
) -> rusqlite::Result<Option<Claim>> {
    let claim = Claim { item: decoded.item, token };
    if let Some(saga) = &claim.item.saga {
        crate::saga_signals::begin_run_if_none(tx, saga, &claim.item.cid, claim.item.replays)?;
    }
    match decoded.defect {
        None => Ok(Some(claim)),
        Some(defect) => dead_letter_undecodable(tx, &claim, terms.on_dead, defect).map(|()| None),
    }
}

/// Dead-letters those of the items first in line that have no attempt left. Answers how many they were.
fn dead_letter_all_exhausted(tx: &mut WriteTx<'_>, terms: &ClaimTerms, limit: u32) -> rusqlite::Result<usize> {
    let ready: Vec<(ItemId, u32)> = {
        let mut select = tx.connection.prepare_cached(
            "SELECT id, attempts FROM outbox_items
             WHERE type = ?1 AND status = 'PENDING' AND held = 0 AND available_at <= ?2
             ORDER BY available_at, id LIMIT ?3",
        )?;
        let rows = select.query_map(params![terms.item_type, tx.now, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    let exhausted: Vec<_> = ready.into_iter().filter(|(_, attempts)| *attempts > terms.max_retries).collect();
    for (id, _) in &exhausted {
        dead_letter_exhausted(tx, *id, terms.on_dead)?;
    }
    Ok(exhausted.len())
}

/// An item that cannot be read goes to the DLQ with the reason, and stops nothing else.
fn dead_letter_undecodable(
    tx: &mut WriteTx<'_>,
    claim: &Claim,
    on_dead: OnDead,
    defect: String,
) -> rusqlite::Result<()> {
    let attempted = AttemptRecord::from_claim(&claim.item);
    let failure = Failure::new(FailureClass::Undecodable, "row.undecodable", defect);
    write_history(tx, &attempted, &failure, None)?;
    dead_letter(tx, &attempted, on_dead, &failure)
}

/// No retries are left, so the claim that finds the item dead-letters it instead of running it. What it
/// died of stands in its history already.
fn dead_letter_exhausted(tx: &mut WriteTx<'_>, id: ItemId, on_dead: OnDead) -> rusqlite::Result<()> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_items WHERE id = ?1");
    let item = tx.connection.prepare_cached(&sql)?.query_row([id], rows::item)?.item;
    if let Some(saga) = &item.saga {
        crate::saga_signals::begin_run_if_none(tx, saga, &item.cid, item.replays)?;
    }
    let message = item.last_error.clone().unwrap_or_else(|| "no retries are left".into());
    let failure = Failure::new(FailureClass::Lost, "retries.exhausted", message);
    let attempted = AttemptRecord { handler_digest: item.handler_digest.clone(), ..AttemptRecord::from_claim(&item) };
    dead_letter(tx, &attempted, on_dead, &failure)
}

/// How many more items of the type may be claimed before its concurrency, over all processes, is used up.
fn free_concurrency(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<u32> {
    let Some(concurrency) = terms.concurrency else { return Ok(u32::MAX) };
    let mut count =
        tx.connection.prepare_cached("SELECT count(*) FROM outbox_items WHERE status = 'CLAIMED' AND type = ?1")?;
    let claimed: u32 = count.query_row([&terms.item_type], |row| row.get(0))?;
    Ok(concurrency.saturating_sub(claimed))
}

/// The whole tokens in the type's bucket.
fn tokens(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<u32> {
    let Some(rate) = terms.rate else { return Ok(u32::MAX) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
    let whole = bucket(tx, terms, rate)? as u32;
    Ok(whole)
}

fn bucket(tx: &WriteTx<'_>, terms: &ClaimTerms, rate: f64) -> rusqlite::Result<f64> {
    let mut select = tx.connection.prepare_cached("SELECT tokens, filled_at FROM outbox_rates WHERE type = ?1")?;
    let stored: Option<(f64, Millis)> =
        select.query_row([&terms.item_type], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(available_tokens(rate, stored, tx.now))
}

fn take_tokens(tx: &WriteTx<'_>, terms: &ClaimTerms, taken: u32) -> rusqlite::Result<()> {
    let Some(rate) = terms.rate else { return Ok(()) };
    if taken == 0 {
        return Ok(());
    }
    let left = bucket(tx, terms, rate)? - f64::from(taken);
    let mut write = tx.connection.prepare_cached(
        "INSERT INTO outbox_rates (type, tokens, filled_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET tokens = excluded.tokens, filled_at = excluded.filled_at",
    )?;
    write.execute(params![terms.item_type, left, tx.now])?;
    Ok(())
}

/// Notes when an item of the type becomes available, if that is sooner than what is known. A type that
/// has used up its rate is looked at again when it has a token.
fn record_next_available(tx: &WriteTx<'_>, terms: &ClaimTerms, claimed: &mut ClaimBatch) -> rusqlite::Result<()> {
    let mut select = tx.connection.prepare_cached(
        "SELECT min(available_at) FROM outbox_items
         WHERE status = 'PENDING' AND held = 0 AND type = ?1 AND available_at > ?2",
    )?;
    let next: Option<Millis> = select.query_row(params![terms.item_type, tx.now], |row| row.get(0))?;
    let timed = next.map(|at| Duration::from_millis(u64::try_from(at - tx.now).unwrap_or(0)));
    let refilled = match terms.rate {
        Some(rate) if tokens(tx, terms)? == 0 => {
            Some(Duration::from_secs_f64((1.0 - bucket(tx, terms, rate)?).max(0.0) / rate))
        }
        _ => None,
    };
    claimed.next_available_in = [claimed.next_available_in, timed, refilled].into_iter().flatten().min();
    Ok(())
}

/// Ends a batch of leases that have run out, of any type: the item is PENDING again, at once, and its
/// history says that the attempt was lost.
pub(crate) fn expire_leases(tx: &mut WriteTx<'_>) -> Result<u32, StoreError> {
    let expired = expired(tx).map_err(unavailable("finding expired leases"))?;
    for attempted in &expired {
        expire_claim(tx, attempted).map_err(unavailable("ending an expired lease"))?;
    }
    tx.wakes_workers |= !expired.is_empty();
    Ok(u32::try_from(expired.len()).unwrap_or(u32::MAX))
}

fn expired(tx: &WriteTx<'_>) -> rusqlite::Result<Vec<AttemptRecord>> {
    let mut select = tx.connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM outbox_items
         WHERE status = 'CLAIMED' AND lease_until <= ?1 ORDER BY lease_until LIMIT ?2"
    ))?;
    select
        .query_map(params![tx.now, EXPIRE_MAX], |row| Ok(AttemptRecord::from_claim(&rows::item(row)?.item)))?
        .collect()
}

fn expire_claim(tx: &mut WriteTx<'_>, attempted: &AttemptRecord) -> rusqlite::Result<()> {
    let Ok(status) = Status::Claimed.next(Transition::Expire) else { return Ok(()) };
    let message = format!("the lease ended before {} settled the attempt: it died or was suspended", attempted.pod);
    let failure = Failure::new(FailureClass::Lost, "lease.expired", message);
    let mut attempted = attempted.clone();
    attempted.maybe_executed = true;
    write_history(tx, &attempted, &failure, None)?;
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL}, available_at = ?3, maybe_executed = 1, last_error = ?4, given_back_since = NULL,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![attempted.id, status.as_str(), tx.now, failure.message])?;
    crate::saga_signals::advance_run(tx, &attempted, StepOutcome::Retried, failure.class.as_str())
}
