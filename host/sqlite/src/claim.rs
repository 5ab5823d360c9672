//! Claims ready items: suspects first, then each type's share of the limit, in the order of `available_at` and, where
//! items have fairness keys, key by key.
//!
//! It does not decide what may be claimed of a type (`claim_limits`), in which company a suspect is claimed
//! (`suspects`), which fairness keys are served (`fair_keys`), nor which item is the front of its ordering key
//! (`ordering`). How a taken item gets into its lease is
//! in `claim_items`, and what becomes of a row that makes a claim fail in `bad_rows`.

use std::time::Duration;

use rusqlite::params;

use outbox_core::SuspectRun;
use outbox_store::engine::fair_keys::interleave;
use outbox_store::{ClaimBatch, ClaimRequest, ClaimTerms};

use crate::claim_items::{FIRST_IN_LINE, TakenItem, lease_items};
use crate::claim_progress::{ClaimProgress, allowed, count, until_next, wait_at_most};
use crate::write_tx::WriteTx;
use crate::{claim_limits, fair_keys, streaks, suspects};

/// Claims what the request allows: gives every type its share of the limit, then what the other types left over. What is left then is for items behind
/// the fronts that were claimed: so a long line takes no place of an item that can be attempted at once. The first type is drawn at random,
/// so that a share that rounds to nothing does not always fall on the same type.
pub(crate) fn claim(tx: &mut WriteTx<'_>, request: &ClaimRequest) -> rusqlite::Result<ClaimBatch> {
    let mut progress = ClaimProgress::new(fair_keys::any(tx)?);
    let types = claim_limits::unpaused(tx, request)?;
    let are_suspects = suspects::any(tx)?;
    if are_suspects && suspects::claim_run(tx, request, &types, &mut progress)? == SuspectRun::Alone {
        return Ok(progress.batch);
    }
    let start = fastrand::usize(..types.len().max(1));
    let rotated = || types.iter().copied().cycle().skip(start).take(types.len());
    for (index, terms) in rotated().enumerate() {
        let share = remaining(request, &progress).div_ceil(count(types.len() - index));
        claim_type(tx, request, terms, share, &mut progress)?;
    }
    for terms in rotated() {
        let left = remaining(request, &progress);
        claim_type(tx, request, terms, left, &mut progress)?;
    }
    for (index, terms) in rotated().enumerate() {
        let share = remaining(request, &progress).div_ceil(count(types.len() - index));
        claim_streaks(tx, request, terms, share, &mut progress)?;
    }
    if progress.droppable() == 0 {
        progress.batch.next_available_in = Some(Duration::ZERO);
    }
    for terms in rotated() {
        record_next_available(tx, terms, &mut progress.batch)?;
        if progress.are_shared {
            fair_keys::record_next_available(tx, terms, &mut progress.batch)?;
        }
        if are_suspects {
            suspects::record_next_available(tx, terms, &mut progress.batch)?;
        }
    }
    interleave(&mut progress.batch.claims);
    Ok(progress.batch)
}

fn remaining(request: &ClaimRequest, progress: &ClaimProgress) -> u32 {
    request.limit.saturating_sub(count(progress.batch.claims.len()))
}

fn claim_type(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    terms: &ClaimTerms,
    share: u32,
    progress: &mut ClaimProgress,
) -> rusqlite::Result<()> {
    let limit = share.min(allowed(tx, terms, &progress.batch)?);
    let mut left = limit;
    loop {
        let asked = left.min(progress.droppable());
        let taken = if asked == 0 { Vec::new() } else { take(tx, terms, asked, progress)? };
        let claims = lease_items(tx, request, terms, terms.token, &taken)?;
        let refilled = fair_keys::take_tokens(tx, terms, &claims)?;
        wait_at_most(&mut progress.batch, [refilled]);
        left = left.saturating_sub(progress.add(taken.len(), claims));
        if asked == 0 || count(taken.len()) < asked {
            break;
        }
    }
    claim_limits::take_tokens(tx, terms, limit - left)
}

/// Claims up to `share` items that follow claimed fronts of the type.
fn claim_streaks(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    terms: &ClaimTerms,
    share: u32,
    progress: &mut ClaimProgress,
) -> rusqlite::Result<()> {
    let fronts = streaks::fronts(&progress.batch.claims, terms);
    if share == 0 || fronts.is_empty() {
        return Ok(());
    }
    let limit = share.min(allowed(tx, terms, &progress.batch)?);
    let claims = streaks::claim_behind(tx, request, terms, &fronts, limit)?;
    claim_limits::take_tokens(tx, terms, count(claims.len()))?;
    progress.batch.claims.extend(claims);
    Ok(())
}

/// Takes the items that are first in line out of the queue, or, where fairness keys share the type, those of the
/// keys that are served. An item that is queued behind another of its ordering key is held, and the statements do not read it.
fn take(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    limit: u32,
    progress: &mut ClaimProgress,
) -> rusqlite::Result<Vec<TakenItem>> {
    if progress.are_shared && fair_keys::any_due(tx, terms)? {
        return fair_keys::take(tx, terms, limit, progress);
    }
    let taken = TakenItem::take(tx, FIRST_IN_LINE, terms, limit)?;
    taken.last().map_or(Ok(()), |last| leave_the_line(tx, terms, last))?;
    Ok(taken)
}

/// Deletes what was read up to the last item: a range of the same index, since this transaction writes alone. SQLite
/// would read the range of one row value `(available_at, id)` up to the end of its due time, hence two statements.
fn leave_the_line(tx: &WriteTx<'_>, terms: &ClaimTerms, last: &TakenItem) -> rusqlite::Result<()> {
    let (item_type, due) = (&terms.item_type, last.available_at.get());
    tx.connection.prepare_cached(LEAVE_EARLIER)?.execute(params![item_type, due])?;
    tx.connection.prepare_cached(LEAVE_EQUAL)?.execute(params![item_type, due, last.id.get()])?;
    Ok(())
}

const LEAVE_EARLIER: &str = "DELETE FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NULL AND available_at < ?2";

const LEAVE_EQUAL: &str = "DELETE FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NULL AND available_at = ?2 AND id <= ?3";

/// Lowers `next_available_in` to the time until an item of the type becomes available, or until a type that has used
/// up its rate has a token again.
fn record_next_available(tx: &WriteTx<'_>, terms: &ClaimTerms, claimed: &mut ClaimBatch) -> rusqlite::Result<()> {
    wait_at_most(claimed, [until_next(tx, NEXT_AVAILABLE, terms)?, claim_limits::until_next_token(tx, terms)?]);
    Ok(())
}

const NEXT_AVAILABLE: &str = "SELECT min(available_at) FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NULL AND available_at > ?2";

#[cfg(test)]
mod tests {
    use rusqlite::Params;

    use super::*;
    use crate::migrate::plan;

    /// Errors unless the statement reads this part of the queue's index, and needs no order of its own.
    fn assert_reads_in_order(sql: &str, values: impl Params, part: &str) {
        let steps = plan(sql, values);
        assert!(steps.iter().any(|line| line.contains(&format!("outbox_queue_ready ({part})"))), "{steps:?}");
        assert!(!steps.iter().any(|line| line.contains("TEMP B-TREE")), "{steps:?}");
    }

    #[test]
    fn a_claim_reads_the_queue_in_the_order_of_its_index() {
        assert_reads_in_order(FIRST_IN_LINE, params!["t", 1, 9], "type=? AND available_at<?");
        assert_reads_in_order(LEAVE_EARLIER, params!["t", 1], "type=? AND available_at<?");
        assert_reads_in_order(LEAVE_EQUAL, params!["t", 1, 9], "type=? AND available_at=? AND id<?");
        assert_reads_in_order(NEXT_AVAILABLE, params!["t", 1], "type=? AND available_at>?");
    }
}
