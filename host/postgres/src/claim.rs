//! Claims ready items: counts them, shares the limit out, locks rows that no other transaction holds, and writes.
//!
//! It does not decide what may be claimed of a type (`claim_limits`), nor which item is the head of its ordering key
//! (`ordering`).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use outbox_core::{Failure, FailureClass};
use outbox_item::{Item, ItemId};
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::{Claim, ClaimBatch, ClaimRequest, ClaimTerms, ClaimToken};

use crate::claim_end::{ClaimEnd, write_claim_ends};
use crate::error::PgError;
use crate::expire::expire_leases;
use crate::fair_share::fair_share;
use crate::ordering::KeyPosition;
use crate::rows::{COLUMNS, count};
use crate::tx::{NEWEST_JOB_SQL, Query as _, WriteTx};
use crate::{claim_limits, ordering, rows, saga_signals};

/// The most rounds of one call. A further round follows while a round finds items that it cannot claim. After the last
/// one the transaction commits, and the caller claims again at once: so no transaction holds its locks for long.
const ROUNDS: usize = 8;
/// Wait before the next claim when another transaction was changing an item of the same ordering key.
const BUSY_DELAY: Duration = Duration::from_millis(10);

/// Ends expired leases, then claims what the request allows.
pub(crate) async fn claim(tx: &mut WriteTx<'_>, request: &ClaimRequest) -> Result<ClaimBatch, PgError> {
    claim_limits::lock(tx, &request.types).await?;
    expire_leases(tx).await?;
    let start = fastrand::usize(..request.types.len().max(1));
    let mut claimed = ClaimBatch::default();
    let mut is_more = true;
    for _ in 0..ROUNDS {
        let found = round(tx, request, start, &mut claimed).await?;
        claimed.next_available_in = [claimed.next_available_in, found.next_available_in].into_iter().flatten().min();
        is_more = found.is_more;
        if !is_more {
            break;
        }
    }
    if is_more {
        claimed.next_available_in = Some(Duration::ZERO);
    }
    Ok(claimed)
}

/// The result of a round, besides its claims.
struct RoundResult {
    /// How long until there is something to claim, if that is known.
    next_available_in: Option<Duration>,
    /// Whether the round found items that it could not claim, so that another round may find others.
    is_more: bool,
}

/// An item that is ready, with the terms of its type.
struct ReadyItem<'a> {
    id: ItemId,
    attempts: u32,
    ordering_key: Option<String>,
    terms: &'a ClaimTerms,
}

async fn round(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    start: usize,
    claimed: &mut ClaimBatch,
) -> Result<RoundResult, PgError> {
    let budgets = claim_limits::read_budgets(tx, request, &claimed.claims).await?;
    let wanted: Vec<_> = budgets.iter().map(|budget| budget.free).collect();
    let left = request.limit.saturating_sub(u32::try_from(claimed.claims.len()).unwrap_or(u32::MAX));
    let shares = fair_share(left, &wanted, start);
    let ready_items = lock(tx, request, &shares).await?;
    let found = ready_items.len();
    let (ready_items, is_busy) = only_first_of_key(tx, ready_items).await?;
    let before = claimed.claims.len();
    claim_rows(tx, request, ready_items, claimed).await?;
    claim_limits::take_tokens(tx, &budgets, &claimed.claims[before..]).await?;
    let next_available_in =
        budgets.iter().filter_map(|budget| budget.next_available_in(&claimed.claims[before..], tx.now));
    let next_available_in = next_available_in.chain(is_busy.then_some(BUSY_DELAY)).min();
    Ok(RoundResult { next_available_in, is_more: claimed.claims.len() - before < found && !is_busy })
}

/// Locks up to `shares` ready items of each type. Items that another transaction has locked are left out.
async fn lock<'a>(tx: &WriteTx<'_>, request: &'a ClaimRequest, shares: &[u32]) -> Result<Vec<ReadyItem<'a>>, PgError> {
    if shares.iter().all(|share| *share == 0) {
        return Ok(Vec::new());
    }
    let types: Vec<_> = request.types.iter().map(|terms| terms.item_type.as_str()).collect();
    let shares: Vec<_> = shares.iter().map(|share| i64::from(*share)).collect();
    let sql = "SELECT ready.id, ready.attempts, ready.ordering_key, wanted.position
               FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS wanted (kind, share, position),
                    LATERAL (SELECT id, attempts, ordering_key FROM outbox.items
                             WHERE type = kind AND status = 'PENDING' AND NOT held AND available_at <= $3
                             ORDER BY available_at, id LIMIT share FOR UPDATE SKIP LOCKED) AS ready";
    let mut ready_items = Vec::new();
    for row in tx.rows(sql, &[&types, &shares, &tx.now.get()]).await? {
        let position = usize::try_from(row.try_get::<_, i64>(3)?).unwrap_or_default();
        let Some(terms) = request.types.get(position.wrapping_sub(1)) else { continue };
        let (id, attempts, ordering_key) = (ItemId::new(row.try_get(0)?), count(&row, 1)?, row.try_get(2)?);
        ready_items.push(ReadyItem { id, attempts, ordering_key, terms });
    }
    Ok(ready_items)
}

/// The items that are the head of their ordering key or have none, and whether an item was left out because another
/// transaction is changing an item of its key. Items that are queued behind a head are held from now on.
async fn only_first_of_key<'a>(
    tx: &WriteTx<'_>,
    ready_items: Vec<ReadyItem<'a>>,
) -> Result<(Vec<ReadyItem<'a>>, bool), PgError> {
    let ordered: Vec<_> =
        ready_items.iter().filter_map(|ready| Some((ready.id, ready.ordering_key.as_deref()?))).collect();
    if ordered.is_empty() {
        return Ok((ready_items, false));
    }
    let positions = ordering::positions(tx, &ordered).await?;
    let at = |wanted: KeyPosition| {
        let those = ordered.iter().zip(&positions).filter(move |(_, position)| **position == wanted);
        those.map(|(ready, _)| *ready).collect::<Vec<_>>()
    };
    let (queued, unknown) = (at(KeyPosition::Queued), at(KeyPosition::Unknown));
    if !queued.is_empty() {
        ordering::mark_held(tx, &queued).await?;
    }
    let is_busy = !unknown.is_empty();
    let skipped: HashSet<_> = queued.into_iter().chain(unknown).map(|(id, _)| id).collect();
    Ok((ready_items.into_iter().filter(|ready| !skipped.contains(&ready.id)).collect(), is_busy))
}

/// Claims the items. Those that have no attempt left or cannot be read are dead-lettered instead.
async fn claim_rows(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    ready_items: Vec<ReadyItem<'_>>,
    claimed: &mut ClaimBatch,
) -> Result<(), PgError> {
    let (exhausted, accepted): (Vec<_>, Vec<_>) =
        ready_items.into_iter().partition(|ready| ready.attempts > ready.terms.max_retries);
    let exhausted = read_items(tx, &exhausted).await?;
    let mut taken = Vec::new();
    let mut claim_ends = Vec::new();
    let mut started: Vec<_> = exhausted.iter().map(|(item, _)| item.clone()).collect();
    for (item, terms) in exhausted {
        claim_ends.push(dead_letter_exhausted(&item, terms, tx));
    }
    for (claim, terms, defect) in write_claims(tx, request, &accepted).await? {
        started.push(claim.item.clone());
        match defect {
            None => taken.push(claim),
            Some(defect) => claim_ends.push(dead_letter_undecodable(&claim.item, terms, defect, tx)?),
        }
    }
    saga_signals::begin_runs_if_none(tx, &started).await?;
    write_claim_ends(tx, &claim_ends).await?;
    claimed.claims.extend(taken);
    Ok(())
}

/// The rows of the items, without their payloads.
async fn read_items<'a>(
    tx: &WriteTx<'_>,
    ready_items: &[ReadyItem<'a>],
) -> Result<Vec<(Item, &'a ClaimTerms)>, PgError> {
    if ready_items.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = ready_items.iter().map(|ready| ready.id.get()).collect();
    let sql = format!("SELECT {} FROM outbox.items WHERE id = ANY($1::bigint[])", rows::without_payload());
    let mut items = HashMap::new();
    for row in tx.rows(&sql, &[&ids]).await? {
        let item = rows::item(&row)?.item;
        items.insert(item.id, item);
    }
    Ok(ready_items.iter().filter_map(|ready| Some((items.remove(&ready.id)?, ready.terms))).collect())
}

/// The end of the claim that found an item without retries left: the item is dead-lettered without an attempt. The
/// history has a row for the last failure already.
fn dead_letter_exhausted(item: &Item, terms: &ClaimTerms, tx: &WriteTx<'_>) -> ClaimEnd {
    let message = item.last_error.clone().unwrap_or_else(|| "no retries are left".into());
    let failure = Failure::new(FailureClass::Lost, "retries.exhausted", message);
    let claim = ClaimedItem { item, claimed_at: tx.now, claimed_by: tx.pod };
    let attempted = AttemptRecord { handler_digest: item.handler_digest.clone(), ..AttemptRecord::from_claim(&claim) };
    ClaimEnd::dead_lettered(item, attempted, terms.on_dead, failure, tx.now)
}

/// The end of the claim on an item whose row cannot be read: the item is dead-lettered, so that it does not stop the
/// others.
fn dead_letter_undecodable(
    item: &Item,
    terms: &ClaimTerms,
    defect: String,
    tx: &WriteTx<'_>,
) -> Result<ClaimEnd, PgError> {
    let failure = Failure::new(FailureClass::Undecodable, "row.undecodable", defect);
    let attempted = AttemptRecord::from_claim(&ClaimedItem::of_row(item)?);
    Ok(ClaimEnd::dead_lettered(item, attempted, terms.on_dead, failure, tx.now).with_history())
}

/// Writes the claims. Returns them in the order of `ready_items`, each with the defect of a row that cannot be read.
async fn write_claims<'a>(
    tx: &WriteTx<'_>,
    request: &ClaimRequest,
    ready_items: &[ReadyItem<'a>],
) -> Result<Vec<(Claim, &'a ClaimTerms, Option<String>)>, PgError> {
    if ready_items.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = ready_items.iter().map(|ready| ready.id.get()).collect();
    let tokens: Vec<_> = ready_items.iter().map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    let leases: Vec<_> = ready_items.iter().map(|ready| tx.now.saturating_add(ready.terms.lease).get()).collect();
    let sql = format!(
        "UPDATE outbox.items
         SET status = 'CLAIMED', epoch = {NEWEST_JOB_SQL}, attempts = attempts + 1, deliveries = deliveries + 1,
             claimed_at = $4, claimed_by = $5, claim_token = new.token, lease_until = new.until
         FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS new (item, token, until)
         WHERE id = new.item AND status = 'PENDING' RETURNING {COLUMNS}, claim_token"
    );
    let mut written = HashMap::new();
    for row in tx.rows(&sql, &[&ids, &tokens, &leases, &tx.now.get(), &request.claimed_by]).await? {
        let decoded = rows::item(&row)?;
        let claim = Claim { item: decoded.item, token: ClaimToken::new(row.try_get("claim_token")?) };
        written.insert(claim.item.id, (claim, decoded.defect));
    }
    let in_order = ready_items.iter().filter_map(|ready| {
        let (claim, defect) = written.remove(&ready.id)?;
        Some((claim, ready.terms, defect))
    });
    Ok(in_order.collect())
}
