//! Reads the items of a claim's leases: what was enqueued, and what happened to an item before.
//!
//! Most items have no past. So the two are read apart, by functions of the schema that return no more than a claim needs,
//! in one round trip. A claim of several rounds reads each item once. This file does not decide which items are handled
//! (`claim`).

use std::cmp::Reverse;
use std::collections::HashMap;

use tokio_postgres::Row;

use outbox_core::Past;
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::{Claim, ClaimRequest, ClaimTerms, ClaimToken};

use crate::claim_end::EndingClaim;
use crate::error::PgError;
use crate::past;
use crate::places::OldPlace;
use crate::rows;
use crate::tx::{Query as _, Values, WriteTx};

/// An item in a lease of this call.
pub(crate) struct LeasedRow<'a> {
    pub(crate) claim: Claim,
    pub(crate) turn: Option<i64>,
    pub(crate) terms: &'a ClaimTerms,
    /// The place of its type in the request.
    place: usize,
    /// Why its row cannot be read.
    pub(crate) defect: Option<String>,
}

/// The tokens of all leases that the request can create.
pub(crate) fn tokens(request: &ClaimRequest) -> Vec<i64> {
    request.tokens().into_iter().map(ClaimToken::get).collect()
}

/// The items of the request's leases that the claim has not read before, in the order of [`sort`].
pub(crate) async fn read<'a>(
    tx: &WriteTx<'_>,
    request: &'a ClaimRequest,
    read_before: &[i64],
) -> Result<Vec<LeasedRow<'a>>, PgError> {
    let tokens = tokens(request);
    let values: Values<'_> = &[&tokens, &read_before];
    let (content, pasts) = tokio::join!(biased;
        tx.rows("SELECT * FROM outbox.claimed_content($1, $2)", values),
        tx.rows("SELECT * FROM outbox.claimed_pasts($1, $2)", values),
    );
    let (content, mut pasts) = (content?, pasts_by_id(&pasts?)?);
    let claimed = ClaimedRows { request, claimed_at: tx.now };
    let mut found = content.iter().map(|row| claimed.read(row, &mut pasts)).collect::<Result<Vec<_>, _>>()?;
    sort(&mut found);
    Ok(found)
}

/// Sorts by the order of the request's types, by losses, and by due times. What follows in a streak comes after its front.
pub(crate) fn sort(rows: &mut [LeasedRow<'_>]) {
    let fronts = fronts(rows);
    rows.sort_by_cached_key(|row| (row.place, row.rank(&fronts)));
}

/// What happened to the items before, and when each of them was due.
type Pasts = HashMap<ItemId, (Past, Option<Millis>)>;

fn pasts_by_id(rows: &[Row]) -> Result<Pasts, PgError> {
    let past = |row: &Row| {
        let due: Option<i64> = row.try_get("available_at")?;
        Ok((ItemId::new(row.try_get("id")?), (past::read(row)?, due.map(Millis::new))))
    };
    rows.iter().map(past).collect()
}

/// The place of the type in the columns of `outbox.claimed_content`.
const COLUMN_TYPE: usize = 1;

/// What the claim itself says of its items.
struct ClaimedRows<'a> {
    request: &'a ClaimRequest,
    claimed_at: Millis,
}

impl<'a> ClaimedRows<'a> {
    /// Decodes a row of `outbox.claimed_content`.
    fn read(&self, row: &Row, pasts: &mut Pasts) -> Result<LeasedRow<'a>, PgError> {
        let (types, item_type): (_, &str) = (&self.request.types, row.try_get(COLUMN_TYPE)?);
        let place = types.iter().position(|terms| terms.item_type == item_type).ok_or(PgError::LostRace)?;
        let (terms, id) = (&types[place], ItemId::new(row.try_get(3)?));
        let (past, was_due) = pasts.remove(&id).unwrap_or_else(|| (Past::claimed_once(), None));
        let mut defects = Vec::new();
        let item = Item {
            id,
            idem_key: row.try_get(4)?,
            item_type: terms.item_type.clone(),
            payload: row.try_get(5)?,
            content_type: row.try_get(6)?,
            headers: rows::headers(row.try_get(7)?, &mut defects),
            metadata: rows::metadata(row.try_get(8)?, &mut defects),
            cid: row.try_get(9)?,
            saga: row.try_get(10)?,
            ordering_key: row.try_get(11)?,
            fairness_key: row.try_get(12)?,
            created_at: rows::time(row, 13)?,
            status: Status::Claimed,
            attempts: past.attempts,
            deliveries: past.deliveries,
            replays: past.replays,
            available_at: was_due.map_or_else(|| rows::time(row, 14), Ok)?,
            claimed_at: Some(self.claimed_at),
            claimed_by: Some(self.request.claimed_by.clone()),
            lease_until: Some(self.claimed_at.saturating_add(terms.lease)),
            losses: past.losses,
            give_backs: past.give_backs,
            maybe_executed: past.maybe_executed,
            given_back_since: past.given_back_since,
            effect_generation: past.effect_generation,
            last_error: past.last_error,
            done_at: None,
            dead_at: None,
            result: None,
            handler_digest: past.handler_digest,
        };
        let claim = Claim { item, token: ClaimToken::new(row.try_get(0)?) };
        let (turn, defect) = (row.try_get(2)?, defects.into_iter().next());
        Ok(LeasedRow { claim, turn, terms, place, defect })
    }
}

/// Where an item comes in a claim: by its losses, by the due time and the id of the front of its streak, then by its turn.
type Rank = (Reverse<u32>, Millis, ItemId, Option<i64>, ItemId);

/// The due time and the id of the first item of each ordering key.
fn fronts(rows: &[LeasedRow<'_>]) -> HashMap<String, (Millis, ItemId)> {
    let mut in_line: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row.claim.item.ordering_key.as_ref()?, row.turn, &row.claim.item)))
        .collect();
    in_line.sort_by_key(|(_, turn, item)| Reverse((*turn, item.id)));
    in_line.into_iter().map(|(key, _, item)| (key.clone(), (item.available_at, item.id))).collect()
}

impl LeasedRow<'_> {
    fn rank(&self, fronts: &HashMap<String, (Millis, ItemId)>) -> Rank {
        let item = &self.claim.item;
        let front = item.ordering_key.as_ref().and_then(|key| fronts.get(key)).copied();
        let (due, first) = front.unwrap_or((item.available_at, item.id));
        (Reverse(item.losses), due, first, self.turn, item.id)
    }

    /// The end of the claim of this item, which was an attempt of this record.
    pub(crate) fn ending(&self, attempt: AttemptRecord, past: Past) -> EndingClaim {
        EndingClaim { attempt, past, turn: self.turn, from: OldPlace::Lease(self.claim.token) }
    }
}
