//! Makes items DONE: those that are settled together share statements.
//!
//! It knows the item, its totals and its signals. Its caller writes what a handler asked the host to write.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use rusqlite::{Row, ToSql};

use outbox_core::ClaimEndKind;
use outbox_core::saga::StepOutcome;
use outbox_item::ItemId;
use outbox_store::engine::attempt_record::SagaStep;
use outbox_store::engine::counters::Counter;
use outbox_store::{ClaimRef, StoreError};

use crate::batch::{Statements, slices};
use crate::saga_signals;
use crate::write_tx::{NEWEST_JOB_SQL, WriteTx};

/// A claim whose item becomes DONE.
pub(crate) struct CompletionRow {
    id: ItemId,
    token: String,
    result: Option<Vec<u8>>,
    handler_digest: Option<String>,
}

impl CompletionRow {
    pub(crate) fn new(claim: ClaimRef, result: Option<Vec<u8>>, handler_digest: Option<String>) -> Self {
        Self { id: claim.id, token: claim.token.into_string(), result, handler_digest }
    }
}

/// Settles each claim that still holds; the others get [`StoreError::ClaimLost`]. When SQLite fails, every claim of the
/// statement gets the error, and the transaction may contain a part of the work.
pub(crate) fn complete(tx: &mut WriteTx<'_>, completions: &[&CompletionRow]) -> Vec<Result<(), StoreError>> {
    slices(completions).flat_map(|completions| complete_rows(tx, completions)).collect()
}

fn complete_rows(tx: &mut WriteTx<'_>, completions: &[&CompletionRow]) -> Vec<Result<(), StoreError>> {
    let ids: BTreeSet<_> = completions.iter().map(|completion| completion.id).collect();
    // Two settlements of one claim need a statement each: only one of them may succeed.
    if ids.len() < completions.len() {
        return completions.iter().flat_map(|completion| complete_rows(tx, &[completion])).collect();
    }
    let done = complete_in_one_statement(tx, completions).map_err(|err| err.to_string());
    let settled = |completion: &&CompletionRow| match &done {
        Ok(done) if done.iter().any(|row| row.id == completion.id) => Ok(()),
        Ok(_) => Err(StoreError::ClaimLost),
        Err(why) => Err(StoreError::Unavailable { tried: "settling a claim", source: why.clone().into() }),
    };
    completions.iter().map(settled).collect()
}

/// What the totals and the signals need of an item that became DONE.
struct CompletedRow {
    id: ItemId,
    item_type: String,
    saga: Option<String>,
    cid: String,
    attempt: u32,
    /// Whether the item has an ordering key, so that others may have waited for it.
    is_ordered: bool,
}

impl CompletedRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: ItemId::new(row.get(0)?),
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
    for of_type in done.chunk_by(|one, next| one.item_type == next.item_type) {
        let count = i64::try_from(of_type.len()).unwrap_or(i64::MAX);
        let item_type = &of_type[0].item_type;
        tx.count(Counter::Done { item_type }, count);
        tx.count(Counter::Attempt { item_type, outcome: "done" }, count);
    }
    // Steps first: the signal of a run's last step precedes the signal of its end.
    for step in done.iter().filter_map(CompletedRow::saga_step) {
        saga_signals::write_step_signal(tx, &step, StepOutcome::Ok, "done")?;
    }
    for step in done.iter().filter_map(CompletedRow::saga_step) {
        saga_signals::end_if_finished(tx, step.saga, step.cid)?;
    }
    Ok(done)
}

/// The number of values of one row of [`UPDATE`].
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
    let status = ClaimEndKind::Complete.status().as_str();
    let now = tx.now.get();
    let ids: Vec<_> = completions.iter().map(|completion| completion.id.get()).collect();
    let mut values: Vec<&dyn ToSql> = vec![&status, &now];
    for (id, completion) in ids.iter().zip(completions) {
        let CompletionRow { token, result, handler_digest, .. } = completion;
        let row: [&dyn ToSql; VALUES] = [id, token, result, handler_digest];
        values.extend(row);
    }
    tx.connection.prepare_cached(UPDATE.of(completions.len()))?.query_map(&*values, CompletedRow::read)?.collect()
}
