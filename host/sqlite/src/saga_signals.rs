//! Saga signals and their totals, written in the transaction of the transition that causes them.
//!
//! A run of (saga, cid) is open from the first claim of one of its items until none of them is PENDING
//! or CLAIMED; begins and ends alternate.

use rusqlite::{Connection, OptionalExtension, params};

use crate::write_tx::WriteTx;
use outbox_core::saga::{SagaOutcome, StepOutcome, begin_data, begin_signal, end_data, end_signal, step_signal};
use outbox_store::engine::attempt_record::{AttemptRecord, SagaStep};

/// Called when an item of the saga is claimed: begins a run unless one is open.
pub(crate) fn begin_run_if_none(tx: &mut WriteTx<'_>, saga: &str, cid: &str, replays: u32) -> rusqlite::Result<()> {
    let mut open = tx.connection.prepare_cached(
        "INSERT INTO outbox_sagas (saga, cid, run, began_at) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT DO UPDATE SET run = run + 1, began_at = excluded.began_at, ended_at = NULL
         WHERE ended_at IS NOT NULL
         RETURNING run",
    )?;
    let run: Option<i64> = open.query_row(params![saga, cid, tx.now], |row| row.get(0)).optional()?;
    let Some(run) = run else { return Ok(()) };
    tx.count("saga_begin", saga, "", "", 1);
    write_signal(tx, &begin_signal(saga), &begin_data(cid, run, replays > 0))
}

/// Called when an attempt has been settled and its item updated: one step signal, and the run's end if
/// nothing of it is left to do. `class` is `done` or the failure's class.
pub(crate) fn advance_run(
    tx: &mut WriteTx<'_>,
    attempted: &AttemptRecord,
    outcome: StepOutcome,
    class: &str,
) -> rusqlite::Result<()> {
    let Some(made) = attempted.saga_step() else { return Ok(()) };
    write_step_signal(tx, &made, outcome, class)?;
    if outcome == StepOutcome::Retried {
        return Ok(());
    }
    end_if_finished(tx, made.saga, made.cid)
}

/// One step signal and its total.
pub(crate) fn write_step_signal(
    tx: &mut WriteTx<'_>,
    made: &SagaStep<'_>,
    outcome: StepOutcome,
    class: &str,
) -> rusqlite::Result<()> {
    tx.count("saga_step", made.saga, made.item_type, outcome.as_str(), 1);
    write_signal(tx, &step_signal(made.saga, made.item_type), &made.signal_data(outcome, class))
}

/// The run's end, if nothing of it is left to do and it has not been signalled.
pub(crate) fn end_if_finished(tx: &mut WriteTx<'_>, saga: &str, cid: &str) -> rusqlite::Result<()> {
    if has_items_in(tx.connection, saga, cid, "'PENDING', 'CLAIMED'")? {
        return Ok(());
    }
    let mut close = tx
        .connection
        .prepare_cached("UPDATE outbox_sagas SET ended_at = ?3 WHERE saga = ?1 AND cid = ?2 AND ended_at IS NULL")?;
    if close.execute(params![saga, cid, tx.now])? == 0 {
        return Ok(());
    }
    let outcome = SagaOutcome::of_run(has_items_in(tx.connection, saga, cid, "'DLQ'")?);
    tx.count("saga_end", saga, "", outcome.as_str(), 1);
    write_signal(tx, &end_signal(saga), &end_data(cid, outcome))
}

/// Whether the saga has items of the statuses, of which DONE is none.
pub(crate) fn has_items_in(tx: &Connection, saga: &str, cid: &str, statuses: &str) -> rusqlite::Result<bool> {
    tx.prepare_cached(&search(statuses))?.query_row([saga, cid], |row| row.get(0))
}

/// Repeats the conditions of the index of sagas, without which it is not used: a million items that are DONE may
/// have the correlation id.
fn search(statuses: &str) -> String {
    format!(
        "SELECT EXISTS (SELECT 1 FROM outbox_items
         WHERE saga = ?1 AND cid = ?2 AND saga IS NOT NULL AND status <> 'DONE' AND status IN ({statuses}))"
    )
}

fn write_signal(tx: &WriteTx<'_>, signal: &str, data: &serde_json::Value) -> rusqlite::Result<()> {
    let mut insert =
        tx.connection.prepare_cached("INSERT INTO outbox_signals (pod, signal, ts, data) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![tx.pod, signal, tx.now, data.to_string()])?;
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
