//! Saga runs: their unfinished and their dead items, and the signals and totals of their transitions, written in the
//! transaction that causes them.
//!
//! A run of (saga, correlation id) is open from the first claim of one of its items until `outbox.saga_open` has none
//! of its items. Begins and ends alternate, because both lock the run's row. The schema's triggers enter a new item in
//! `outbox.saga_open`, and delete the row of an ended run with its last item.

use std::collections::{BTreeMap, BTreeSet};

use outbox_core::saga::{
    RunCause, SagaOutcome, StepOutcome, begin_data, begin_signal, end_data, end_signal, step_signal,
};
use outbox_item::{Item, ItemId, Status};
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
pub(crate) async fn begin_runs_if_none(
    tx: &mut WriteTx<'_>,
    items: impl IntoIterator<Item = &Item>,
) -> Result<(), PgError> {
    let mut runs: BTreeMap<(&str, &str), RunCause> = BTreeMap::new();
    for item in items {
        if let Some(saga) = &item.saga {
            runs.entry((saga, &item.cid)).or_insert(RunCause::of_replays(item.replays));
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
        let cause = runs.get(&(saga.as_str(), cid.as_str())).copied().unwrap_or_default();
        tx.count(Counter::SagaBegin { saga: &saga }, 1);
        tx.signal(begin_signal(&saga), &begin_data(&cid, row.try_get(2)?, cause));
    }
    Ok(())
}

/// A move of an item of a saga, by the status before and after it.
pub(crate) struct SagaMove<'a> {
    pub(crate) saga: &'a str,
    pub(crate) cid: &'a str,
    pub(crate) id: ItemId,
    pub(crate) from: Status,
    pub(crate) to: Status,
}

impl SagaMove<'_> {
    fn is_finish(&self) -> bool {
        !is_finished(self.from) && is_finished(self.to)
    }

    fn is_reopening(&self) -> bool {
        is_finished(self.from) && !is_finished(self.to)
    }

    /// What the move adds to the number of the run's dead items.
    fn deaths(&self) -> i64 {
        i64::from(self.to == Status::Dlq) - i64::from(self.from == Status::Dlq)
    }
}

const fn is_finished(status: Status) -> bool {
    matches!(status, Status::Done | Status::Dlq)
}

/// Keeps what is known of the runs of items that moved: which items are unfinished, and how many are dead. Locks the
/// rows of the runs that may have ended, in one order, until the end of the transaction.
pub(crate) async fn note_moves(tx: &WriteTx<'_>, moves: &[SagaMove<'_>]) -> Result<(), PgError> {
    let finished: Vec<_> = moves.iter().filter(|moved| moved.is_finish()).collect();
    let delete = "DELETE FROM outbox.saga_open AS open
                  USING unnest($1::text[], $2::text[], $3::bigint[]) AS done (saga, cid, id)
                  WHERE open.saga = done.saga AND open.cid = done.cid AND open.id = done.id";
    write_open(tx, delete, &finished).await?;
    let reopened: Vec<_> = moves.iter().filter(|moved| moved.is_reopening()).collect();
    let insert = "INSERT INTO outbox.saga_open (saga, cid, id)
                  SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) ON CONFLICT DO NOTHING";
    write_open(tx, insert, &reopened).await?;
    let mut deaths: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for moved in moves.iter().filter(|moved| moved.is_finish() || moved.deaths() != 0) {
        *deaths.entry((moved.saga, moved.cid)).or_default() += moved.deaths();
    }
    add_deaths(tx, &deaths).await
}

async fn write_open(tx: &WriteTx<'_>, statement: &str, moves: &[&SagaMove<'_>]) -> Result<(), PgError> {
    if moves.is_empty() {
        return Ok(());
    }
    let (sagas, cids): (Vec<_>, Vec<_>) = moves.iter().map(|moved| (moved.saga, moved.cid)).unzip();
    let ids: Vec<_> = moves.iter().map(|moved| moved.id.get()).collect();
    tx.rows(statement, &[&sagas, &cids, &ids]).await.map(drop)
}

/// Locks the runs and adds to the numbers of their dead items, on which the outcome at the end of a run depends.
async fn add_deaths(tx: &WriteTx<'_>, deaths: &BTreeMap<(&str, &str), i64>) -> Result<(), PgError> {
    if deaths.is_empty() {
        return Ok(());
    }
    let (sagas, cids): (Vec<_>, Vec<_>) = deaths.keys().copied().unzip();
    let lock = "SELECT 1 FROM outbox.sagas, unnest($1::text[], $2::text[]) AS new (name, correlation)
                WHERE saga = name AND cid = correlation ORDER BY saga, cid FOR UPDATE OF sagas";
    tx.rows(lock, &[&sagas, &cids]).await?;
    if deaths.values().all(|by| *by == 0) {
        return Ok(());
    }
    let amounts: Vec<_> = deaths.values().copied().collect();
    let add = "UPDATE outbox.sagas AS run SET dead = greatest(run.dead + new.by, 0)
               FROM unnest($1::text[], $2::text[], $3::bigint[]) AS new (name, correlation, by)
               WHERE run.saga = new.name AND run.cid = new.correlation AND new.by <> 0";
    tx.rows(add, &[&sagas, &cids, &amounts]).await.map(drop)
}

/// Writes a signal for each step, and ends the runs of which no item is unfinished. The caller has ended the claims and
/// moved their items, with [`note_moves`].
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

/// Ends those of the runs of which no item is unfinished. Their rows are locked, in an earlier statement: so this one
/// sees what other transactions committed while that waited.
async fn end_finished(tx: &mut WriteTx<'_>, runs: &BTreeSet<(&str, &str)>) -> Result<(), PgError> {
    let (sagas, cids): (Vec<_>, Vec<_>) = runs.iter().copied().unzip();
    let close = "UPDATE outbox.sagas AS run SET ended_at = $3
                 FROM unnest($1::text[], $2::text[]) AS new (name, correlation)
                 WHERE run.saga = name AND run.cid = correlation AND run.ended_at IS NULL
                   AND NOT EXISTS (SELECT 1 FROM outbox.saga_open AS open
                                   WHERE open.saga = name AND open.cid = correlation)
                 RETURNING run.saga, run.cid, run.dead::bigint";
    for row in tx.rows(close, &[&sagas, &cids, &tx.now.get()]).await? {
        let (saga, cid): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let outcome = SagaOutcome::of_run(row.try_get(2)?);
        tx.count(Counter::SagaEnd { saga: &saga, outcome }, 1);
        tx.signal(end_signal(&saga), &end_data(&cid, outcome));
    }
    Ok(())
}
