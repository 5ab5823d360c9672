//! Saga signals and their totals, written in the transaction of the transition that causes them.
//!
//! A run of (saga, correlation id) is open from the first claim of one of its items until no item of it is PENDING or
//! CLAIMED. Begins and ends alternate. The trigger `outbox_items_deleted` deletes the row of an ended run with its last
//! item.

use rusqlite::{Connection, OptionalExtension, params};

use outbox_core::saga::{SagaOutcome, StepOutcome, begin_data, begin_signal, end_data, end_signal, step_signal};
use outbox_store::engine::attempt_record::{AttemptRecord, SagaStep};
use outbox_store::engine::counters::Counter;

use crate::write_tx::WriteTx;

/// Begins a run unless one is open. The caller has just claimed an item of the saga.
pub(crate) fn begin_run_if_none(tx: &mut WriteTx<'_>, saga: &str, cid: &str, replays: u32) -> rusqlite::Result<()> {
    let mut open = tx.connection.prepare_cached(
        "INSERT INTO outbox_sagas (saga, cid, run, began_at) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT DO UPDATE SET run = run + 1, began_at = excluded.began_at, ended_at = NULL
         WHERE ended_at IS NOT NULL
         RETURNING run",
    )?;
    let run: Option<i64> = open.query_row(params![saga, cid, tx.now.get()], |row| row.get(0)).optional()?;
    let Some(run) = run else { return Ok(()) };
    tx.count(Counter::SagaBegin { saga }, 1);
    write_signal(tx, &begin_signal(saga), &begin_data(cid, run, replays > 0))
}

/// Writes one step signal, and the run's end if no item of it is unfinished. The caller has ended a claim and written
/// its row. `class` is `done` or the failure's class.
pub(crate) fn advance_run(
    tx: &mut WriteTx<'_>,
    attempted: &AttemptRecord,
    outcome: StepOutcome,
    class: &str,
) -> rusqlite::Result<()> {
    let Some(step) = attempted.saga_step() else { return Ok(()) };
    write_step_signal(tx, &step, outcome, class)?;
    if outcome == StepOutcome::Retried {
        return Ok(());
    }
    end_if_finished(tx, step.saga, step.cid)
}

/// Writes one step signal and counts it.
pub(crate) fn write_step_signal(
    tx: &mut WriteTx<'_>,
    step: &SagaStep<'_>,
    outcome: StepOutcome,
    class: &str,
) -> rusqlite::Result<()> {
    let SagaStep { saga, item_type, .. } = *step;
    tx.count(Counter::SagaStep { saga, item_type, outcome }, 1);
    write_signal(tx, &step_signal(saga, item_type), &step.signal_data(outcome, class))
}

/// Ends the run and writes its signal, if the run is open and no item of it is unfinished.
pub(crate) fn end_if_finished(tx: &mut WriteTx<'_>, saga: &str, cid: &str) -> rusqlite::Result<()> {
    if has_items_in(tx.connection, saga, cid, "'PENDING', 'CLAIMED'")? {
        return Ok(());
    }
    let mut close = tx
        .connection
        .prepare_cached("UPDATE outbox_sagas SET ended_at = ?3 WHERE saga = ?1 AND cid = ?2 AND ended_at IS NULL")?;
    if close.execute(params![saga, cid, tx.now.get()])? == 0 {
        return Ok(());
    }
    let outcome = SagaOutcome::of_run(has_items_in(tx.connection, saga, cid, "'DLQ'")?);
    tx.count(Counter::SagaEnd { saga, outcome }, 1);
    write_signal(tx, &end_signal(saga), &end_data(cid, outcome))
}

/// Whether the run has items of the statuses, a list of SQL strings without DONE.
pub(crate) fn has_items_in(tx: &Connection, saga: &str, cid: &str, statuses: &str) -> rusqlite::Result<bool> {
    tx.prepare_cached(&search(statuses))?.query_row([saga, cid], |row| row.get(0))
}

/// The statement repeats the conditions of the partial index `outbox_items_saga`, so that SQLite uses it: a million
/// DONE items may have the same correlation id.
fn search(statuses: &str) -> String {
    format!(
        "SELECT EXISTS (SELECT 1 FROM outbox_items
         WHERE saga = ?1 AND cid = ?2 AND saga IS NOT NULL AND status <> 'DONE' AND status IN ({statuses}))"
    )
}

fn write_signal(tx: &WriteTx<'_>, signal: &str, data: &serde_json::Value) -> rusqlite::Result<()> {
    let mut insert =
        tx.connection.prepare_cached("INSERT INTO outbox_signals (pod, signal, ts, data) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![tx.pod, signal, tx.now.get(), data.to_string()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn what_a_saga_has_left_to_do_is_found_without_a_look_at_what_is_done() {
        for statuses in ["'PENDING', 'CLAIMED'", "'DLQ'"] {
            let steps = plan(&search(statuses), ["s", "c"]);
            assert!(steps.iter().any(|line| line.contains("outbox_items_saga")), "{steps:?}");
        }
    }
}
