//! Saga signals and their totals, written in the transaction of the transition that causes them.
//!
//! A run of (saga, cid) is open from the first claim of one of its items until none of them is PENDING
//! or CLAIMED; begins and ends alternate, because both lock the run's row.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim_end::ClaimEnd;
use crate::error::PgError;
use crate::tx::{Query as _, WriteTx};
use outbox_core::saga::{SagaOutcome, StepOutcome, begin_data, begin_signal, end_data, end_signal, step_signal};
use outbox_item::Item;

/// Called when items are claimed: begins a run for each of their sagas unless one is open.
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
    for row in tx.rows(sql, &[&sagas, &cids, &tx.now]).await? {
        let (saga, cid): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let is_replay = runs.get(&(saga.as_str(), cid.as_str())).copied().unwrap_or_default();
        tx.count("saga_begin", &saga, "", "", 1);
        tx.signal(begin_signal(&saga), &begin_data(&cid, row.try_get(2)?, is_replay));
    }
    Ok(())
}

/// Called when claims have ended and their rows are written: a step signal for each, and the end of the
/// runs of which nothing is left to do.
pub(crate) async fn advance_runs(tx: &mut WriteTx<'_>, claim_ends: &[ClaimEnd]) -> Result<(), PgError> {
    let mut finishing = BTreeSet::new();
    for claim_end in claim_ends {
        let (Some(made), Some(outcome)) = (claim_end.attempted.saga_step(), claim_end.outcome()) else { continue };
        tx.count("saga_step", made.saga, made.item_type, outcome.as_str(), 1);
        tx.signal(step_signal(made.saga, made.item_type), &made.signal_data(outcome, claim_end.class()));
        if outcome != StepOutcome::Retried {
            finishing.insert((made.saga, made.cid));
        }
    }
    if finishing.is_empty() { Ok(()) } else { end_finished(tx, &finishing).await }
}

async fn end_finished(tx: &mut WriteTx<'_>, runs: &BTreeSet<(&str, &str)>) -> Result<(), PgError> {
    let (sagas, cids): (Vec<_>, Vec<_>) = runs.iter().copied().unzip();
    let lock = "SELECT 1 FROM outbox.sagas, unnest($1::text[], $2::text[]) AS new (name, correlation)
                WHERE saga = name AND cid = correlation ORDER BY saga, cid FOR UPDATE OF sagas";
    tx.rows(lock, &[&sagas, &cids]).await?;
    // A statement of its own, so that it sees what others did to the run's items while this one waited.
    let close = "UPDATE outbox.sagas AS run SET ended_at = $3
                 FROM unnest($1::text[], $2::text[]) AS new (name, correlation)
                 WHERE run.saga = name AND run.cid = correlation AND run.ended_at IS NULL
                   AND NOT EXISTS (SELECT 1 FROM outbox.items WHERE saga = name AND cid = correlation
                                   AND status IN ('PENDING', 'CLAIMED'))
                 RETURNING run.saga, run.cid,
                     EXISTS (SELECT 1 FROM outbox.items WHERE saga = name AND cid = correlation AND status = 'DLQ')";
    for row in tx.rows(close, &[&sagas, &cids, &tx.now]).await? {
        let (saga, cid): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let outcome = SagaOutcome::of_run(row.try_get(2)?);
        tx.count("saga_end", &saga, "", outcome.as_str(), 1);
        tx.signal(end_signal(&saga), &end_data(&cid, outcome));
    }
    Ok(())
}
