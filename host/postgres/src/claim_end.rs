//! The end of a claim: what it changes in the item's row, the history, the totals, the alerts and the signals.
//!
//! It does not lock the items and does not decide about retries: its callers do.

use outbox_core::saga::StepOutcome;
use outbox_core::{AttemptTrace, Failure, OnDead, RowChange};
use outbox_item::{Item, Millis, Status};
use outbox_store::SettleRequest;
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::engine::counters::Counter;

use crate::alerts;
use crate::error::PgError;
use crate::saga_signals::{self, SagaStepEnd};
use crate::tx::{NEWEST_JOB_SQL, Query as _, WriteTx, without_nul};

/// The end of one claim.
pub(crate) struct ClaimEnd {
    attempted: AttemptRecord,
    row: RowChange,
    /// Why the claim did not end DONE, if there is a reason.
    failure: Option<Failure>,
    stderr: Option<String>,
    /// Whether the attempt gets a row in the history.
    is_recorded: bool,
}

impl ClaimEnd {
    /// The end that a worker's settlement asks for.
    pub(crate) fn from_settlement(claim: &ClaimedItem<'_>, settled: &SettleRequest, now: Millis) -> Self {
        let mut attempted = AttemptRecord::from_claim(claim);
        attempted.maybe_executed = settled.maybe_executed;
        attempted.handler_digest.clone_from(&settled.handler_digest);
        attempted.exchanges.clone_from(&settled.exchanges);
        let row = RowChange::settled(claim.item, &settled.settlement, trace(&attempted), now);
        let failure = settled.settlement.failure().cloned();
        let is_recorded = failure.is_some();
        Self { attempted, row, failure, stderr: settled.stderr.clone(), is_recorded }
    }

    /// The item is dead-lettered, without a history row; see [`Self::with_history`].
    pub(crate) fn dead_lettered(
        item: &Item,
        attempted: AttemptRecord,
        on_dead: OnDead,
        failure: Failure,
        now: Millis,
    ) -> Self {
        let row = RowChange::dead_lettered(item, &failure, on_dead, trace(&attempted), now);
        Self { attempted, row, failure: Some(failure), stderr: None, is_recorded: false }
    }

    /// The claim ended without a settlement: PENDING at once, with `failure` in the history.
    pub(crate) fn lease_ended(claim: &ClaimedItem<'_>, failure: Failure, now: Millis) -> Self {
        let attempted = AttemptRecord { maybe_executed: true, ..AttemptRecord::from_claim(claim) };
        let row = RowChange::expired(claim.item, &failure, now);
        Self { attempted, row, failure: Some(failure), stderr: None, is_recorded: true }
    }

    /// The same end, with a row in the history.
    pub(crate) fn with_history(self) -> Self {
        Self { is_recorded: true, ..self }
    }

    /// The step of the item's saga that ended. `None` without a saga, and for a release, which leaves no trace.
    fn saga_step_end(&self) -> Option<SagaStepEnd<'_>> {
        let outcome = match self.row.status {
            Status::Done => StepOutcome::Ok,
            Status::Dlq => StepOutcome::Dead,
            Status::Pending | Status::Claimed => self.failure.as_ref().map(|_| StepOutcome::Retried)?,
        };
        Some(SagaStepEnd { step: self.attempted.saga_step()?, outcome, class: self.class() })
    }

    /// `done`, or the failure's class.
    fn class(&self) -> &'static str {
        self.failure.as_ref().map_or("done", |failure| failure.class.as_str())
    }
}

/// What the attempt leaves on the row.
fn trace(attempted: &AttemptRecord) -> AttemptTrace<'_> {
    AttemptTrace { maybe_executed: attempted.maybe_executed, handler_digest: attempted.handler_digest.as_deref() }
}

/// Writes the ends of claims whose rows this transaction has locked: rows, history, totals, alerts and signals.
pub(crate) async fn write_claim_ends(tx: &mut WriteTx<'_>, claim_ends: &[ClaimEnd]) -> Result<(), PgError> {
    if claim_ends.is_empty() {
        return Ok(());
    }
    write_rows(tx, claim_ends).await?;
    write_history(tx, claim_ends).await?;
    for claim_end in claim_ends {
        count_end(tx, claim_end);
    }
    for claim_end in claim_ends {
        if let (Status::Dlq, Some(failure)) = (claim_end.row.status, &claim_end.failure) {
            alerts::dead_lettered(tx, &claim_end.attempted, failure, claim_end.row.blocks_key).await?;
        }
    }
    let step_ends: Vec<_> = claim_ends.iter().filter_map(ClaimEnd::saga_step_end).collect();
    saga_signals::advance_runs(tx, &step_ends).await
}

fn count_end(tx: &mut WriteTx<'_>, claim_end: &ClaimEnd) {
    let item_type = &claim_end.attempted.item_type;
    if claim_end.row.status == Status::Done {
        tx.count(Counter::Done { item_type }, 1);
    }
    if claim_end.row.status == Status::Done || claim_end.is_recorded {
        tx.count(Counter::Attempt { item_type, outcome: claim_end.class() }, 1);
    }
    tx.wakes_workers |= match claim_end.row.status {
        Status::Pending => true,
        _ => claim_end.attempted.ordering_key.is_some(),
    };
}

async fn write_rows(tx: &WriteTx<'_>, claim_ends: &[ClaimEnd]) -> Result<(), PgError> {
    let column = || claim_ends.iter().map(|claim_end| &claim_end.row);
    let ids: Vec<_> = claim_ends.iter().map(|claim_end| claim_end.attempted.id.get()).collect();
    let statuses: Vec<_> = column().map(|row| row.status.as_str()).collect();
    let available: Vec<_> = column().map(|row| row.available_at.get()).collect();
    let attempts: Vec<_> = column().map(|row| i64::from(row.attempts)).collect();
    let executed: Vec<_> = column().map(|row| row.maybe_executed).collect();
    let given_back: Vec<_> = column().map(|row| row.given_back_since.map(Millis::get)).collect();
    let errors: Vec<_> = column().map(|row| row.last_error.as_deref().map(without_nul)).collect();
    let digests: Vec<_> = column().map(|row| row.handler_digest.as_deref()).collect();
    let done: Vec<_> = column().map(|row| row.done_at.map(Millis::get)).collect();
    let dead: Vec<_> = column().map(|row| row.dead_at.map(Millis::get)).collect();
    let results: Vec<_> = column().map(|row| row.result.as_deref()).collect();
    let blocks: Vec<_> = column().map(|row| row.blocks_key).collect();
    let groups: Vec<_> = column().map(|row| row.fingerprint.as_deref()).collect();
    let sql = format!(
        "UPDATE outbox.items
         SET status = new.to_status, epoch = {NEWEST_JOB_SQL}, available_at = new.available, attempts = new.made,
             maybe_executed = new.executed, given_back_since = new.given_back, last_error = new.error,
             handler_digest = new.digest, done_at = new.done, dead_at = new.dead, result = new.answer,
             blocks_key = new.blocks, fingerprint = new.alike,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::boolean[], $6::bigint[], $7::text[],
                     $8::text[], $9::bigint[], $10::bigint[], $11::bytea[], $12::boolean[], $13::text[])
              AS new (item, to_status, available, made, executed, given_back, error, digest, done, dead, answer,
                      blocks, alike)
         WHERE id = new.item AND status IN ('PENDING', 'CLAIMED')"
    );
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 13] = [
        &ids,
        &statuses,
        &available,
        &attempts,
        &executed,
        &given_back,
        &errors,
        &digests,
        &done,
        &dead,
        &results,
        &blocks,
        &groups,
    ];
    tx.rows(&sql, &values).await.map(drop)
}

/// Writes one history row for each recorded attempt.
async fn write_history(tx: &WriteTx<'_>, claim_ends: &[ClaimEnd]) -> Result<(), PgError> {
    let recorded: Vec<_> = claim_ends
        .iter()
        .filter(|claim_end| claim_end.is_recorded)
        .filter_map(|claim_end| Some((&claim_end.attempted, claim_end.failure.as_ref()?, claim_end.stderr.as_deref())))
        .collect();
    if recorded.is_empty() {
        return Ok(());
    }
    let column = || recorded.iter();
    let ids: Vec<_> = column().map(|(attempted, ..)| attempted.id.get()).collect();
    let deliveries: Vec<_> = column().map(|(attempted, ..)| i64::from(attempted.delivery)).collect();
    let attempts: Vec<_> = column().map(|(attempted, ..)| i64::from(attempted.attempt)).collect();
    let started: Vec<_> = column().map(|(attempted, ..)| attempted.started_at.get()).collect();
    let pods: Vec<_> = column().map(|(attempted, ..)| attempted.pod.as_str()).collect();
    let classes: Vec<_> = column().map(|(_, failure, _)| failure.class.as_str()).collect();
    let codes: Vec<_> = column().map(|(_, failure, _)| without_nul(&failure.code)).collect();
    let messages: Vec<_> = column().map(|(_, failure, _)| without_nul(&failure.message)).collect();
    let outputs: Vec<_> = column().map(|(.., stderr)| stderr.map(without_nul)).collect();
    let digests: Vec<_> = column().map(|(attempted, ..)| attempted.handler_digest.as_deref()).collect();
    let executed: Vec<_> = column().map(|(attempted, ..)| attempted.maybe_executed).collect();
    let exchanges: Vec<_> = column().map(|(attempted, ..)| attempted.exchanges.as_deref()).collect();
    let sql = "INSERT INTO outbox.attempts (item_id, delivery, attempt, started_at, pod, class, code, message, stderr,
                                            handler_digest, maybe_executed, exchanges, ended_at)
               SELECT new.*, $13::bigint
               FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
                           $8::text[], $9::text[], $10::text[], $11::boolean[],
                           $12::bytea[]) AS new";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 13] = [
        &ids,
        &deliveries,
        &attempts,
        &started,
        &pods,
        &classes,
        &codes,
        &messages,
        &outputs,
        &digests,
        &executed,
        &exchanges,
        &tx.now.get(),
    ];
    tx.rows(sql, &values).await.map(drop)
}
