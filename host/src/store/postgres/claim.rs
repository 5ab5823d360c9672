//! Claiming what is ready: look, share out, lock what nobody else is just taking, write.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::decode::{self, COLUMNS, count};
use super::ending::{EPOCH, Ending, finish};
use super::expire::expire;
use super::fault::Fault;
use super::front::{self, Place};
use super::share::share;
use super::step::{Sql as _, Step};
use super::{limit, saga};
use crate::item::{Class, Failure, Item, ItemId};
use crate::store::{Attempted, Claim, ClaimRequest, Claimed, TypeClaim, millis};

/// So often is looked for more, when what was found could not be claimed; then the caller comes again.
const ROUNDS: usize = 8;
/// What somebody else was just moving is looked at again after this.
const BUSY: Duration = Duration::from_millis(10);

pub(super) async fn claim(step: &mut Step<'_>, request: &ClaimRequest) -> Result<Claimed, Fault> {
    limit::lock(step, &request.types).await?;
    expire(step).await?;
    let start = fastrand::usize(..request.types.len().max(1));
    let mut claimed = Claimed::default();
    let mut is_more = true;
    for _ in 0..ROUNDS {
        let found = round(step, request, start, &mut claimed).await?;
        claimed.next_in = [claimed.next_in, found.next_in].into_iter().flatten().min();
        is_more = found.is_more;
        if !is_more {
            break;
        }
    }
    if is_more {
        claimed.next_in = Some(Duration::ZERO);
    }
    Ok(claimed)
}

/// What a round found besides claims.
struct Found {
    /// How long until there is something to claim.
    next_in: Option<Duration>,
    /// Whether items were found that could not be claimed, in the place of which there may be others.
    is_more: bool,
}

/// An item that is ready, with the terms of its type.
struct Candidate<'a> {
    id: ItemId,
    attempts: u32,
    ordering_key: Option<String>,
    terms: &'a TypeClaim,
}

async fn round(
    step: &mut Step<'_>,
    request: &ClaimRequest,
    start: usize,
    claimed: &mut Claimed,
) -> Result<Found, Fault> {
    let stock = limit::look(step, request, &claimed.claims).await?;
    let wanted: Vec<_> = stock.iter().map(|stock| stock.free).collect();
    let left = request.limit.saturating_sub(u32::try_from(claimed.claims.len()).unwrap_or(u32::MAX));
    let shares = share(left, &wanted, start);
    let candidates = lock(step, request, &shares).await?;
    let found = candidates.len();
    let (candidates, is_busy) = in_front(step, candidates).await?;
    let before = claimed.claims.len();
    take(step, request, candidates, claimed).await?;
    limit::take_tokens(step, &stock, &claimed.claims[before..]).await?;
    let next_in = stock.iter().filter_map(|stock| stock.next_in(&claimed.claims[before..], step.now));
    let next_in = next_in.chain(is_busy.then_some(BUSY)).min();
    Ok(Found { next_in, is_more: claimed.claims.len() - before < found && !is_busy })
}

/// Locks so many items of each type that are ready, and passes over what others have locked.
async fn lock<'a>(step: &Step<'_>, request: &'a ClaimRequest, shares: &[u32]) -> Result<Vec<Candidate<'a>>, Fault> {
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
    let mut candidates = Vec::new();
    for row in step.rows(sql, &[&types, &shares, &step.now]).await? {
        let position = usize::try_from(row.try_get::<_, i64>(3)?).unwrap_or_default();
        let Some(terms) = request.types.get(position.wrapping_sub(1)) else { continue };
        let (id, attempts, ordering_key) = (row.try_get(0)?, count(&row, 1)?, row.try_get(2)?);
        candidates.push(Candidate { id, attempts, ordering_key, terms });
    }
    Ok(candidates)
}

/// Those that stand in front of their ordering key, or have none; and whether another was passed over
/// because somebody is just moving an item of its key. What stands behind is held from now on.
async fn in_front<'a>(step: &Step<'_>, candidates: Vec<Candidate<'a>>) -> Result<(Vec<Candidate<'a>>, bool), Fault> {
    let ordered: Vec<_> =
        candidates.iter().filter_map(|candidate| Some((candidate.id, candidate.ordering_key.as_deref()?))).collect();
    if ordered.is_empty() {
        return Ok((candidates, false));
    }
    let places = front::places(step, &ordered).await?;
    let at = |wanted: Place| {
        let those = ordered.iter().zip(&places).filter(move |(_, place)| **place == wanted);
        those.map(|(candidate, _)| *candidate).collect::<Vec<_>>()
    };
    let (behind, unknown) = (at(Place::Behind), at(Place::Unknown));
    if !behind.is_empty() {
        front::hold(step, &behind).await?;
    }
    let is_busy = !unknown.is_empty();
    let out: HashSet<_> = behind.into_iter().chain(unknown).map(|(id, _)| id).collect();
    Ok((candidates.into_iter().filter(|candidate| !out.contains(&candidate.id)).collect(), is_busy))
}

/// Claims the candidates, but for those that have no attempt left or cannot be read: they are dead-lettered.
async fn take(
    step: &mut Step<'_>,
    request: &ClaimRequest,
    candidates: Vec<Candidate<'_>>,
    claimed: &mut Claimed,
) -> Result<(), Fault> {
    let (exhausted, willing): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.attempts > candidate.terms.max_retries);
    let exhausted = read(step, &exhausted).await?;
    let mut taken = Vec::new();
    let mut endings = Vec::new();
    let mut joining: Vec<_> = exhausted.iter().map(|(item, _)| item.clone()).collect();
    for (item, terms) in exhausted {
        endings.push(exhaust(&item, terms, step)?);
    }
    for (claim, terms, defect) in write(step, request, &willing).await? {
        joining.push(claim.item.clone());
        match defect {
            None => taken.push(claim),
            Some(defect) => endings.push(bury(&claim.item, terms, defect, step)?),
        }
    }
    saga::join(step, &joining).await?;
    finish(step, &endings).await?;
    claimed.claims.extend(taken);
    Ok(())
}

/// The items of the candidates, without their payloads.
async fn read<'a>(step: &Step<'_>, candidates: &[Candidate<'a>]) -> Result<Vec<(Item, &'a TypeClaim)>, Fault> {
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = candidates.iter().map(|candidate| candidate.id).collect();
    let sql = format!("SELECT {} FROM outbox.items WHERE id = ANY($1::bigint[])", decode::without_payload());
    let mut items = HashMap::new();
    for row in step.rows(&sql, &[&ids]).await? {
        let item = decode::item(&row)?.item;
        items.insert(item.id, item);
    }
    Ok(candidates.iter().filter_map(|candidate| Some((items.remove(&candidate.id)?, candidate.terms))).collect())
}

/// No retries are left, so the claim that finds the item dead-letters it instead of running it. What it
/// died of stands in its history already.
fn exhaust(item: &Item, terms: &TypeClaim, step: &Step<'_>) -> Result<Ending, Fault> {
    let message = item.last_error.clone().unwrap_or_else(|| "no retries are left".into());
    let failure = Failure::new(Class::Lost, "retries.exhausted", message);
    let attempted = Attempted { handler_digest: item.handler_digest.clone(), ..Attempted::of(item) };
    Ok(Ending::dead(item, attempted, terms.on_dead, failure, step.now)?)
}

/// An item that cannot be read goes to the DLQ with the reason, and stops nothing else.
fn bury(item: &Item, terms: &TypeClaim, defect: String, step: &Step<'_>) -> Result<Ending, Fault> {
    let failure = Failure::new(Class::Undecodable, "row.undecodable", defect);
    Ok(Ending::dead(item, Attempted::of(item), terms.on_dead, failure, step.now)?.recorded())
}

/// Writes the claims, and returns them in the order of the candidates, with what cannot be read of them.
async fn write<'a>(
    step: &Step<'_>,
    request: &ClaimRequest,
    candidates: &[Candidate<'a>],
) -> Result<Vec<(Claim, &'a TypeClaim, Option<String>)>, Fault> {
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = candidates.iter().map(|candidate| candidate.id).collect();
    let tokens: Vec<_> = candidates.iter().map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    let leases: Vec<_> =
        candidates.iter().map(|candidate| step.now.saturating_add(millis(candidate.terms.lease))).collect();
    let sql = format!(
        "UPDATE outbox.items
         SET status = 'CLAIMED', epoch = {EPOCH}, attempts = attempts + 1, deliveries = deliveries + 1,
             claimed_at = $4, claimed_by = $5, claim_token = new.token, lease_until = new.until
         FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS new (item, token, until)
         WHERE id = new.item AND status = 'PENDING' RETURNING {COLUMNS}, claim_token"
    );
    let mut written = HashMap::new();
    for row in step.rows(&sql, &[&ids, &tokens, &leases, &step.now, &request.claimed_by]).await? {
        let decoded = decode::item(&row)?;
        let claim = Claim { item: decoded.item, token: row.try_get("claim_token")? };
        written.insert(claim.item.id, (claim, decoded.defect));
    }
    let in_order = candidates.iter().filter_map(|candidate| {
        let (claim, defect) = written.remove(&candidate.id)?;
        Some((claim, candidate.terms, defect))
    });
    Ok(in_order.collect())
}
