//! Claims beside rows that make a claim fail: a change from outside, or a trigger of the application. It finds such an
//! item, and sets it aside, so that it stops neither other types nor other items of its type.
//!
//! How items are claimed is in `claim`; this file knows only which of them cannot be.

use std::time::Duration;

use rusqlite::ErrorCode;

use outbox_core::SuspectRoom;
use outbox_store::{ClaimBatch, ClaimRequest, ClaimTerms, StoreError, SuspectTerms};

use crate::claim_items::{TakenItem, lease_items};
use crate::claim_progress::wait_at_most;
use crate::error::unavailable;
use crate::ordering::find_fronts_behind;
use crate::places::{is_beside_the_queue, leave_queue};
use crate::write_tx::WriteTx;
use crate::{claim, fair_keys, suspects};

/// Items of a type that are tried one by one after a claim of the type failed, so that the transaction stays short.
const TRIED_MAX: u32 = 500;

/// How long an item that cannot be claimed waits until the next claim tries it.
const SET_ASIDE: Duration = Duration::from_mins(1);

/// Claims what the request allows. If a row makes that fail, the writer runs the request apart from others, and the
/// claim leaves the row out.
pub(crate) fn claim(tx: &mut WriteTx<'_>, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
    let claimed = if tx.is_apart { claim_around_bad_rows(tx, request) } else { claim::claim(tx, request) };
    tx.asks_apart |= claimed.as_ref().is_err_and(is_about_a_row);
    claimed.map_err(unavailable("claiming items"))
}

/// Whether the failure is that of a row, as opposed to that of the file or of its disk.
fn is_about_a_row(err: &rusqlite::Error) -> bool {
    let of_rows = [ErrorCode::ConstraintViolation, ErrorCode::TypeMismatch, ErrorCode::TooBig, ErrorCode::Unknown];
    err.sqlite_error_code().is_none_or(|code| of_rows.contains(&code))
}

/// Claims type by type, each in a savepoint. Where that fails, the items that make it fail are set aside, and the type
/// is claimed once more. Errors when no type can be claimed and one has failed.
fn claim_around_bad_rows(tx: &mut WriteTx<'_>, request: &ClaimRequest) -> rusqlite::Result<ClaimBatch> {
    let (mut all, mut failure) = (ClaimBatch::default(), None);
    // Another type is first each time, because the first one takes what it can.
    let start = fastrand::usize(..request.types.len().max(1));
    for (index, terms) in request.types.iter().cycle().skip(start).take(request.types.len()).enumerate() {
        let of_type = of_type(request, terms, &all, index == 0);
        match claim_type(tx, &of_type, terms) {
            Ok(batch) => add(&mut all, batch),
            Err(err) if !is_about_a_row(&err) => return Err(err),
            Err(err) => {
                tracing::error!(item.type = terms.item_type, error = %err, "a type cannot be claimed: trying again");
                failure = Some(err);
            }
        }
        if all.claims.iter().any(|claim| claim.item.losses > 0) {
            // The company of suspects is one run of theirs.
            break;
        }
    }
    failure.filter(|_| all.claims.is_empty()).map_or(Ok(all), Err)
}

/// The part of the request for one type. No streaks: what follows a front is claimed when it is the front.
fn of_type(request: &ClaimRequest, terms: &ClaimTerms, claimed: &ClaimBatch, has_suspects: bool) -> ClaimRequest {
    let room = if has_suspects { request.suspects.room } else { SuspectRoom::None };
    ClaimRequest {
        claimed_by: request.claimed_by.clone(),
        limit: request.limit.saturating_sub(u32::try_from(claimed.claims.len()).unwrap_or(u32::MAX)),
        types: vec![ClaimTerms { streak: 1, ..terms.clone() }],
        suspects: SuspectTerms { room, ..request.suspects.clone() },
    }
}

fn add(all: &mut ClaimBatch, batch: ClaimBatch) {
    all.claims.extend(batch.claims);
    all.lone_suspect_waits |= batch.lone_suspect_waits;
    wait_at_most(all, [batch.next_available_in]);
}

fn claim_type(tx: &mut WriteTx<'_>, of_type: &ClaimRequest, terms: &ClaimTerms) -> rusqlite::Result<ClaimBatch> {
    match tx.in_savepoint(|tx| claim::claim(tx, of_type))? {
        Err(err) if is_about_a_row(&err) => {
            set_bad_items_aside(tx, of_type, terms)?;
            tx.in_savepoint(|tx| claim::claim(tx, of_type))?
        }
        claimed => claimed,
    }
}

/// Tries each of the items that a claim of the type comes to first, and sets those aside that fail.
fn set_bad_items_aside(tx: &mut WriteTx<'_>, of_type: &ClaimRequest, terms: &ClaimTerms) -> rusqlite::Result<()> {
    let mut tried = suspects::first(tx, terms, TRIED_MAX)?;
    tried.extend(fair_keys::first(tx, terms, TRIED_MAX)?);
    for item in tried {
        let Some(err) = fault_of(tx, of_type, terms, &item)? else { continue };
        if !is_about_a_row(&err) {
            return Err(err);
        }
        // Where even this fails, the type stays as it is.
        if let Err(refused) = tx.in_savepoint(|tx| set_aside(tx, &item, &err))? {
            tracing::error!(item.id = item.id.get(), error = %refused, "an item that cannot be claimed cannot wait");
        }
    }
    Ok(())
}

/// Why the item cannot be claimed alone, if it cannot. Changes nothing.
fn fault_of(
    tx: &mut WriteTx<'_>,
    of_type: &ClaimRequest,
    terms: &ClaimTerms,
    item: &TakenItem,
) -> rusqlite::Result<Option<rusqlite::Error>> {
    let tried = tx.in_savepoint(|tx| {
        let claimed = leave_queue(tx, item.id)
            .and_then(|_| lease_items(tx, of_type, terms, terms.token, std::slice::from_ref(item)));
        // An error in either case, so that the savepoint is rolled back.
        Err::<(), _>(claimed.err())
    })?;
    Ok(tried.err().flatten())
}

/// An item that is in another place as well leaves the queue. Any other waits.
fn set_aside(tx: &mut WriteTx<'_>, item: &TakenItem, err: &rusqlite::Error) -> rusqlite::Result<()> {
    let item_id = item.id.get();
    if is_beside_the_queue(tx, item.id)? {
        tracing::error!(item.id = item_id, error = %err, "an item was in the queue and in another place: it left the queue");
        leave_queue(tx, item.id)?;
        return find_fronts_behind(tx, item.id);
    }
    tracing::error!(item.id = item_id, error = %err, wait = ?SET_ASIDE, "an item cannot be claimed: it waits");
    let sql = "UPDATE outbox_queue SET available_at = ?2 WHERE id = ?1";
    let until = tx.now.saturating_add(SET_ASIDE);
    tx.connection.prepare_cached(sql)?.execute([item_id, until.get()]).map(drop)
}
