//! Saga signals and their totals, written in the transaction of the transition that causes them.
//!
//! A run of (saga, cid) is open from the first claim of one of its items until none of them is PENDING
//! or CLAIMED; begins and ends alternate.

use rusqlite::{Connection, OptionalExtension, params};

use super::step::Step;
use crate::saga::{StepOutcome, begin_data, begin_signal, end_data, end_outcome, end_signal, step_signal};
use crate::store::{Attempted, SagaStep};

/// Called when an item of the saga is claimed: begins a run unless one is open.
pub(super) fn join(step: &mut Step<'_>, saga: &str, cid: &str, replays: u32) -> rusqlite::Result<()> {
    let mut open = step.tx.prepare_cached(
        "INSERT INTO outbox_sagas (saga, cid, run, began_at) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT DO UPDATE SET run = run + 1, began_at = excluded.began_at, ended_at = NULL
         WHERE ended_at IS NOT NULL
         RETURNING run",
    )?;
    let run: Option<i64> = open.query_row(params![saga, cid, step.now], |row| row.get(0)).optional()?;
    let Some(run) = run else { return Ok(()) };
    step.tally("saga_begin", saga, "", "", 1);
    emit(step, &begin_signal(saga), &begin_data(cid, run, replays > 0))
}

/// Called when an attempt has been settled and its item updated: one step signal, and the run's end if
/// nothing of it is left to do. `class` is `done` or the failure's class.
pub(super) fn step(
    step: &mut Step<'_>,
    attempted: &Attempted,
    outcome: StepOutcome,
    class: &str,
) -> rusqlite::Result<()> {
    let Some(made) = attempted.saga_step() else { return Ok(()) };
    tell_step(step, &made, outcome, class)?;
    if outcome == StepOutcome::Retried {
        return Ok(());
    }
    end_if_finished(step, made.saga, made.cid)
}

/// One step signal and its total.
pub(super) fn tell_step(
    step: &mut Step<'_>,
    made: &SagaStep<'_>,
    outcome: StepOutcome,
    class: &str,
) -> rusqlite::Result<()> {
    step.tally("saga_step", made.saga, made.item_type, outcome.as_str(), 1);
    emit(step, &step_signal(made.saga, made.item_type), &made.signal_data(outcome, class))
}

/// The run's end, if nothing of it is left to do and it has not been told.
pub(super) fn end_if_finished(step: &mut Step<'_>, saga: &str, cid: &str) -> rusqlite::Result<()> {
    if has(step.tx, saga, cid, "'PENDING', 'CLAIMED'")? {
        return Ok(());
    }
    let mut close = step
        .tx
        .prepare_cached("UPDATE outbox_sagas SET ended_at = ?3 WHERE saga = ?1 AND cid = ?2 AND ended_at IS NULL")?;
    if close.execute(params![saga, cid, step.now])? == 0 {
        return Ok(());
    }
    let outcome = end_outcome(has(step.tx, saga, cid, "'DLQ'")?);
    step.tally("saga_end", saga, "", outcome, 1);
    emit(step, &end_signal(saga), &end_data(cid, outcome))
}

/// Whether the saga has items of the statuses, of which DONE is none.
pub(super) fn has(tx: &Connection, saga: &str, cid: &str, statuses: &str) -> rusqlite::Result<bool> {
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

fn emit(step: &Step<'_>, signal: &str, data: &serde_json::Value) -> rusqlite::Result<()> {
    let mut insert =
        step.tx.prepare_cached("INSERT INTO outbox_signals (pod, signal, ts, data) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![step.pod, signal, step.now, data.to_string()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::migrate::plan;

    #[test]
    fn what_a_saga_has_left_to_do_is_found_without_a_look_at_what_is_done() {
        for statuses in ["'PENDING', 'CLAIMED'", "'DLQ'"] {
            let steps = plan(&search(statuses), ["s", "c"]);
            assert!(steps.iter().any(|step| step.contains("outbox_items_saga")), "{steps:?}");
        }
    }
}
