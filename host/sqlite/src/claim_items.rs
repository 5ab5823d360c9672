//! Leases items that have left the queue: reads each of them once, counts the claim, and puts them into the lease.
//!
//! An item that has no attempt left, or that cannot be read, is dead-lettered instead. It does not decide which items are
//! taken (`claim`, `fair_keys`, `suspects`).

use std::collections::HashMap;

use rusqlite::{Row, params};

use outbox_core::{CrashBudget, OnDead, Past, has_attempt_left};
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::engine::store_failures::{crashes_exhausted, retries_exhausted, row_undecodable};
use outbox_store::{Claim, ClaimRequest, ClaimTerms, ClaimToken};

use crate::error::unusable;
use crate::id_list::id_list;
use crate::leases::{NewLease, enter_lease};
use crate::ordering::find_fronts_behind;
use crate::past::{COUNT_MAX, count_claim, keep_due_time, read_pasts};
use crate::rows::{self, DecodedItem, ENQUEUED_COLUMNS, time};
use crate::saga_signals;
use crate::settle::{dead_letter, write_history};
use crate::write_tx::WriteTx;

/// An item that has left the queue, as it was there.
pub(crate) struct TakenItem {
    pub(crate) id: ItemId,
    pub(crate) available_at: Millis,
    /// Whether the item has a row in `outbox_past`.
    pub(crate) has_past: bool,
}

impl TakenItem {
    /// Runs a statement that returns such rows.
    pub(crate) fn take(tx: &WriteTx<'_>, sql: &str, terms: &ClaimTerms, limit: u32) -> rusqlite::Result<Vec<Self>> {
        let mut statement = tx.connection.prepare_cached(sql)?;
        statement.query_map(params![terms.item_type, tx.now.get(), limit], Self::read)?.collect()
    }

    /// Reads a row with the columns id, due time and `again`.
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { id: ItemId::new(row.get(0)?), available_at: time(row, 1)?, has_past: row.get(2)? })
    }
}

/// Items without a fairness key that are first in line: type, time, number.
pub(crate) const FIRST_IN_LINE: &str = "SELECT id, available_at, again FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NULL AND available_at <= ?2
    ORDER BY available_at, id LIMIT ?3";

/// Puts the items of the type into the lease with the token. Returns the claims in the order of the items.
pub(crate) fn lease_items(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    terms: &ClaimTerms,
    token: ClaimToken,
    items: &[TakenItem],
) -> rusqlite::Result<Vec<Claim>> {
    let lease_until = tx.now.saturating_add(terms.lease);
    let lease = NewLease { token, item_type: &terms.item_type, claimed_by: &request.claimed_by, lease_until };
    let mut leased = Vec::with_capacity(items.len());
    for mut candidate in candidates(tx, items)? {
        if admit(tx, &lease, terms, request.suspects.budget, &mut candidate)? {
            leased.push(candidate);
        }
    }
    let ids: Vec<_> = leased.iter().map(|candidate| candidate.item.id).collect();
    let counted: Vec<_> =
        leased.iter().filter(|candidate| candidate.has_past).map(|candidate| candidate.item.id).collect();
    if !ids.is_empty() {
        enter_lease(tx, &lease, &ids)?;
    }
    if !counted.is_empty() {
        count_claim(tx, &counted)?;
    }
    Ok(leased.into_iter().map(|candidate| Claim { item: candidate.item, token }).collect())
}

/// An item that a claim may return.
struct Candidate {
    item: Item,
    /// The first of its parts that could not be read.
    defect: Option<String>,
    /// Whether the item has a row in `outbox_past`.
    has_past: bool,
}

/// The items with their pasts, in the order of `taken`. An id without an item is dropped, so that it does not hold up
/// others.
fn candidates(tx: &WriteTx<'_>, taken: &[TakenItem]) -> rusqlite::Result<Vec<Candidate>> {
    let again: Vec<_> = taken.iter().filter(|taken| taken.has_past).map(|taken| taken.id).collect();
    let mut pasts = if again.is_empty() { HashMap::new() } else { read_pasts(tx, &again)? };
    let items = read_items(tx, taken)?;
    let mut candidates = Vec::with_capacity(taken.len());
    for (taken, item) in taken.iter().zip(items) {
        match item {
            Some(found) => candidates.push(candidate(tx, taken, found, pasts.remove(&taken.id))?),
            None => drop_id(tx, taken)?,
        }
    }
    Ok(candidates)
}

/// The items in the order of `taken`; `None` for an id without an item.
fn read_items(tx: &WriteTx<'_>, taken: &[TakenItem]) -> rusqlite::Result<Vec<Option<DecodedItem>>> {
    let mut places: Vec<_> = taken.iter().map(|taken| taken.id).zip(0..).collect();
    places.sort_unstable();
    let ids: Vec<_> = places.iter().map(|(id, _)| *id).collect();
    let sql = format!("SELECT {ENQUEUED_COLUMNS} FROM outbox_items WHERE id IN (SELECT value FROM json_each(?1))");
    let mut select = tx.connection.prepare_cached(&sql)?;
    let mut rows = select.query([id_list(&ids)])?;
    let mut items = Vec::new();
    items.resize_with(taken.len(), || None);
    while let Some(row) = rows.next()? {
        let decoded = rows::enqueued(row)?;
        if let Ok(found) = ids.binary_search(&decoded.item.id) {
            let (_, place): (_, usize) = places[found];
            items[place] = Some(decoded);
        }
    }
    Ok(items)
}

/// The item as it was in the queue. Its due time is kept where it is no longer the first.
fn candidate(
    tx: &WriteTx<'_>,
    taken: &TakenItem,
    DecodedItem { mut item, defect }: DecodedItem,
    past: Option<Past>,
) -> rusqlite::Result<Candidate> {
    let has_past = taken.has_past || item.available_at != taken.available_at;
    if has_past {
        keep_due_time(tx, taken.id, taken.available_at)?;
    }
    item.available_at = taken.available_at;
    if let Some(past) = past {
        add_past(&mut item, past);
    }
    Ok(Candidate { item, defect, has_past })
}

/// Adds to an item that was only enqueued what happened to it since.
fn add_past(item: &mut Item, past: Past) {
    item.attempts = past.attempts;
    item.deliveries = past.deliveries;
    item.replays = past.replays;
    item.effect_generation = past.effect_generation;
    item.losses = past.losses;
    item.give_backs = past.give_backs;
    item.maybe_executed = past.maybe_executed;
    item.given_back_since = past.given_back_since;
    item.handler_digest = past.handler_digest;
    item.last_error = past.last_error;
}

fn drop_id(tx: &WriteTx<'_>, taken: &TakenItem) -> rusqlite::Result<()> {
    tracing::error!(item.id = taken.id.get(), "the queue held the id of no item: it was dropped");
    find_fronts_behind(tx, taken.id)
}

/// Makes the item one that the claim returns. Returns false when it dead-lettered the item instead.
fn admit(
    tx: &mut WriteTx<'_>,
    lease: &NewLease<'_>,
    terms: &ClaimTerms,
    budget: CrashBudget,
    Candidate { item, defect, .. }: &mut Candidate,
) -> rusqlite::Result<bool> {
    if let Some(saga) = &item.saga {
        saga_signals::begin_run_if_none(tx, saga, &item.cid, item.replays)?;
    }
    if !has_attempt_left(terms.max_retries, item.attempts, item.losses) {
        return dead_letter_exhausted(tx, item, terms.on_dead).map(|()| false);
    }
    if budget.is_exhausted(item.losses) {
        return dead_letter_suspect(tx, item, terms.on_dead).map(|()| false);
    }
    claim_item(item, lease, tx.now);
    match defect.take() {
        None => Ok(true),
        Some(defect) => dead_letter_undecodable(tx, item, terms.on_dead, defect).map(|()| false),
    }
}

fn claim_item(item: &mut Item, lease: &NewLease<'_>, now: Millis) {
    item.status = Status::Claimed;
    item.attempts = item.attempts.saturating_add(1).min(COUNT_MAX);
    item.deliveries = item.deliveries.saturating_add(1).min(COUNT_MAX);
    item.claimed_at = Some(now);
    item.claimed_by = Some(lease.claimed_by.to_owned());
    item.lease_until = Some(lease.lease_until);
}

/// Dead-letters an item whose row cannot be read, so that it does not stop the others.
fn dead_letter_undecodable(tx: &mut WriteTx<'_>, item: &Item, on_dead: OnDead, defect: String) -> rusqlite::Result<()> {
    let attempted = AttemptRecord::from_claim(&ClaimedItem::of_row(item).map_err(unusable)?);
    let failure = row_undecodable(defect);
    write_history(tx, &attempted, &failure, None)?;
    // A key is ASCII. Where it was not, no operator could name it to unblock it.
    let is_odd = item.ordering_key.as_ref().is_some_and(|key| !key.is_ascii());
    let on_dead = if is_odd { OnDead::Skip } else { on_dead };
    dead_letter(tx, &attempted, &Past::of(item), on_dead, &failure)?;
    // Its key or its saga may be what cannot be read, and others wait for those as they are stored.
    item.ordering_key.as_ref().map_or(Ok(()), |_| find_fronts_behind(tx, item.id))?;
    item.saga.as_ref().map_or(Ok(()), |_| saga_signals::close_by_id(tx, item.id))
}

/// Dead-letters an item that has no retries left: the claim that finds it ends at once, without an attempt. The history
/// has a row for the last failure already.
fn dead_letter_exhausted(tx: &mut WriteTx<'_>, item: &Item, on_dead: OnDead) -> rusqlite::Result<()> {
    let failure = retries_exhausted(item.last_error.as_deref());
    let claim = ClaimedItem { item, claimed_at: tx.now, claimed_by: tx.pod };
    let attempted = AttemptRecord { handler_digest: item.handler_digest.clone(), ..AttemptRecord::from_claim(&claim) };
    dead_letter(tx, &attempted, &Past::of(item), on_dead, &failure)
}

/// Dead-letters an item that was in too many leases which ran out. The claim counts as a delivery, so that the history
/// has a row of its own for it, and as no attempt.
fn dead_letter_suspect(tx: &mut WriteTx<'_>, item: &Item, on_dead: OnDead) -> rusqlite::Result<()> {
    let failure = crashes_exhausted(item.losses);
    let past = Past { deliveries: item.deliveries.saturating_add(1).min(COUNT_MAX), ..Past::of(item) };
    let claim = ClaimedItem { item, claimed_at: tx.now, claimed_by: tx.pod };
    let attempted = AttemptRecord { delivery: past.deliveries, ..AttemptRecord::from_claim(&claim) };
    write_history(tx, &attempted, &failure, None)?;
    dead_letter(tx, &attempted, &past, on_dead, &failure)
}
