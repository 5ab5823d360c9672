//! The end of a claim: what it leaves on the row, in the history, the totals, the alerts and the signals.

use crate::error::PgError;
use crate::tx::{Query as _, WriteTx, without_nul};
use crate::{alerts, saga_signals};
use outbox_core::saga::StepOutcome;
use outbox_core::{Failure, OnDead, Settlement, fingerprint};
use outbox_item::{Item, Millis, Status, Transition};
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::millis;
use outbox_store::{SettleRequest, StoreError};

/// SQL for the number of the newest job: written on an item whenever its status changes.
pub(crate) const NEWEST_JOB_SQL: &str = "(SELECT coalesce(max(id), 0) FROM outbox.jobs)";

/// The end of one claim.
pub(crate) struct ClaimEnd {
    pub(crate) attempted: AttemptRecord,
    row: RowUpdate,
    /// Why, where it did not end DONE and there is a reason.
    pub(crate) failure: Option<Failure>,
    stderr: Option<String>,
    /// Whether the history gets a row.
    is_recorded: bool,
}

/// What the transition leaves on the row, apart from the claim, which is gone.
#[derive(Debug, PartialEq)]
struct RowUpdate {
    status: Status,
    available_at: Millis,
    attempts: u32,
    maybe_executed: bool,
    given_back_since: Option<Millis>,
    last_error: Option<String>,
    handler_digest: Option<String>,
    done_at: Option<Millis>,
    dead_at: Option<Millis>,
    result: Option<Vec<u8>>,
    blocks_key: bool,
    fingerprint: Option<String>,
}

impl RowUpdate {
    /// What a claimed item is after the transition, as far as that follows from the transition alone.
    fn for_transition(item: &Item, transition: Transition, maybe_executed: bool) -> Result<Self, StoreError> {
        let status = Status::Claimed.next(transition).map_err(|source| StoreError::Illegal { id: item.id, source })?;
        Ok(Self {
            status,
            available_at: item.available_at,
            attempts: item.attempts,
            maybe_executed: item.maybe_executed || maybe_executed,
            given_back_since: None,
            last_error: item.last_error.clone(),
            handler_digest: item.handler_digest.clone(),
            done_at: None,
            dead_at: None,
            result: None,
            blocks_key: false,
            fingerprint: None,
        })
    }
}

impl ClaimEnd {
    /// What a worker's settlement makes of the item.
    pub(crate) fn from_settlement(item: &Item, settled: &SettleRequest, now: Millis) -> Result<Self, StoreError> {
        let mut attempted = AttemptRecord::from_claim(item);
        attempted.maybe_executed = settled.maybe_executed;
        attempted.handler_digest.clone_from(&settled.handler_digest);
        attempted.exchanges.clone_from(&settled.exchanges);
        let row = match &settled.settlement {
            Settlement::Done { result, .. } => RowUpdate {
                done_at: Some(now),
                result: result.clone(),
                last_error: None,
                handler_digest: settled.handler_digest.clone(),
                ..RowUpdate::for_transition(item, Transition::Complete, false)?
            },
            Settlement::Retry { failure, delay } => RowUpdate {
                // A retry is always in the future.
                available_at: now.saturating_add(millis(*delay).max(1)),
                last_error: Some(failure.message.clone()),
                handler_digest: settled.handler_digest.clone(),
                ..RowUpdate::for_transition(item, Transition::Retry, settled.maybe_executed)?
            },
            Settlement::GiveBack { failure, delay } => RowUpdate {
                available_at: now.saturating_add(millis(*delay).max(1)),
                attempts: item.attempts.saturating_sub(1),
                given_back_since: item.given_back_since.or(Some(now)),
                last_error: Some(failure.message.clone()),
                handler_digest: settled.handler_digest.clone(),
                ..RowUpdate::for_transition(item, Transition::GiveBack, settled.maybe_executed)?
            },
            Settlement::Release => RowUpdate {
                available_at: now,
                attempts: item.attempts.saturating_sub(1),
                given_back_since: item.given_back_since,
                ..RowUpdate::for_transition(item, Transition::GiveBack, settled.maybe_executed)?
            },
            Settlement::Dead { failure, on_dead } => {
                let claim_end = Self::dead_lettered(item, attempted, *on_dead, failure.clone(), now)?;
                return Ok(Self { stderr: settled.stderr.clone(), is_recorded: true, ..claim_end });
            }
        };
        let failure = settled.settlement.failure().cloned();
        let is_recorded = failure.is_some();
        Ok(Self { attempted, row, failure, stderr: settled.stderr.clone(), is_recorded })
    }

    /// The item is dead-lettered; its history says why already.
    pub(crate) fn dead_lettered(
        item: &Item,
        attempted: AttemptRecord,
        on_dead: OnDead,
        failure: Failure,
        now: Millis,
    ) -> Result<Self, StoreError> {
        let digest = attempted.handler_digest.as_deref();
        let row = RowUpdate {
            dead_at: Some(now),
            last_error: Some(failure.message.clone()),
            handler_digest: attempted.handler_digest.clone().or_else(|| item.handler_digest.clone()),
            blocks_key: item.ordering_key.is_some() && on_dead == OnDead::Block,
            fingerprint: Some(fingerprint(&item.item_type, &failure, digest)),
            ..RowUpdate::for_transition(item, Transition::DeadLetter, attempted.maybe_executed)?
        };
        Ok(Self { attempted, row, failure: Some(failure), stderr: None, is_recorded: false })
    }

    /// The lease ended and nobody settled: PENDING at once, with a row in the history.
    pub(crate) fn lease_ended(item: &Item, failure: Failure, now: Millis) -> Result<Self, StoreError> {
        let attempted = AttemptRecord { maybe_executed: true, ..AttemptRecord::from_claim(item) };
        let row = RowUpdate {
            available_at: now,
            last_error: Some(failure.message.clone()),
            ..RowUpdate::for_transition(item, Transition::Expire, true)?
        };
        Ok(Self { attempted, row, failure: Some(failure), stderr: None, is_recorded: true })
    }

    /// With a row in the history.
    pub(crate) fn with_history(self) -> Self {
        Self { is_recorded: true, ..self }
    }

    /// What the saga's signal says; a release leaves no trace.
    pub(crate) fn outcome(&self) -> Option<StepOutcome> {
        match self.row.status {
            Status::Done => Some(StepOutcome::Ok),
            Status::Dlq => Some(StepOutcome::Dead),
            Status::Pending | Status::Claimed => self.failure.as_ref().map(|_| StepOutcome::Retried),
        }
    }

    /// `done`, or the failure's class.
    pub(crate) fn class(&self) -> &'static str {
        self.failure.as_ref().map_or("done", |failure| failure.class.as_str())
    }
}

/// Writes the ends of claims whose rows this transaction has locked, with all that belongs to them.
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
    saga_signals::advance_runs(tx, claim_ends).await
}

fn count_end(tx: &mut WriteTx<'_>, claim_end: &ClaimEnd) {
    let item_type = &claim_end.attempted.item_type;
    if claim_end.row.status == Status::Done {
        tx.count("done", "", item_type, "", 1);
    }
    if claim_end.row.status == Status::Done || claim_end.is_recorded {
        tx.count("attempt", "", item_type, claim_end.class(), 1);
    }
    tx.wakes_workers |= match claim_end.row.status {
        Status::Pending => true,
        _ => claim_end.attempted.ordering_key.is_some(),
    };
}

async fn write_rows(tx: &WriteTx<'_>, claim_ends: &[ClaimEnd]) -> Result<(), PgError> {
    let column = || claim_ends.iter().map(|claim_end| &claim_end.row);
    let ids: Vec<_> = claim_ends.iter().map(|claim_end| claim_end.attempted.id).collect();
    let statuses: Vec<_> = column().map(|row| row.status.as_str()).collect();
    let available: Vec<_> = column().map(|row| row.available_at).collect();
    let attempts: Vec<_> = column().map(|row| i64::from(row.attempts)).collect();
    let executed: Vec<_> = column().map(|row| row.maybe_executed).collect();
    let given_back: Vec<_> = column().map(|row| row.given_back_since).collect();
    let errors: Vec<_> = column().map(|row| row.last_error.as_deref().map(without_nul)).collect();
    let digests: Vec<_> = column().map(|row| row.handler_digest.as_deref()).collect();
    let done: Vec<_> = column().map(|row| row.done_at).collect();
    let dead: Vec<_> = column().map(|row| row.dead_at).collect();
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

/// One row for each attempt that did not end DONE.
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
    let ids: Vec<_> = column().map(|(attempted, ..)| attempted.id).collect();
    let deliveries: Vec<_> = column().map(|(attempted, ..)| i64::from(attempted.delivery)).collect();
    let attempts: Vec<_> = column().map(|(attempted, ..)| i64::from(attempted.attempt)).collect();
    let started: Vec<_> = column().map(|(attempted, ..)| attempted.started_at).collect();
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
        &tx.now,
    ];
    tx.rows(sql, &values).await.map(drop)
}
