//! Claiming what is ready, and ending leases that ran out.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::decode::{self, COLUMNS, Decoded};
use super::enqueue::millis;
use super::job::EPOCH;
use super::settle::{Attempted, dead_letter, write_history};
use super::step::Step;
use super::unavailable;
use crate::item::{Class, Event, Failure, ItemId, Millis, OnDead, Status};
use crate::saga::StepOutcome;
use crate::store::{Claim, ClaimRequest, Claimed, StoreError, TypeClaim};

/// So many expired leases are ended in one transaction; the rest follow in the next.
const EXPIRE_MAX: u32 = 100;

pub(super) fn claim(step: &mut Step<'_>, request: &ClaimRequest) -> Result<Claimed, StoreError> {
    expire(step)?;
    claim_ready(step, request).map_err(unavailable("claiming items"))
}

/// Gives every type its share of the limit, then what others left over. Starts at another type each
/// time, so that a share that rounds to nothing falls on each in turn.
fn claim_ready(step: &mut Step<'_>, request: &ClaimRequest) -> rusqlite::Result<Claimed> {
    let mut claimed = Claimed::default();
    let types = unpaused(step, request)?;
    let start = fastrand::usize(..types.len().max(1));
    let rotated = || types.iter().copied().cycle().skip(start).take(types.len());
    for (index, terms) in rotated().enumerate() {
        let left = remaining(request, &claimed);
        let share = left.div_ceil(u32::try_from(types.len() - index).unwrap_or(u32::MAX));
        claim_type(step, request, terms, share, &mut claimed)?;
    }
    for terms in rotated() {
        let left = remaining(request, &claimed);
        claim_type(step, request, terms, left, &mut claimed)?;
    }
    for terms in rotated() {
        note_next(step, terms, &mut claimed)?;
    }
    Ok(claimed)
}

/// The terms of the types that no operator has paused.
fn unpaused<'a>(step: &Step<'_>, request: &'a ClaimRequest) -> rusqlite::Result<Vec<&'a TypeClaim>> {
    let mut select = step.tx.prepare_cached("SELECT type FROM outbox_pauses")?;
    let paused: Vec<String> = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(request.types.iter().filter(|terms| !paused.contains(&terms.item_type)).collect())
}

fn remaining(request: &ClaimRequest, claimed: &Claimed) -> u32 {
    request.limit.saturating_sub(u32::try_from(claimed.claims.len()).unwrap_or(u32::MAX))
}

fn claim_type(
    step: &mut Step<'_>,
    request: &ClaimRequest,
    terms: &TypeClaim,
    share: u32,
    claimed: &mut Claimed,
) -> rusqlite::Result<()> {
    let limit = share.min(unclaimed(terms, claimed)).min(free_concurrency(step, terms)?).min(tokens(step, terms)?);
    let mut left = limit;
    while left > 0 {
        let taken = take(step, request, terms, left)?;
        let is_short = taken.len() < left as usize;
        for (decoded, token) in taken {
            if let Some(claim) = accept(step, terms, decoded, token)? {
                claimed.claims.push(claim);
                left -= 1;
            }
        }
        if is_short && exhaust_ready(step, terms, left)? == 0 {
            break;
        }
    }
    take_tokens(step, terms, limit - left)
}

/// How many more items of the type this call may claim.
fn unclaimed(terms: &TypeClaim, claimed: &Claimed) -> u32 {
    let of_type = claimed.claims.iter().filter(|claim| claim.item.item_type == terms.item_type).count();
    terms.limit.saturating_sub(u32::try_from(of_type).unwrap_or(u32::MAX))
}

/// Moves the items that are first in line to CLAIMED, in one statement, but for those that have no attempt
/// left. Items that wait behind another of their ordering key are held, and not looked at.
fn take(
    step: &Step<'_>,
    request: &ClaimRequest,
    terms: &TypeClaim,
    limit: u32,
) -> rusqlite::Result<Vec<(Decoded, String)>> {
    let token = uuid::Uuid::new_v4().simple().to_string();
    let lease_until = step.now.saturating_add(millis(terms.lease));
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = 'CLAIMED', epoch = {EPOCH}, attempts = attempts + 1, deliveries = deliveries + 1,
             claimed_at = ?2, claimed_by = ?3, claim_token = ?4 || id, lease_until = ?5
         WHERE id IN (SELECT id FROM (
            SELECT id, attempts FROM outbox_items
            WHERE type = ?1 AND status = 'PENDING' AND held = 0 AND available_at <= ?2
            ORDER BY available_at, id LIMIT ?6) WHERE attempts <= ?7)
         RETURNING {COLUMNS}"
    ))?;
    let arguments =
        params![terms.item_type, step.now, request.claimed_by, token, lease_until, limit, terms.max_retries];
    let rows = update.query_map(arguments, decode::item)?;
    let mut items: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    // The statement answers in the order of its own work.
    items.sort_by_key(|decoded| (decoded.item.available_at, decoded.item.id));
    let with_token = |decoded: Decoded| {
        let token = format!("{token}{}", decoded.item.id);
        (decoded, token)
    };
    Ok(items.into_iter().map(with_token).collect())
}

fn accept(step: &mut Step<'_>, terms: &TypeClaim, decoded: Decoded, token: String) -> rusqlite::Result<Option<Claim>> {
    let claim = Claim { item: decoded.item, token };
    if let Some(saga) = &claim.item.saga {
        super::saga::join(step, saga, &claim.item.cid, claim.item.replays)?;
    }
    match decoded.defect {
        None => Ok(Some(claim)),
        Some(defect) => bury(step, &claim, terms.on_dead, defect).map(|()| None),
    }
}

/// Dead-letters those of the items first in line that have no attempt left. Answers how many they were.
fn exhaust_ready(step: &mut Step<'_>, terms: &TypeClaim, limit: u32) -> rusqlite::Result<usize> {
    let ready: Vec<(ItemId, u32)> = {
        let mut select = step.tx.prepare_cached(
            "SELECT id, attempts FROM outbox_items
             WHERE type = ?1 AND status = 'PENDING' AND held = 0 AND available_at <= ?2
             ORDER BY available_at, id LIMIT ?3",
        )?;
        let rows = select.query_map(params![terms.item_type, step.now, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    let exhausted: Vec<_> = ready.into_iter().filter(|(_, attempts)| *attempts > terms.max_retries).collect();
    for (id, _) in &exhausted {
        exhaust(step, *id, terms.on_dead)?;
    }
    Ok(exhausted.len())
}

/// An item that cannot be read goes to the DLQ with the reason, and stops nothing else.
fn bury(step: &mut Step<'_>, claim: &Claim, on_dead: OnDead, defect: String) -> rusqlite::Result<()> {
    let attempted = Attempted::of(&claim.item);
    let failure = Failure::new(Class::Undecodable, "row.undecodable", defect);
    write_history(step, &attempted, &failure, None)?;
    dead_letter(step, &attempted, on_dead, &failure)
}

/// No retries are left, so the claim that finds the item dead-letters it instead of running it. What it
/// died of stands in its history already.
fn exhaust(step: &mut Step<'_>, id: ItemId, on_dead: OnDead) -> rusqlite::Result<()> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_items WHERE id = ?1");
    let item = step.tx.prepare_cached(&sql)?.query_row([id], decode::item)?.item;
    if let Some(saga) = &item.saga {
        super::saga::join(step, saga, &item.cid, item.replays)?;
    }
    let message = item.last_error.clone().unwrap_or_else(|| "no retries are left".into());
    let failure = Failure::new(Class::Lost, "retries.exhausted", message);
    let attempted = Attempted { handler_digest: item.handler_digest.clone(), ..Attempted::of(&item) };
    dead_letter(step, &attempted, on_dead, &failure)
}

/// How many more items of the type may be claimed before its concurrency, over all processes, is used up.
fn free_concurrency(step: &Step<'_>, terms: &TypeClaim) -> rusqlite::Result<u32> {
    let Some(concurrency) = terms.concurrency else { return Ok(u32::MAX) };
    let mut count =
        step.tx.prepare_cached("SELECT count(*) FROM outbox_items WHERE status = 'CLAIMED' AND type = ?1")?;
    let claimed: u32 = count.query_row([&terms.item_type], |row| row.get(0))?;
    Ok(concurrency.saturating_sub(claimed))
}

/// The whole tokens in the type's bucket. It holds one second's worth, and at least one.
fn tokens(step: &Step<'_>, terms: &TypeClaim) -> rusqlite::Result<u32> {
    let Some(rate) = terms.rate else { return Ok(u32::MAX) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
    let whole = level(step, terms, rate)? as u32;
    Ok(whole)
}

fn level(step: &Step<'_>, terms: &TypeClaim, rate: f64) -> rusqlite::Result<f64> {
    let mut select = step.tx.prepare_cached("SELECT tokens, filled_at FROM outbox_rates WHERE type = ?1")?;
    let stored: Option<(f64, Millis)> =
        select.query_row([&terms.item_type], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let full = rate.max(1.0);
    let Some((tokens, filled_at)) = stored else { return Ok(full) };
    let elapsed = Duration::from_millis(u64::try_from(step.now - filled_at).unwrap_or(0));
    Ok(rate.mul_add(elapsed.as_secs_f64(), tokens).min(full))
}

fn take_tokens(step: &Step<'_>, terms: &TypeClaim, taken: u32) -> rusqlite::Result<()> {
    let Some(rate) = terms.rate else { return Ok(()) };
    if taken == 0 {
        return Ok(());
    }
    let left = level(step, terms, rate)? - f64::from(taken);
    let mut write = step.tx.prepare_cached(
        "INSERT INTO outbox_rates (type, tokens, filled_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET tokens = excluded.tokens, filled_at = excluded.filled_at",
    )?;
    write.execute(params![terms.item_type, left, step.now])?;
    Ok(())
}

/// Notes when an item of the type becomes available, if that is sooner than what is known. A type that
/// has used up its rate is looked at again when it has a token.
fn note_next(step: &Step<'_>, terms: &TypeClaim, claimed: &mut Claimed) -> rusqlite::Result<()> {
    let mut select = step.tx.prepare_cached(
        "SELECT min(available_at) FROM outbox_items
         WHERE status = 'PENDING' AND held = 0 AND type = ?1 AND available_at > ?2",
    )?;
    let next: Option<Millis> = select.query_row(params![terms.item_type, step.now], |row| row.get(0))?;
    let timed = next.map(|at| Duration::from_millis(u64::try_from(at - step.now).unwrap_or(0)));
    let refilled = match terms.rate {
        Some(rate) if tokens(step, terms)? == 0 => {
            Some(Duration::from_secs_f64((1.0 - level(step, terms, rate)?).max(0.0) / rate))
        }
        _ => None,
    };
    claimed.next_in = [claimed.next_in, timed, refilled].into_iter().flatten().min();
    Ok(())
}

/// Ends a batch of leases that have run out, of any type: the item is PENDING again, at once, and its
/// history says that the attempt was lost.
pub(super) fn expire(step: &mut Step<'_>) -> Result<u32, StoreError> {
    let expired = expired(step).map_err(unavailable("finding expired leases"))?;
    for attempted in &expired {
        lose(step, attempted).map_err(unavailable("ending an expired lease"))?;
    }
    step.makes_work |= !expired.is_empty();
    Ok(u32::try_from(expired.len()).unwrap_or(u32::MAX))
}

fn expired(step: &Step<'_>) -> rusqlite::Result<Vec<Attempted>> {
    let mut select = step.tx.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM outbox_items
         WHERE status = 'CLAIMED' AND lease_until <= ?1 ORDER BY lease_until LIMIT ?2"
    ))?;
    select.query_map(params![step.now, EXPIRE_MAX], |row| Ok(Attempted::of(&decode::item(row)?.item)))?.collect()
}

fn lose(step: &mut Step<'_>, attempted: &Attempted) -> rusqlite::Result<()> {
    let Ok(status) = Status::Claimed.next(Event::Expire) else { return Ok(()) };
    let message = format!("the lease ended before {} settled the attempt: it died or was suspended", attempted.pod);
    let failure = Failure::new(Class::Lost, "lease.expired", message);
    let mut attempted = attempted.clone();
    attempted.maybe_executed = true;
    write_history(step, &attempted, &failure, None)?;
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {EPOCH}, available_at = ?3, maybe_executed = 1, last_error = ?4, given_back_since = NULL,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![attempted.id, status.as_str(), step.now, failure.message])?;
    super::saga::step(step, &attempted, StepOutcome::Retried, failure.class.as_str())
}
