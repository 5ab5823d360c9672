//! Which requests share a transaction, and how they run in it: settlements first, then a claim.
//!
//! A transaction that failed is not sent again as it was. Its settlements run without the claim, then halved until the
//! one that fails is alone; the claim runs alone, then type by type. So one row that the database refuses stops neither
//! the settlements nor the claims beside it. A settlement that waits for a lock for too long leaves the groups
//! (`late_settlements`). This file does not know what a settlement or a claim changes.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use outbox_core::SuspectRoom;
use outbox_store::{ClaimBatch, ClaimRef, ClaimRequest, SettleRequest, StoreError, SuspectTerms};

use crate::claim::{self, TypeLimits};
use crate::context::{PgContext, Purpose};
use crate::error::PgError;
use crate::group_size::weight;
use crate::places;
use crate::refused_types::AllowedRequest;
use crate::settle::{self, HeldClaims, Settled, Settlements};
use crate::tx::{Query, WriteTx};

/// How long a transaction that settles waits for a lock.
const LOCK_WAIT_SQL: &str = "SET LOCAL lock_timeout = 100";
/// The time from one try of a late settlement to the next one. A try locks its lease, which cannot be renewed meanwhile,
/// so that the lease is free for half of the time at least.
const LATE_PAUSE: Duration = Duration::from_millis(250);

/// A request in the queue.
pub(crate) enum QueuedRequest {
    Settle(QueuedSettlement),
    Claim(QueuedClaim),
}

/// A settlement that its caller waits for.
pub(crate) struct QueuedSettlement {
    pub(crate) claim: ClaimRef,
    pub(crate) settled: SettleRequest,
    pub(crate) reply: oneshot::Sender<Result<(), StoreError>>,
}

/// A claim that its caller waits for.
pub(crate) struct QueuedClaim {
    pub(crate) request: ClaimRequest,
    pub(crate) reply: oneshot::Sender<Result<ClaimBatch, StoreError>>,
}

impl QueuedSettlement {
    fn reply(self, result: Result<(), StoreError>) {
        // A caller that no longer waits has dropped the receiver; its claim is settled nevertheless.
        drop(self.reply.send(result));
    }
}

/// A claim without the types that are left out.
struct AllowedClaim {
    allowed: AllowedRequest,
    reply: oneshot::Sender<Result<ClaimBatch, StoreError>>,
}

impl QueuedClaim {
    /// The part of the claim that may be made now; `None` when there is none, or when no caller waits for it, who would
    /// handle what it takes.
    fn allowed(self, pg: &PgContext) -> Option<AllowedClaim> {
        let Self { request, reply } = self;
        let allowed = pg.refused_types.allow(request, Instant::now());
        let claim = AllowedClaim { allowed, reply };
        if claim.allowed.request.types.is_empty() {
            claim.reply(Ok(ClaimBatch::default()));
            return None;
        }
        Some(claim).filter(|claim| !claim.reply.is_closed())
    }
}

impl AllowedClaim {
    fn reply(self, result: Result<ClaimBatch, StoreError>) {
        let more_in = self.allowed.more_in;
        let result = result.map(|batch| ClaimBatch {
            next_available_in: batch.next_available_in.into_iter().chain(more_in).min(),
            ..batch
        });
        // The leases of a caller that no longer waits end by themselves.
        drop(self.reply.send(result));
    }
}

/// Requests that are committed together, as far as that is possible.
#[derive(Default)]
pub(crate) struct Group {
    settlements: Vec<QueuedSettlement>,
    claims: Vec<QueuedClaim>,
}

impl Group {
    /// Divides the requests into groups that are not too large. The claims are in the first one.
    pub(crate) fn divide(requests: Vec<QueuedRequest>, weight_max: usize) -> Vec<Self> {
        let (mut groups, mut room) = (vec![Self::default()], weight_max);
        for request in requests {
            match request {
                QueuedRequest::Settle(settlement) => {
                    let weight = weight(&settlement.claim, &settlement.settled);
                    if weight > room && room < weight_max {
                        groups.push(Self::default());
                        room = weight_max;
                    }
                    room = room.saturating_sub(weight);
                    let last = groups.len() - 1;
                    groups[last].settlements.push(settlement);
                }
                QueuedRequest::Claim(claim) => groups[0].claims.push(claim),
            }
        }
        groups
    }

    /// Commits the settlements together with the first claim, then every other claim by itself, and replies to all.
    pub(crate) async fn commit(self, pg: &PgContext) {
        let mut claims = self.claims.into_iter().filter_map(|claim| claim.allowed(pg));
        let (settlements, first) = (self.settlements, claims.next());
        let left = if settlements.is_empty() { first } else { commit_together(pg, settlements, first).await };
        for claim in left.into_iter().chain(claims) {
            claim_and_reply(pg, Some(claim)).await;
        }
    }
}

/// Commits settlements and a claim in one transaction. Returns the claim if it is still to be made.
async fn commit_together(
    pg: &PgContext,
    settlements: Vec<QueuedSettlement>,
    claim: Option<AllowedClaim>,
) -> Option<AllowedClaim> {
    match transact(pg, &settlements, claim.as_ref().map(|claim| &claim.allowed.request)).await {
        Ok((settled, claimed)) => {
            reply_settled(settlements, settled);
            match (claim, claimed) {
                (Some(claim), Some(batch)) => claim.reply(Ok(batch)),
                (claim, _) => return claim,
            }
            None
        }
        Err(err) if err.is_about_the_database() => {
            let message = err.message();
            refuse_all(settlements, &message);
            if let Some(claim) = claim {
                claim.reply(Err(err.into_store_error("claiming items")));
            }
            None
        }
        Err(err) => {
            tracing::warn!(settlements = settlements.len(), error = err.message(), "a group failed; in parts now");
            let is_apart = claim.is_some() || err.is_done_already();
            let parts = if is_apart { vec![settlements] } else { halves(pg, settlements, &err) };
            // Neither waits for the other's locks.
            tokio::join!(settle_in_parts(pg, parts), claim_and_reply(pg, claim));
            None
        }
    }
}

/// Settles each part in a transaction of its own. A part that fails is halved, until the settlement that fails is
/// alone.
async fn settle_in_parts(pg: &PgContext, mut parts: Vec<Vec<QueuedSettlement>>) {
    while let Some(part) = parts.pop() {
        match transact(pg, &part, None).await {
            Ok((settled, _)) => reply_settled(part, settled),
            Err(err) if err.is_about_the_database() => refuse_all(part, &err.message()),
            Err(err) if err.is_done_already() && part.len() == 1 && leave_done(pg, &part[0].claim).await => {
                parts.push(part);
            }
            Err(err) => parts.extend(halves(pg, part, &err)),
        }
    }
}

/// Makes room for the item of the claim among the DONE items. Returns whether it was there already.
async fn leave_done(pg: &PgContext, claim: &ClaimRef) -> bool {
    let left = transact!(pg, Purpose::Work, "making room for a settlement", |tx| places::leave_done(tx, claim));
    left.unwrap_or_default()
}

/// The halves of a part that failed. A single settlement is refused instead.
fn halves(pg: &PgContext, mut part: Vec<QueuedSettlement>, err: &PgError) -> Vec<Vec<QueuedSettlement>> {
    if part.len() > 1 {
        let second = part.split_off(part.len() / 2);
        return vec![second, part];
    }
    for settlement in part {
        refuse(pg, settlement, err);
    }
    Vec::new()
}

/// Refuses a settlement that failed by itself.
fn refuse(pg: &PgContext, settlement: QueuedSettlement, err: &PgError) {
    let claim = &settlement.claim;
    if err.is_lock_timeout() {
        pg.late_settlements.insert(claim);
        return settlement.reply(Err(StoreError::Locked { tried: "settling a claim" }));
    }
    pg.late_settlements.remove(claim);
    let (item_id, error) = (claim.id.get(), err.message());
    tracing::warn!(item.id = item_id, error, "the database refuses the settlement of an item");
    refuse_all(vec![settlement], &err.message());
}

/// Tries a late settlement once, when no other one is being tried.
pub(crate) async fn settle_late(pg: &PgContext, settlement: QueuedSettlement) {
    let _turn = pg.late_settlements.turn().await;
    let part = vec![settlement];
    match transact(pg, &part, None).await {
        Ok((settled, _)) => {
            pg.late_settlements.remove(&part[0].claim);
            reply_settled(part, settled);
        }
        Err(err) => {
            for settlement in part {
                refuse(pg, settlement, &err);
            }
            sleep(LATE_PAUSE).await;
        }
    }
}

async fn claim_and_reply(pg: &PgContext, claim: Option<AllowedClaim>) {
    if let Some(claim) = claim {
        let claimed = claim_alone(pg, &claim.allowed.request).await;
        claim.reply(claimed);
    }
}

/// Claims by itself; if that fails, type by type.
async fn claim_alone(pg: &PgContext, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
    let tried = "claiming items";
    match transact(pg, &[], Some(request)).await {
        Ok((_, claimed)) => Ok(claimed.unwrap_or_default()),
        Err(err) if err.is_about_the_database() => Err(err.into_store_error(tried)),
        Err(err) if request.types.len() < 2 => {
            refuse_type(pg, &request.types[0].item_type, &err).await;
            Err(err.into_store_error(tried))
        }
        Err(err) => {
            tracing::warn!(types = request.types.len(), error = err.message(), "a claim failed; type by type now");
            claim_by_type(pg, request).await
        }
    }
}

/// Claims each type in a transaction of its own. Errors when no type can be claimed.
async fn claim_by_type(pg: &PgContext, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
    let (mut batch, mut failure) = (ClaimBatch::default(), None);
    // Another type is first each time, because the first one takes what it can.
    let start = fastrand::usize(..request.types.len().max(1));
    for terms in request.types.iter().cycle().skip(start).take(request.types.len()) {
        let limit = request.limit.saturating_sub(u32::try_from(batch.claims.len()).unwrap_or(u32::MAX));
        // A lease of suspects has one type, and the transactions would share its token.
        let suspects = SuspectTerms { room: SuspectRoom::None, ..request.suspects.clone() };
        let claimed_by = request.claimed_by.clone();
        let of_type = ClaimRequest { claimed_by, limit, types: vec![terms.clone()], suspects };
        match transact(pg, &[], Some(&of_type)).await {
            Ok((_, claimed)) => {
                let ClaimBatch { claims, next_available_in, .. } = claimed.unwrap_or_default();
                batch.claims.extend(claims);
                batch.next_available_in = batch.next_available_in.into_iter().chain(next_available_in).min();
            }
            // It is unknown what was committed. The caller gives back all that the request has claimed.
            Err(err) if err.is_about_the_database() => {
                return Err(StoreError::Unavailable { tried: "claiming items", source: err.message().into() });
            }
            Err(err) => {
                refuse_type(pg, &terms.item_type, &err).await;
                failure = Some(err);
            }
        }
    }
    let failure = failure.filter(|_| batch.claims.is_empty());
    failure.map_or(Ok(batch), |err| Err(err.into_store_error("claiming items")))
}

async fn refuse_type(pg: &PgContext, item_type: &str, err: &PgError) {
    let why = err.message();
    if !err.is_refusal() {
        return tracing::warn!(item.type = item_type, error = why, "a type could not be claimed");
    }
    tracing::error!(item.type = item_type, error = why, "the database refuses the claims of a type");
    if let Ok(now) = pg.now().await {
        pg.refused_types.record_refusal(item_type, &why, now, Instant::now());
    }
}

fn reply_settled(settlements: Vec<QueuedSettlement>, settled: Settled) {
    settlements.into_iter().zip(settled.results).for_each(|(request, result)| request.reply(result));
}

fn refuse_all(settlements: Vec<QueuedSettlement>, why: &str) {
    for request in settlements {
        let source = why.to_owned().into();
        request.reply(Err(StoreError::Unavailable { tried: "settling a claim", source }));
    }
}

/// Settles and claims in one transaction. Returns no claim when there is no request for one, or when the settlements
/// hold locks for which a claim could wait in a circle.
async fn transact(
    pg: &PgContext,
    settlements: &[QueuedSettlement],
    request: Option<&ClaimRequest>,
) -> Result<(Settled, Option<ClaimBatch>), PgError> {
    let group: Vec<_> = settlements.iter().map(|queued| (&queued.claim, &queued.settled)).collect();
    let tried = if group.is_empty() { "claiming items" } else { "settling claims" };
    let size = group.len() + usize::from(request.is_some());
    // A single request is repeated after a lost race; several are divided first.
    let after = if size == 1 { PgError::is_retryable } else { PgError::is_lost_connection };
    let began = Instant::now();
    // Boxed, because the future of a transaction is large and callers hold it.
    let made = pg.repeat(tried, after, || Box::pin(settle_and_claim(pg, &group, request))).await;
    match &made {
        Ok(_) => pg.group_size.grow(),
        Err(err) if err.is_timeout() => {
            pg.group_size.shrink();
            // An answer of the server; without one, the network may have been slow.
            if request.is_some() && matches!(err, PgError::Database(_)) {
                pg.looks.record_timeout(began.elapsed(), Instant::now());
            }
        }
        Err(_) => {}
    }
    made
}

/// One transaction that settles the group and then claims. See [`transact()`].
pub(crate) async fn settle_and_claim(
    pg: &PgContext,
    group: &Settlements<'_>,
    request: Option<&ClaimRequest>,
) -> Result<(Settled, Option<ClaimBatch>), PgError> {
    let client = pg.pool.connection(Purpose::Work).await?;
    pg.known_digests.number(&client, group.iter().filter_map(|(_, settled)| settled.handler_digest.as_deref())).await?;
    let (mut tx, (held, limits)) = pg.begin_with(&client, Box::pin(look(pg, &client, group, request))).await?;
    let settled = settle::settle(&mut tx, group, held).await?;
    let claimed = match request {
        Some(request) if !settled.holds_late_locks => Some(claim_in(&mut tx, request, limits, &settled, pg).await?),
        _ => None,
    };
    if tx.commit().await? {
        pg.wake();
    }
    if let Some((batch, request)) = claimed.as_ref().zip(request) {
        pg.looks.record_claims(&batch.claims);
        pg.refused_types.record_success(request);
    }
    Ok((settled, claimed))
}

/// The first statements of a transaction, which are sent together with its beginning.
async fn look(
    pg: &PgContext,
    client: &impl Query,
    group: &Settlements<'_>,
    request: Option<&ClaimRequest>,
) -> Result<(HeldClaims, Option<TypeLimits>), PgError> {
    let at = pg.tx.clock.as_ref().map(|clock| clock());
    let limits = async {
        match request {
            Some(request) => claim::read_limits(client, request, at).await.map(Some),
            None => Ok(None),
        }
    };
    let (bounded, held, limits) =
        tokio::join!(biased; bound_waits(client, group), settle::hold_claims(client, group, at), limits);
    bounded?;
    Ok((held?, limits?))
}

/// A settlement that waits for a lock is divided from the others soon. A claim alone waits as long as every transaction
/// of the store.
async fn bound_waits(client: &impl Query, group: &Settlements<'_>) -> Result<(), PgError> {
    if group.is_empty() { Ok(()) } else { client.rows(LOCK_WAIT_SQL, &[]).await.map(drop) }
}

/// Claims in a transaction that has settled. Settlements that were made after the limits were read have freed places of
/// types with limits, so the limits are read again.
async fn claim_in(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    limits: Option<TypeLimits>,
    settled: &Settled,
    pg: &PgContext,
) -> Result<ClaimBatch, PgError> {
    let limits = match limits {
        Some(limits) if !settled.ended_after_completions => limits,
        _ => claim::read_limits(tx, request, Some(tx.now)).await?,
    };
    claim::claim(tx, request, limits, &pg.looks, &pg.last_served).await
}
