//! The end of a claim: what it leaves on the row, in the history, the totals, the alerts and the signals.

use super::alert;
use super::fault::Fault;
use super::saga;
use super::step::{Sql as _, Step, storable};
use crate::item::{Event, Failure, Item, Millis, OnDead, Status, fingerprint};
use crate::saga::StepOutcome;
use crate::store::{Attempted, Settled, Settlement, StoreError, millis};

/// SQL for the number of the newest job: written on an item whenever its status changes.
pub(super) const EPOCH: &str = "(SELECT coalesce(max(id), 0) FROM outbox.jobs)";

/// The end of one claim.
pub(super) struct Ending {
    pub(super) attempted: Attempted,
    after: After,
    /// Why, where it did not end DONE and there is a reason.
    pub(super) failure: Option<Failure>,
    stderr: Option<String>,
    /// Whether the history gets a row.
    is_recorded: bool,
}

/// What the transition leaves on the row, apart from the claim, which is gone.
#[derive(Debug, PartialEq)]
struct After {
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

impl After {
    /// What a claimed item is after the event, as far as that follows from the event alone.
    fn of(item: &Item, event: Event, maybe_executed: bool) -> Result<Self, StoreError> {
        let status = Status::Claimed.next(event).map_err(|source| StoreError::Illegal { id: item.id, source })?;
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

impl Ending {
    /// What a worker's settlement makes of the item.
    pub(super) fn settled(item: &Item, settled: &Settled, now: Millis) -> Result<Self, StoreError> {
        let mut attempted = Attempted::of(item);
        attempted.maybe_executed = settled.maybe_executed;
        attempted.handler_digest.clone_from(&settled.handler_digest);
        attempted.exchanges.clone_from(&settled.exchanges);
        let after = match &settled.settlement {
            Settlement::Done { result, .. } => After {
                done_at: Some(now),
                result: result.clone(),
                last_error: None,
                handler_digest: settled.handler_digest.clone(),
                ..After::of(item, Event::Complete, false)?
            },
            Settlement::Retry { failure, delay } => After {
                // A retry is always in the future.
                available_at: now.saturating_add(millis(*delay).max(1)),
                last_error: Some(failure.message.clone()),
                handler_digest: settled.handler_digest.clone(),
                ..After::of(item, Event::Retry, settled.maybe_executed)?
            },
            Settlement::GiveBack { failure, delay } => After {
                available_at: now.saturating_add(millis(*delay).max(1)),
                attempts: item.attempts.saturating_sub(1),
                given_back_since: item.given_back_since.or(Some(now)),
                last_error: Some(failure.message.clone()),
                handler_digest: settled.handler_digest.clone(),
                ..After::of(item, Event::GiveBack, settled.maybe_executed)?
            },
            Settlement::Release => After {
                available_at: now,
                attempts: item.attempts.saturating_sub(1),
                given_back_since: item.given_back_since,
                ..After::of(item, Event::GiveBack, settled.maybe_executed)?
            },
            Settlement::Dead { failure, on_dead } => {
                let ending = Self::dead(item, attempted, *on_dead, failure.clone(), now)?;
                return Ok(Self { stderr: settled.stderr.clone(), is_recorded: true, ..ending });
            }
        };
        let failure = settled.settlement.failure().cloned();
        let is_recorded = failure.is_some();
        Ok(Self { attempted, after, failure, stderr: settled.stderr.clone(), is_recorded })
    }

    /// The item is dead-lettered; its history says why already.
    pub(super) fn dead(
        item: &Item,
        attempted: Attempted,
        on_dead: OnDead,
        failure: Failure,
        now: Millis,
    ) -> Result<Self, StoreError> {
        let digest = attempted.handler_digest.as_deref();
        let after = After {
            dead_at: Some(now),
            last_error: Some(failure.message.clone()),
            handler_digest: attempted.handler_digest.clone().or_else(|| item.handler_digest.clone()),
            blocks_key: item.ordering_key.is_some() && on_dead == OnDead::Block,
            fingerprint: Some(fingerprint(&item.item_type, &failure, digest)),
            ..After::of(item, Event::DeadLetter, attempted.maybe_executed)?
        };
        Ok(Self { attempted, after, failure: Some(failure), stderr: None, is_recorded: false })
    }

    /// The lease ended and nobody settled: PENDING at once, with a row in the history.
    pub(super) fn lost(item: &Item, failure: Failure, now: Millis) -> Result<Self, StoreError> {
        let attempted = Attempted { maybe_executed: true, ..Attempted::of(item) };
        let after = After {
            available_at: now,
            last_error: Some(failure.message.clone()),
            ..After::of(item, Event::Expire, true)?
        };
        Ok(Self { attempted, after, failure: Some(failure), stderr: None, is_recorded: true })
    }

    /// With a row in the history.
    pub(super) fn recorded(self) -> Self {
        Self { is_recorded: true, ..self }
    }

    /// What the saga's signal says; a release leaves no trace.
    pub(super) fn outcome(&self) -> Option<StepOutcome> {
        match self.after.status {
            Status::Done => Some(StepOutcome::Ok),
            Status::Dlq => Some(StepOutcome::Dead),
            Status::Pending | Status::Claimed => self.failure.as_ref().map(|_| StepOutcome::Retried),
        }
    }

    /// `done`, or the failure's class.
    pub(super) fn class(&self) -> &'static str {
        self.failure.as_ref().map_or("done", |failure| failure.class.as_str())
    }
}

/// Writes the ends of claims whose rows this transaction has locked, with all that belongs to them.
pub(super) async fn finish(step: &mut Step<'_>, endings: &[Ending]) -> Result<(), Fault> {
    if endings.is_empty() {
        return Ok(());
    }
    write_rows(step, endings).await?;
    write_history(step, endings).await?;
    for ending in endings {
        count(step, ending);
    }
    for ending in endings {
        if let (Status::Dlq, Some(failure)) = (ending.after.status, &ending.failure) {
            alert::dead(step, &ending.attempted, failure, ending.after.blocks_key).await?;
        }
    }
    saga::advance(step, endings).await
}

fn count(step: &mut Step<'_>, ending: &Ending) {
    let item_type = &ending.attempted.item_type;
    if ending.after.status == Status::Done {
        step.tally("done", "", item_type, "", 1);
    }
    if ending.after.status == Status::Done || ending.is_recorded {
        step.tally("attempt", "", item_type, ending.class(), 1);
    }
    step.makes_work |= match ending.after.status {
        Status::Pending => true,
        _ => ending.attempted.ordering_key.is_some(),
    };
}

async fn write_rows(step: &Step<'_>, endings: &[Ending]) -> Result<(), Fault> {
    let column = || endings.iter().map(|ending| &ending.after);
    let ids: Vec<_> = endings.iter().map(|ending| ending.attempted.id).collect();
    let statuses: Vec<_> = column().map(|after| after.status.as_str()).collect();
    let available: Vec<_> = column().map(|after| after.available_at).collect();
    let attempts: Vec<_> = column().map(|after| i64::from(after.attempts)).collect();
    let executed: Vec<_> = column().map(|after| after.maybe_executed).collect();
    let given_back: Vec<_> = column().map(|after| after.given_back_since).collect();
    let errors: Vec<_> = column().map(|after| after.last_error.as_deref().map(storable)).collect();
    let digests: Vec<_> = column().map(|after| after.handler_digest.as_deref()).collect();
    let done: Vec<_> = column().map(|after| after.done_at).collect();
    let dead: Vec<_> = column().map(|after| after.dead_at).collect();
    let results: Vec<_> = column().map(|after| after.result.as_deref()).collect();
    let blocks: Vec<_> = column().map(|after| after.blocks_key).collect();
    let groups: Vec<_> = column().map(|after| after.fingerprint.as_deref()).collect();
    let sql = format!(
        "UPDATE outbox.items
         SET status = new.to_status, epoch = {EPOCH}, available_at = new.available, attempts = new.made,
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
    step.rows(&sql, &values).await.map(drop)
}

/// One row for each attempt that did not end DONE.
async fn write_history(step: &Step<'_>, endings: &[Ending]) -> Result<(), Fault> {
    let recorded: Vec<_> = endings
        .iter()
        .filter(|ending| ending.is_recorded)
        .filter_map(|ending| Some((&ending.attempted, ending.failure.as_ref()?, ending.stderr.as_deref())))
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
    let codes: Vec<_> = column().map(|(_, failure, _)| storable(&failure.code)).collect();
    let messages: Vec<_> = column().map(|(_, failure, _)| storable(&failure.message)).collect();
    let outputs: Vec<_> = column().map(|(.., stderr)| stderr.map(storable)).collect();
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
        &step.now,
    ];
    step.rows(sql, &values).await.map(drop)
}
