//! How items become DONE: those that are settled together share statements.
//!
//! It knows the item, its totals and its signals. What a handler asks to be stored beside is committed by its caller.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use rusqlite::{Row, ToSql};

use crate::batch::{Statements, slices};
use crate::jobs::NEWEST_JOB_SQL;
use crate::saga_signals;
use crate::write_tx::WriteTx;
use outbox_core::saga::StepOutcome;
use outbox_item::{ItemId, Status, Transition};
use outbox_store::engine::attempt_record::SagaStep;
use outbox_store::{ClaimRef, StoreError};

/// A claim whose item becomes DONE.
pub(crate) struct CompletionRow {
    claim: ClaimRef,
    result: Option<Vec<u8>>,
    handler_digest: Option<String>,
}

impl CompletionRow {
    pub(crate) fn new(claim: ClaimRef, result: Option<Vec<u8>>, handler_digest: Option<String>) -> Self {
        Self { claim, result, handler_digest }
    }
}

/// Settles each claim that still holds; the others are lost. An engine's failure, which all that share the
/// statement are told, may have left it half done.
pub(crate) fn complete(tx: &mut WriteTx<'_>, completions: &[&CompletionRow]) -> Vec<Result<(), StoreError>> {
    slices(completions).flat_map(|completions| complete_rows(tx, completions)).collect()
}

fn complete_rows(tx: &mut WriteTx<'_>, completions: &[&CompletionRow]) -> Vec<Result<(), StoreError>> {
    let ids: BTreeSet<_> = completions.iter().map(|completion| completion.claim.id).collect();
    // Of two settlements of one claim it has to be known which was taken.
    if ids.len() < completions.len() {
        return completions.iter().flat_map(|completion| complete_rows(tx, &[completion])).collect();
    }
    let done = complete_in_one_statement(tx, completions).map_err(|err| err.to_string());
    let settled = |completion: &&CompletionRow| match &done {
        Ok(done) if done.iter().any(|row| row.id == completion.claim.id) => Ok(()),
        Ok(_) => Err(StoreError::ClaimLost),
        Err(why) => Err(StoreError::Unavailable { tried: "settling a claim", source: why.clone().into() }),
    };
    completions.iter().map(settled).collect()
}

/// An item that has become DONE, as its totals and signals see it.
struct CompletedRow {
    id: ItemId,
    item_type: String,
    saga: Option<String>,
    cid: String,
    attempt: u32,
    /// Others may have waited for it.
    is_ordered: bool,
}

impl CompletedRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            item_type: row.get(1)?,
            saga: row.get(2)?,
            cid: row.get(3)?,
            attempt: row.get(4)?,
            is_ordered: row.get(5)?,
        })
    }

    fn saga_step(&self) -> Option<SagaStep<'_>> {
        let Self { id, item_type, cid, attempt, .. } = self;
        self.saga.as_deref().map(|saga| SagaStep { saga, cid, item_type, item_id: *id, attempt: *attempt })
    }
}

fn complete_in_one_statement(
    tx: &mut WriteTx<'_>,
    completions: &[&CompletionRow],
) -> rusqlite::Result<Vec<CompletedRow>> {
    let done = update(tx, completions)?;
    tx.wakes_workers |= done.iter().any(|row| row.is_ordered);
    for alike in done.chunk_by(|one, next| one.item_type == next.item_type) {
        let count = i64::try_from(alike.len()).unwrap_or(i64::MAX);
        tx.count("done", "", &alike[0].item_type, "", count);
        tx.count("attempt", "", &alike[0].item_type, "done", count);
    }
    // All of them are DONE by now: the last step of a run is signalled before its end.
    for made in done.iter().filter_map(CompletedRow::saga_step) {
        saga_signals::write_step_signal(tx, &made, StepOutcome::Ok, "done")?;
    }
    for made in done.iter().filter_map(CompletedRow::saga_step) {
        saga_signals::end_if_finished(tx, made.saga, made.cid)?;
    }
    Ok(done)
}

/// The values of a row.
const VALUES: usize = 4;

static UPDATE: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(VALUES, |rows| {
        format!(
            "UPDATE outbox_items NOT INDEXED
             SET status = ?1, epoch = {NEWEST_JOB_SQL}, done_at = ?2, result = new.result, handler_digest = new.digest,
                 last_error = NULL, given_back_since = NULL,
                 claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
             FROM (SELECT column1 AS item, column2 AS token, column3 AS result, column4 AS digest
                   FROM (VALUES {rows})) AS new
             WHERE id = new.item AND claim_token = new.token AND status = 'CLAIMED'
             RETURNING id, type, saga, cid, attempts, ordering_key IS NOT NULL"
        )
    })
});

fn update(tx: &WriteTx<'_>, completions: &[&CompletionRow]) -> rusqlite::Result<Vec<CompletedRow>> {
    let Ok(status) = Status::Claimed.next(Transition::Complete) else { return Ok(Vec::new()) };
    let status = status.as_str();
    let mut values: Vec<&dyn ToSql> = vec![&status, &tx.now];
    for CompletionRow { claim, result, handler_digest } in completions {
        let row: [&dyn ToSql; VALUES] = [&claim.id, &claim.token, result, handler_digest];
        values.extend(row);
    }
    tx.connection.prepare_cached(UPDATE.of(completions.len()))?.query_map(&*values, CompletedRow::read)?.collect()
}
