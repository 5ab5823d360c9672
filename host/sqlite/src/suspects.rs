//! Claims suspects: items that were in leases which ran out.
//!
//! [`CrashBudget::run`](outbox_core::CrashBudget::run) decides how many are claimed together and in which company; this
//! file finds them. How a taken item gets into its lease is in `claim_items`.

use std::cmp::Reverse;
use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};
use serde_json::json;

use outbox_core::SuspectRun;
use outbox_item::ItemId;
use outbox_store::{Claim, ClaimBatch, ClaimRequest, ClaimTerms};

use crate::claim_items::{TakenItem, lease_items};
use crate::claim_progress::{ClaimProgress, allowed, count, until_next, wait_at_most};
use crate::rows::cell;
use crate::write_tx::WriteTx;
use crate::{claim_limits, fair_keys};

/// Whether any suspect waits in the queue. It is the one look of a claim when there was no crash.
pub(crate) fn any(tx: &WriteTx<'_>) -> rusqlite::Result<bool> {
    tx.connection.prepare_cached("SELECT 1 FROM outbox_queue WHERE held = 0 AND losses > 0 LIMIT 1")?.exists([])
}

/// Claims the suspects of one type that may run together, and returns how. Those that have no attempt left are
/// dead-lettered, and the next call takes their places.
pub(crate) fn claim_run(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    types: &[&ClaimTerms],
    progress: &mut ClaimProgress,
) -> rusqlite::Result<SuspectRun> {
    let Some((terms, most_losses)) = most_suspect(tx, types, progress)? else { return Ok(SuspectRun::None) };
    let run = request.suspects.budget.run(request.suspects.room, most_losses, terms.max_retries);
    progress.batch.lone_suspect_waits = run == SuspectRun::AwaitIdle;
    let most = match run {
        SuspectRun::None | SuspectRun::AwaitIdle => return Ok(SuspectRun::None),
        SuspectRun::Beside(most) => most,
        SuspectRun::Alone => 1,
    };
    let claimed = claim_some(tx, request, terms, most, progress)?;
    Ok(if claimed == 0 { SuspectRun::None } else { run })
}

/// The type with the item that was lost most often, among those of which an item may be claimed, and its losses.
fn most_suspect<'a>(
    tx: &WriteTx<'_>,
    types: &[&'a ClaimTerms],
    progress: &ClaimProgress,
) -> rusqlite::Result<Option<(&'a ClaimTerms, u32)>> {
    let mut most: Option<(&ClaimTerms, u32)> = None;
    for terms in types {
        let found = most_losses(tx, terms)?.filter(|losses| most.is_none_or(|(_, most)| *losses > most));
        if let Some(losses) = found
            && allowed(tx, terms, &progress.batch)? > 0
        {
            most = Some((terms, losses));
        }
    }
    Ok(most)
}

fn most_losses(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<Option<u32>> {
    if terms.per_key.is_any() {
        return Ok(first_with_room(tx, terms)?.map(|(_, losses)| losses));
    }
    let mut select = tx.connection.prepare_cached(MOST_LOSSES)?;
    select.query_row(params![terms.item_type, tx.now.get()], |row| cell(row, 0)).optional()
}

/// The first suspect whose fairness key has room, and its losses.
fn first_with_room(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<Option<(ItemId, u32)>> {
    let full = json!(fair_keys::rooms_of_suspects(tx, terms)?.full()).to_string();
    let mut select = tx.connection.prepare_cached(FIRST_WITH_ROOM)?;
    let read = |row: &Row<'_>| Ok((ItemId::new(cell(row, 0)?), cell(row, 1)?));
    select.query_row(params![terms.item_type, tx.now.get(), full], read).optional()
}

/// SQL: the suspects of the type `?1` that are due at `?2`, without those of paused fairness keys.
macro_rules! due_suspects {
    () => {
        "FROM outbox_queue
         WHERE type = ?1 AND held = 0 AND losses > 0 AND available_at <= ?2
           AND (fairness_key IS NULL OR NOT EXISTS (
               SELECT 1 FROM outbox_key_pauses AS pause
               WHERE pause.fairness_key = outbox_queue.fairness_key AND pause.type IN ('', ?1)))"
    };
}

const MOST_LOSSES: &str = concat!("SELECT losses ", due_suspects!(), " ORDER BY losses DESC LIMIT 1");

const FIRST_WITH_ROOM: &str = concat!(
    "SELECT id, losses ",
    due_suspects!(),
    " AND (fairness_key IS NULL OR fairness_key NOT IN (SELECT value FROM json_each(?3)))
      ORDER BY losses DESC, available_at, id LIMIT 1"
);

/// Claims up to `most` suspects of the type. Returns how many claims there are.
fn claim_some(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    terms: &ClaimTerms,
    most: u32,
    progress: &mut ClaimProgress,
) -> rusqlite::Result<u32> {
    let limit = most.min(request.limit).min(allowed(tx, terms, &progress.batch)?).min(progress.droppable());
    let taken = take(tx, terms, limit)?;
    let mut claims = lease_items(tx, request, terms, request.suspects.token, &taken)?;
    claims.sort_by_key(|Claim { item, .. }| (Reverse(item.losses), item.available_at, item.id));
    let refilled = fair_keys::take_tokens(tx, terms, &claims)?;
    wait_at_most(&mut progress.batch, [refilled]);
    let claimed = progress.add(taken.len(), claims);
    if claimed < count(taken.len()) {
        progress.batch.next_available_in = Some(Duration::ZERO);
    }
    claim_limits::take_tokens(tx, terms, claimed)?;
    Ok(claimed)
}

/// Takes suspects of the type out of the queue. Where fairness keys have limits, it is one at a time: so no key gets more
/// than it may.
fn take(tx: &WriteTx<'_>, terms: &ClaimTerms, limit: u32) -> rusqlite::Result<Vec<TakenItem>> {
    if !terms.per_key.is_any() {
        return TakenItem::take(tx, TAKE, terms, limit);
    }
    let Some((id, _)) = first_with_room(tx, terms)?.filter(|_| limit > 0) else { return Ok(Vec::new()) };
    let mut take = tx.connection.prepare_cached(TAKE_ONE)?;
    take.query_map([id.get()], TakenItem::read)?.collect()
}

const TAKE_ONE: &str = "DELETE FROM outbox_queue WHERE id = ?1 RETURNING id, available_at, again";

/// Up to `most` suspects of the type in the order of their claims, which stay in the queue.
pub(crate) fn first(tx: &WriteTx<'_>, terms: &ClaimTerms, most: u32) -> rusqlite::Result<Vec<TakenItem>> {
    TakenItem::take(tx, FIRST, terms, most)
}

const FIRST: &str =
    concat!("SELECT id, available_at, again ", due_suspects!(), " ORDER BY losses DESC, available_at, id LIMIT ?3");

const TAKE: &str = concat!(
    "DELETE FROM outbox_queue WHERE id IN (SELECT id ",
    due_suspects!(),
    " ORDER BY losses DESC, available_at, id LIMIT ?3) RETURNING id, available_at, again"
);

/// Lowers `next_available_in` to the time until a suspect of the type becomes available, or until the fairness key of one
/// that has used up its rate has a token again.
pub(crate) fn record_next_available(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    claimed: &mut ClaimBatch,
) -> rusqlite::Result<()> {
    let is_rated = terms.per_key.rate.is_some();
    let refilled = if is_rated { fair_keys::rooms_of_suspects(tx, terms)?.until_next_token() } else { None };
    wait_at_most(claimed, [until_next(tx, NEXT_AVAILABLE, terms)?, refilled]);
    Ok(())
}

const NEXT_AVAILABLE: &str = "SELECT min(available_at) FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses > 0 AND available_at > ?2";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn a_look_for_suspects_reads_their_index_only() {
        let values = params!["t", 1];
        let plans = [
            plan(MOST_LOSSES, values),
            plan(NEXT_AVAILABLE, values),
            plan(TAKE, params!["t", 1, 9]),
            plan(FIRST, params!["t", 1, 9]),
            plan(FIRST_WITH_ROOM, params!["t", 1, "[]"]),
        ];
        for steps in plans {
            assert!(steps.iter().any(|line| line.contains("outbox_queue_suspects (type=?")), "{steps:?}");
            assert!(!steps.iter().any(|line| line.contains("TEMP B-TREE")), "{steps:?}");
        }
        let any = plan("SELECT 1 FROM outbox_queue WHERE held = 0 AND losses > 0 LIMIT 1", []);
        assert!(any.iter().any(|line| line.contains("outbox_queue_suspects")), "{any:?}");
    }
}
