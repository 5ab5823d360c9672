//! Saga runs: their unfinished items, and the signals and totals of their transitions, written in the transaction that
//! causes them.
//!
//! A run of (saga, correlation id) is open from the first claim of one of its items until `outbox_saga_open` has none
//! of its items. Begins and ends alternate. The schema's triggers enter a new item in `outbox_saga_open`, and delete
//! the row of an ended run with its last item.

use rusqlite::{Connection, OptionalExtension, params};

use outbox_core::saga::{
    RunCause, SagaOutcome, StepOutcome, begin_data, begin_signal, end_data, end_signal, step_signal,
};
use outbox_item::{ItemId, Status};
use outbox_store::engine::attempt_record::{AttemptRecord, SagaStep};
use outbox_store::engine::counters::Counter;

use crate::write_tx::WriteTx;

/// Begins a run unless one is open. The caller has just claimed an item of the saga.
pub(crate) fn begin_run_if_none(tx: &mut WriteTx<'_>, saga: &str, cid: &str, replays: u32) -> rusqlite::Result<()> {
    let mut open = tx.connection.prepare_cached(
        "INSERT INTO outbox_sagas (saga, cid, run, began_at) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT DO UPDATE SET run = CAST(run + 1 AS INTEGER), began_at = excluded.began_at, ended_at = NULL
         WHERE ended_at IS NOT NULL
         RETURNING run",
    )?;
    let run: Option<i64> = open.query_row(params![saga, cid, tx.now.get()], |row| row.get(0)).optional()?;
    let Some(run) = run else { return Ok(()) };
    tx.count(Counter::SagaBegin { saga }, 1);
    write_signal(tx, &begin_signal(saga), &begin_data(cid, run, RunCause::of_replays(replays)))
}

/// Writes one step signal, and the run's end if no item of it is unfinished. The caller has ended a claim and moved
/// its item. `class` is `done` or the failure's class.
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
    if has_open_items(tx.connection, saga, cid)? {
        return Ok(());
    }
    let mut close = tx.connection.prepare_cached(
        "UPDATE outbox_sagas SET ended_at = ?3 WHERE saga = ?1 AND cid = ?2 AND ended_at IS NULL RETURNING dead > 0",
    )?;
    let has_dead = close.query_row(params![saga, cid, tx.now.get()], |row| row.get(0)).optional()?;
    let Some(has_dead) = has_dead else { return Ok(()) };
    let outcome = SagaOutcome::of_run(has_dead);
    tx.count(Counter::SagaEnd { saga, outcome }, 1);
    write_signal(tx, &end_signal(saga), &end_data(cid, outcome))
}

/// Whether an item of the run is PENDING or CLAIMED.
pub(crate) fn has_open_items(tx: &Connection, saga: &str, cid: &str) -> rusqlite::Result<bool> {
    tx.prepare_cached(OPEN_ITEMS)?.query_row([saga, cid], |row| row.get(0))
}

const OPEN_ITEMS: &str = "SELECT EXISTS (SELECT 1 FROM outbox_saga_open WHERE saga = ?1 AND cid = ?2)";

/// Notes that an item of the run has become `status`.
pub(crate) fn note_move(tx: &WriteTx<'_>, item: &SagaItem<'_>, status: Status) -> rusqlite::Result<()> {
    match status {
        Status::Pending | Status::Claimed => Ok(()),
        Status::Done => close_item(tx, item),
        Status::Dlq => close_item(tx, item).and_then(|()| add_dead(tx, item, 1)),
    }
}

/// Notes that an item of the run that was `status` is unfinished again.
pub(crate) fn note_reopened(tx: &WriteTx<'_>, item: &SagaItem<'_>, status: Status) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO outbox_saga_open (saga, cid, id) VALUES (?1, ?2, ?3)";
    tx.connection.prepare_cached(sql)?.execute(params![item.saga, item.cid, item.id.get()])?;
    if status == Status::Dlq { add_dead(tx, item, -1) } else { Ok(()) }
}

/// An item of a saga.
pub(crate) struct SagaItem<'a> {
    pub(crate) saga: &'a str,
    pub(crate) cid: &'a str,
    pub(crate) id: ItemId,
}

fn close_item(tx: &WriteTx<'_>, item: &SagaItem<'_>) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox_saga_open WHERE saga = ?1 AND cid = ?2 AND id = ?3";
    tx.connection.prepare_cached(sql)?.execute(params![item.saga, item.cid, item.id.get()]).map(|_| ())
}

/// Notes that an item is finished whose saga may not be as the caller read it.
pub(crate) fn close_by_id(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox_saga_open WHERE id = ?1";
    tx.connection.prepare_cached(sql)?.execute([id.get()]).map(|_| ())
}

/// Adds to the number of the run's dead items, on which the outcome at its end depends.
fn add_dead(tx: &WriteTx<'_>, item: &SagaItem<'_>, by: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE outbox_sagas SET dead = CAST(max(dead + ?3, 0) AS INTEGER) WHERE saga = ?1 AND cid = ?2";
    tx.connection.prepare_cached(sql)?.execute(params![item.saga, item.cid, by]).map(|_| ())
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
        let steps = plan(OPEN_ITEMS, ["s", "c"]);
        let is_probe = |line: &String| line.contains("SEARCH outbox_saga_open USING PRIMARY KEY (saga=? AND cid=?)");
        assert!(steps.iter().any(is_probe), "{steps:?}");
    }
}
