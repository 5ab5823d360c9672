//! Saga signals and their totals, written in the transaction of the transition that causes them.
//!
//! A run of (saga, correlation id) is open from the first claim of one of its items until no item of it is PENDING or
//! CLAIMED. Begins and ends alternate, because both lock the run's row. The trigger `items_deleted` deletes the row of
//! an ended run with its last item.

use std::collections::{BTreeMap, BTreeSet};

use outbox_core::saga::{SagaOutcome, StepOutcome, begin_data, begin_signal, end_data, end_signal, step_signal};
use outbox_item::Item;
use outbox_store::engine::attempt_record::SagaStep;
use outbox_store::engine::counters::Counter;

use crate::error::PgError;
use crate::tx::{Query as _, WriteTx};

/// The end of an attempt at an item of a saga.
pub(crate) struct SagaStepEnd<'a> {
    pub(crate) step: SagaStep<'a>,
    pub(crate) outcome: StepOutcome,
    /// `done`, or the failure's class.
    pub(crate) class: &'static str,
}

/// Begins a run for each saga of the items unless one is open. The caller has just claimed the items.
pub(crate) async fn begin_runs_if_none(tx: &mut WriteTx<'_>, items: &[Item]) -> Result<(), PgError> {
    let mut runs: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for item in items {
        if let Some(saga) = &item.saga {
            runs.entry((saga, &item.cid)).or_insert(item.replays > 0);
        }
    }
    if runs.is_empty() {
        return Ok(());
    }
    let (sagas, cids): (Vec<_>, Vec<_>) = runs.keys().copied().unzip();
    let sql = "INSERT INTO outbox.sagas AS known (saga, cid, run, began_at)
               SELECT name, correlation, 1, $3::bigint FROM unnest($1::text[], $2::text[]) AS new (name, correlation)
               ON CONFLICT (saga, cid) DO UPDATE
               SET run = known.run + 1, began_at = excluded.began_at, ended_at = NULL
               WHERE known.ended_at IS NOT NULL
               RETURNING saga, cid, known.run";
    for row in tx.rows(sql, &[&sagas, &cids, &tx.now.get()]).await? {
        let (saga, cid): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let is_replay = runs.get(&(saga.as_str(), cid.as_str())).copied().unwrap_or_default();
        tx.count(Counter::SagaBegin { saga: &saga }, 1);
        tx.signal(begin_signal(&saga), &begin_data(&cid, row.try_get(2)?, is_replay));
    }
    Ok(())
}

/// Writes a signal for each step, and ends the runs of which no item is unfinished. The caller has ended the claims and
/// written their rows.
pub(crate) async fn advance_runs(tx: &mut WriteTx<'_>, step_ends: &[SagaStepEnd<'_>]) -> Result<(), PgError> {
    let mut finishing = BTreeSet::new();
    for SagaStepEnd { step, outcome, class } in step_ends {
        let SagaStep { saga, item_type, cid, .. } = *step;
        let outcome = *outcome;
        tx.count(Counter::SagaStep { saga, item_type, outcome }, 1);
        tx.signal(step_signal(saga, item_type), &step.signal_data(outcome, class));
        if outcome != StepOutcome::Retried {
            finishing.insert((saga, cid));
        }
    }
    if finishing.is_empty() { Ok(()) } else { end_finished(tx, &finishing).await }
}

async fn end_finished(tx: &mut WriteTx<'_>, runs: &BTreeSet<(&str, &str)>) -> Result<(), PgError> {
    let (sagas, cids): (Vec<_>, Vec<_>) = runs.iter().copied().unzip();
    let lock = "SELECT 1 FROM outbox.sagas, unnest($1::text[], $2::text[]) AS new (name, correlation)
                WHERE saga = name AND cid = correlation ORDER BY saga, cid FOR UPDATE OF sagas";
    tx.rows(lock, &[&sagas, &cids]).await?;
    // A statement of its own: it sees what other transactions committed while the lock above waited.
    let close = "UPDATE outbox.sagas AS run SET ended_at = $3
                 FROM unnest($1::text[], $2::text[]) AS new (name, correlation)
                 WHERE run.saga = name AND run.cid = correlation AND run.ended_at IS NULL
                   AND NOT EXISTS (SELECT 1 FROM outbox.items WHERE saga = name AND cid = correlation
                                   AND status IN ('PENDING', 'CLAIMED'))
                 RETURNING run.saga, run.cid,
                     EXISTS (SELECT 1 FROM outbox.items WHERE saga = name AND cid = correlation AND status = 'DLQ')";
    for row in tx.rows(close, &[&sagas, &cids, &tx.now.get()]).await? {
        let (saga, cid): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let outcome = SagaOutcome::of_run(row.try_get(2)?);
        tx.count(Counter::SagaEnd { saga: &saga, outcome }, 1);
        tx.signal(end_signal(&saga), &end_data(&cid, outcome));
    }
    Ok(())
}
