//! Moves items between their places: `outbox.queue`, `outbox.leases`, `outbox.done` and `outbox.dead`.
//!
//! An item is in one place. What leaves a place arrives in another in the same transaction, with its past, its row
//! among the unfinished items of its saga, and the front of its ordering key. Only a claim, which takes items from the
//! queue into a lease, is elsewhere (`claim`). Where the end of a claim leads is decided by [`ItemMove`]. History,
//! totals, signals and alerts are not known here.
//!
//! A row that is in the way in the queue or in the DLQ is replaced: a change from outside can leave an item in two
//! places, and such an item must stop no other one.

use std::collections::HashSet;

use outbox_core::{Destination, ItemMove, Past};
use outbox_item::{ItemId, Millis, Status};
use outbox_store::{ClaimRef, ClaimToken};

use crate::error::PgError;
use crate::leases::leave_leases;
use crate::past::PastRow;
use crate::rows::numbers;
use crate::saga_signals::{self, SagaMove};
use crate::tx::{NEWEST_JOB_SQL, Query as _, Values, WriteTx, without_nul};
use crate::{ordering, past};

/// The place that an item leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldPlace {
    /// The queue.
    Queue {
        /// When the item was due there.
        available_at: Millis,
    },
    /// A lease.
    Lease(ClaimToken),
    /// The DONE items.
    Done,
    /// The DLQ.
    Dead,
}

impl OldPlace {
    /// The status of an item in this place.
    const fn status(self) -> Status {
        match self {
            Self::Queue { .. } => Status::Pending,
            Self::Lease(_) => Status::Claimed,
            Self::Done => Status::Done,
            Self::Dead => Status::Dlq,
        }
    }
}

/// An item that changes its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlaceChange<'a> {
    pub(crate) id: ItemId,
    pub(crate) item_type: &'a str,
    pub(crate) ordering_key: Option<&'a str>,
    pub(crate) saga: Option<&'a str>,
    pub(crate) cid: &'a str,
    /// The item's place in the line of its ordering key, which it keeps wherever it goes.
    pub(crate) turn: Option<i64>,
    pub(crate) from: OldPlace,
    pub(crate) moved: &'a ItemMove,
    /// When it arrives: the time at which it became DONE, or was dead-lettered.
    pub(crate) at: Millis,
}

impl<'a> PlaceChange<'a> {
    fn past(&self) -> &'a Past {
        &self.moved.past
    }

    fn completes_claim(&self) -> bool {
        matches!((self.from, &self.moved.to), (OldPlace::Lease(_), Destination::Done { .. }))
    }

    /// Whether the item has a row in `outbox.past` afterwards.
    fn has_past(&self) -> bool {
        match self.moved.to {
            Destination::Queue { .. } => *self.past() != Past::default(),
            Destination::Done { .. } => !self.past().was_claimed_once(),
            Destination::Dead { .. } => true,
        }
    }

    fn past_row(&self) -> PastRow<'a> {
        let available_at = match self.from {
            OldPlace::Queue { available_at } => Some(available_at),
            _ => None,
        };
        PastRow { id: self.id, past: self.past(), available_at }
    }

    fn saga_move(&self) -> Option<SagaMove<'a>> {
        let (from, to) = (self.from.status(), self.moved.status());
        self.saga.map(|saga| SagaMove { saga, cid: self.cid, id: self.id, from, to })
    }
}

/// Moves the items. The transaction has the lines of their ordering keys and has locked the places that they leave.
/// Errors with [`PgError::LostRace`] when one is not in the place that it leaves.
pub(crate) async fn change_places(tx: &WriteTx<'_>, changes: &[PlaceChange<'_>]) -> Result<(), PgError> {
    leave(tx, changes).await?;
    arrive(tx, changes).await?;
    let saga_moves: Vec<_> = changes.iter().filter_map(PlaceChange::saga_move).collect();
    saga_signals::note_moves(tx, &saga_moves).await?;
    find_fronts(tx, changes).await
}

/// Finds the fronts of the keys of which items were moved.
async fn find_fronts(tx: &WriteTx<'_>, changes: &[PlaceChange<'_>]) -> Result<(), PgError> {
    let (mut done, mut others) = (HashSet::new(), HashSet::new());
    for change in changes {
        let keys = if change.completes_claim() { &mut done } else { &mut others };
        keys.extend(change.ordering_key);
    }
    let done: Vec<_> = done.difference(&others).copied().collect();
    ordering::find_fronts(tx, &others.into_iter().collect::<Vec<_>>()).await?;
    ordering::find_next_fronts(tx, &done).await
}

async fn leave(tx: &WriteTx<'_>, changes: &[PlaceChange<'_>]) -> Result<(), PgError> {
    let leased = changes.iter().filter_map(|change| match change.from {
        OldPlace::Lease(token) => Some((token, change.id)),
        _ => None,
    });
    leave_leases(tx, &leased.collect::<Vec<_>>()).await?;
    let ids_from = |is_origin: fn(OldPlace) -> bool| {
        let left = changes.iter().filter(move |change| is_origin(change.from));
        left.map(|change| change.id.get()).collect::<Vec<_>>()
    };
    delete(tx, "outbox.queue", ids_from(|from| matches!(from, OldPlace::Queue { .. }))).await?;
    delete(tx, "outbox.done", ids_from(|from| from == OldPlace::Done)).await?;
    delete(tx, "outbox.dead", ids_from(|from| from == OldPlace::Dead)).await
}

async fn delete(tx: &WriteTx<'_>, place: &str, ids: Vec<i64>) -> Result<(), PgError> {
    if ids.is_empty() {
        return Ok(());
    }
    let statement = format!("DELETE FROM {place} WHERE id = ANY($1) RETURNING id");
    let deleted = tx.rows(&statement, &[&ids]).await?.len();
    if deleted < ids.len() { Err(PgError::LostRace) } else { Ok(()) }
}

async fn arrive(tx: &WriteTx<'_>, changes: &[PlaceChange<'_>]) -> Result<(), PgError> {
    let pasts = changes.iter().filter(|change| change.has_past()).map(PlaceChange::past_row);
    past::write(tx, &pasts.collect::<Vec<_>>()).await?;
    let (mut done, mut queued, mut dead) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        match &change.moved.to {
            Destination::Done { result } => done.push((change, result.as_deref())),
            Destination::Queue { available_at } => queued.push((change, *available_at)),
            Destination::Dead { blocks_key, fingerprint } => dead.push((change, *blocks_key, fingerprint.as_str())),
        }
    }
    arrive_done(tx, &done).await?;
    arrive_queue(tx, &queued).await?;
    arrive_dead(tx, &dead).await
}

async fn arrive_done(tx: &WriteTx<'_>, items: &[(&PlaceChange<'_>, Option<&[u8]>)]) -> Result<(), PgError> {
    if items.is_empty() {
        return Ok(());
    }
    let column = || items.iter().map(|(change, _)| change);
    let ids: Vec<_> = column().map(|change| change.id.get()).collect();
    let turns: Vec<_> = column().map(|change| change.turn).collect();
    let digests: Vec<_> = column().map(|change| change.past().handler_digest.as_deref()).collect();
    let times: Vec<_> = column().map(|change| change.at.get()).collect();
    let results: Vec<_> = items.iter().map(|(_, result)| *result).collect();
    let sql = "SELECT outbox.into_done($1, $2, $3, $4, $5)";
    tx.rows(sql, &[&ids, &turns, &digests, &results, &times]).await.map(drop)
}

async fn arrive_queue(tx: &WriteTx<'_>, items: &[(&PlaceChange<'_>, Millis)]) -> Result<(), PgError> {
    if items.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = items.iter().map(|(change, _)| change.id.get()).collect();
    let due: Vec<_> = items.iter().map(|(_, available_at)| available_at.get()).collect();
    let turns: Vec<_> = items.iter().map(|(change, _)| change.turn).collect();
    let again: Vec<_> = items.iter().map(|(change, _)| change.has_past()).collect();
    let losses: Vec<_> = items.iter().map(|(change, _)| past::stored_count(change.past().losses)).collect();
    let sql = format!(
        "INSERT INTO outbox.queue (id, available_at, turn, epoch, again, losses, type, ordering_key, fairness_key)
         SELECT new.id, new.due, new.turn, {NEWEST_JOB_SQL}, new.again, new.losses, item.type,
                item.ordering_key, item.fairness_key
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::boolean[], $5::integer[])
                  AS new (id, due, turn, again, losses)
              JOIN outbox.items AS item ON item.id = new.id AND item.id = ANY ($1)
         ON CONFLICT (id) DO UPDATE
         SET available_at = excluded.available_at, turn = excluded.turn, epoch = excluded.epoch,
             again = excluded.again, losses = excluded.losses"
    );
    tx.rows(&sql, &[&ids, &due, &turns, &again, &losses]).await.map(drop)
}

/// The parameters: id, time of the death, turn, type, ordering key, whether it blocks the key, fingerprint, error,
/// digest.
const INTO_DEAD: &str = "\
    INSERT INTO outbox.dead (id, dead_at, epoch, turn, type, ordering_key, blocks_key, fingerprint, last_error, handler)
    SELECT new.id, new.at, outbox.newest_job(), new.turn, new.kind, new.line, new.blocks, new.alike, new.error,
           handler.id
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::boolean[], $7::text[],
                $8::text[], $9::text[])
             AS new (id, at, turn, kind, line, blocks, alike, error, digest)
         LEFT JOIN outbox.handlers AS handler ON handler.digest = new.digest
    ON CONFLICT (id) DO UPDATE
    SET dead_at = excluded.dead_at, epoch = excluded.epoch, turn = excluded.turn, blocks_key = excluded.blocks_key,
        fingerprint = excluded.fingerprint, last_error = excluded.last_error, handler = excluded.handler";

async fn arrive_dead(tx: &WriteTx<'_>, items: &[(&PlaceChange<'_>, bool, &str)]) -> Result<(), PgError> {
    if items.is_empty() {
        return Ok(());
    }
    let column = || items.iter().map(|(change, ..)| change);
    let ids: Vec<_> = column().map(|change| change.id.get()).collect();
    let times: Vec<_> = column().map(|change| change.at.get()).collect();
    let turns: Vec<_> = column().map(|change| change.turn).collect();
    let types: Vec<_> = column().map(|change| change.item_type).collect();
    let keys: Vec<_> = column().map(|change| change.ordering_key).collect();
    let blocks: Vec<_> = items.iter().map(|(_, blocks_key, _)| *blocks_key).collect();
    let groups: Vec<_> = items.iter().map(|(.., fingerprint)| *fingerprint).collect();
    let errors: Vec<_> = column().map(|change| change.past().last_error.as_deref().map(without_nul)).collect();
    let digests: Vec<_> = column().map(|change| change.past().handler_digest.as_deref()).collect();
    let values: Values<'_> = &[&ids, &times, &turns, &types, &keys, &blocks, &groups, &errors, &digests];
    tx.rows(INTO_DEAD, values).await.map(drop)
}

/// Takes the item of the claim out of the DONE items, where somebody has put it beside its lease. Returns whether it was
/// there.
pub(crate) async fn leave_done(tx: &WriteTx<'_>, claim: &ClaimRef) -> Result<bool, PgError> {
    let sql = "DELETE FROM outbox.done WHERE id = $1
               AND EXISTS (SELECT FROM outbox.leases WHERE token = $2 AND $1 = ANY (ids)) RETURNING id";
    let left = tx.rows(sql, &[&claim.id.get(), &claim.token.get()]).await?;
    if !left.is_empty() {
        let item_id = claim.id.get();
        tracing::error!(item.id = item_id, "an item was claimed and DONE at once: it is settled as it was claimed");
    }
    Ok(!left.is_empty())
}

/// Changes when items in the queue are due.
pub(crate) async fn reschedule(tx: &WriteTx<'_>, ids: &[ItemId], available_at: Millis) -> Result<(), PgError> {
    past::keep_rows(tx, ids).await?;
    let sql = "UPDATE outbox.queue SET available_at = $2, again = true WHERE id = ANY($1)";
    tx.rows(sql, &[&numbers(ids), &available_at.get()]).await.map(drop)
}
