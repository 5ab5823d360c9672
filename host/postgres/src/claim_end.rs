//! The end of a claim: where the item goes, the history, the totals, the alerts and the signals.
//!
//! It does not lock the items and does not decide about retries: its callers do.

use outbox_core::saga::StepOutcome;
use outbox_core::{AttemptTrace, ClaimedPast, Destination, Failure, ItemMove, OnDead, Past, Settlement};
use outbox_item::{ItemId, Millis, Status};
use outbox_store::SettleRequest;
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::counters::Counter;

use crate::alerts::{self, DeadItem};
use crate::error::PgError;
use crate::leases::{LeasedId, LeasedItem, items_behind};
use crate::places::{OldPlace, PlaceChange, change_places};
use crate::saga_signals::{self, SagaStepEnd};
use crate::tx::{Query as _, Values, WriteTx, without_nul};

/// A claim that ends: the claim of a worker, or one that an operator makes only to end it.
pub(crate) struct EndingClaim {
    /// The attempt, with what is known of its effects and its component.
    pub(crate) attempt: AttemptRecord,
    /// The item's past, the claim counted.
    pub(crate) past: Past,
    /// The item's place in the line of its ordering key.
    pub(crate) turn: Option<i64>,
    /// Where the item is: in a lease, or still in the queue.
    pub(crate) from: OldPlace,
}

impl From<LeasedItem> for EndingClaim {
    fn from(LeasedItem { token, turn, attempt, past, .. }: LeasedItem) -> Self {
        Self { attempt, past, turn, from: OldPlace::Lease(token) }
    }
}

impl EndingClaim {
    fn claimed_past(&self) -> ClaimedPast<'_> {
        let AttemptRecord { item_type, ordering_key, .. } = &self.attempt;
        ClaimedPast { item_type, is_ordered: ordering_key.is_some(), past: &self.past }
    }

    fn trace(&self) -> AttemptTrace<'_> {
        let AttemptRecord { maybe_executed, handler_digest, .. } = &self.attempt;
        AttemptTrace { maybe_executed: *maybe_executed, handler_digest: handler_digest.as_deref() }
    }
}

/// The end of one claim.
pub(crate) struct ClaimEnd {
    claim: EndingClaim,
    moved: ItemMove,
    /// Why the claim did not end DONE, if there is a reason.
    failure: Option<Failure>,
    stderr: Option<String>,
    /// Whether the attempt gets a row in the history.
    is_recorded: bool,
    /// Whether the worker gave the item back once more, after at least one time in the same life of the item.
    is_given_back_again: bool,
}

impl ClaimEnd {
    /// The end that a worker's settlement asks for.
    pub(crate) fn from_settlement(mut claim: EndingClaim, settled: &SettleRequest, now: Millis) -> Self {
        claim.attempt.maybe_executed = settled.maybe_executed;
        claim.attempt.handler_digest.clone_from(&settled.handler_digest);
        claim.attempt.exchanges.clone_from(&settled.exchanges);
        let moved = ItemMove::settled(claim.claimed_past(), &settled.settlement, claim.trace(), now);
        let failure = settled.settlement.failure().cloned();
        let is_recorded = failure.is_some();
        let is_given_back_again =
            matches!(settled.settlement, Settlement::GiveBack { .. }) && claim.past.give_backs > 0;
        Self { claim, moved, failure, stderr: settled.stderr.clone(), is_recorded, is_given_back_again }
    }

    /// The item is dead-lettered, without a history row; see [`Self::with_history`].
    pub(crate) fn dead_lettered(claim: EndingClaim, on_dead: OnDead, failure: Failure) -> Self {
        let moved = ItemMove::dead_lettered(claim.claimed_past(), &failure, on_dead, claim.trace());
        Self { claim, moved, failure: Some(failure), stderr: None, is_recorded: false, is_given_back_again: false }
    }

    /// The claim ended before its attempt began: PENDING at once, without a trace.
    pub(crate) fn released(claim: EndingClaim, now: Millis) -> Self {
        let moved = ItemMove::settled(claim.claimed_past(), &Settlement::Release, claim.trace(), now);
        Self { claim, moved, failure: None, stderr: None, is_recorded: false, is_given_back_again: false }
    }

    /// The lease ended without a settlement: PENDING at once, with `failure` in the history.
    pub(crate) fn lease_ended(claim: EndingClaim, failure: Failure, now: Millis) -> Self {
        Self::unsettled(claim, failure, |claimed, failure| ItemMove::expired(claimed, failure, now))
    }

    /// An operator ended the claim: PENDING at once, with `failure` in the history.
    pub(crate) fn ended_by_operator(claim: EndingClaim, failure: Failure, now: Millis) -> Self {
        Self::unsettled(claim, failure, |claimed, failure| ItemMove::ended_by_operator(claimed, failure, now))
    }

    fn unsettled(
        mut claim: EndingClaim,
        failure: Failure,
        decide: impl FnOnce(ClaimedPast<'_>, &Failure) -> ItemMove,
    ) -> Self {
        claim.attempt.maybe_executed = true;
        let moved = decide(claim.claimed_past(), &failure);
        Self { claim, moved, failure: Some(failure), stderr: None, is_recorded: true, is_given_back_again: false }
    }

    /// The same end, with a row in the history.
    pub(crate) fn with_history(self) -> Self {
        Self { is_recorded: true, ..self }
    }

    /// Whether writing this end locks the row of a saga, or that of an alert.
    pub(crate) fn takes_late_locks(&self) -> bool {
        self.claim.attempt.saga.is_some() || self.moved.status() == Status::Dlq
    }

    fn place_change(&self, now: Millis) -> PlaceChange<'_> {
        let AttemptRecord { id, item_type, ordering_key, saga, cid, .. } = &self.claim.attempt;
        PlaceChange {
            id: *id,
            item_type,
            ordering_key: ordering_key.as_deref(),
            saga: saga.as_deref(),
            cid,
            turn: self.claim.turn,
            from: self.claim.from,
            moved: &self.moved,
            at: now,
        }
    }

    /// The item in its lease, if it has an ordering key and does not become DONE.
    fn ends_streak(&self) -> Option<LeasedId> {
        let OldPlace::Lease(token) = self.claim.from else { return None };
        let is_kept = self.claim.turn.is_none() || self.moved.status() == Status::Done;
        (!is_kept).then_some((token, self.claim.attempt.id))
    }

    /// The row of the attempt in the history, if it gets one.
    fn history_row(&self) -> Option<HistoryRow<'_>> {
        let failure = self.failure.as_ref().filter(|_| self.is_recorded)?;
        let is_given_back_again = self.is_given_back_again;
        Some(HistoryRow { attempt: &self.claim.attempt, failure, stderr: self.stderr.as_deref(), is_given_back_again })
    }

    /// The step of the item's saga that ended. `None` without a saga, and for a release, which leaves no trace.
    fn saga_step_end(&self) -> Option<SagaStepEnd<'_>> {
        let outcome = match self.moved.status() {
            Status::Done => StepOutcome::Ok,
            Status::Dlq => StepOutcome::Dead,
            Status::Pending | Status::Claimed => self.failure.as_ref().map(|_| StepOutcome::Retried)?,
        };
        Some(SagaStepEnd { step: self.claim.attempt.saga_step()?, outcome, class: self.class() })
    }

    fn dead_item(&self) -> Option<DeadItem<'_>> {
        let (Destination::Dead { blocks_key, .. }, Some(failure)) = (&self.moved.to, &self.failure) else {
            return None;
        };
        let attempt = &self.claim.attempt;
        Some(DeadItem { attempt, failure, blocked_key: attempt.ordering_key.as_deref().filter(|_| *blocks_key) })
    }

    /// `done`, or the failure's class.
    fn class(&self) -> &'static str {
        self.failure.as_ref().map_or("done", |failure| failure.class.as_str())
    }
}

/// Ends claims on items of which this transaction has locked the lease or the row in the queue, under the locks of the
/// lines of their ordering keys: places, history, totals, signals and alerts. An end that is not DONE ends the streak of
/// the item: what follows it is given back, uncounted. Returns that.
pub(crate) async fn write_claim_ends(tx: &mut WriteTx<'_>, claim_ends: &[ClaimEnd]) -> Result<Vec<ItemId>, PgError> {
    if claim_ends.is_empty() {
        return Ok(Vec::new());
    }
    let behind = items_behind(tx, &claim_ends.iter().filter_map(ClaimEnd::ends_streak).collect::<Vec<_>>()).await?;
    let given_back: Vec<_> = behind.into_iter().map(|leased| ClaimEnd::released(leased.into(), tx.now)).collect();
    write_ends(tx, &claim_ends.iter().chain(&given_back).collect::<Vec<_>>()).await?;
    Ok(given_back.iter().map(|claim_end| claim_end.claim.attempt.id).collect())
}

async fn write_ends(tx: &mut WriteTx<'_>, claim_ends: &[&ClaimEnd]) -> Result<(), PgError> {
    let changes: Vec<_> = claim_ends.iter().map(|claim_end| claim_end.place_change(tx.now)).collect();
    change_places(tx, &changes).await?;
    write_history(tx, &claim_ends.iter().filter_map(|claim_end| claim_end.history_row()).collect::<Vec<_>>()).await?;
    for claim_end in claim_ends {
        count_end(tx, claim_end);
    }
    let step_ends: Vec<_> = claim_ends.iter().filter_map(|claim_end| claim_end.saga_step_end()).collect();
    saga_signals::advance_runs(tx, &step_ends).await?;
    alerts::dead_lettered(tx, &claim_ends.iter().filter_map(|claim_end| claim_end.dead_item()).collect::<Vec<_>>())
        .await
}

fn count_end(tx: &mut WriteTx<'_>, claim_end: &ClaimEnd) {
    let attempt = &claim_end.claim.attempt;
    let (item_type, status) = (&attempt.item_type, claim_end.moved.status());
    if status == Status::Done {
        tx.count(Counter::Done { item_type }, 1);
    }
    if status == Status::Done || claim_end.is_recorded {
        tx.count(Counter::Attempt { item_type, outcome: claim_end.class() }, 1);
    }
    tx.wakes_workers |= match status {
        Status::Pending => true,
        _ => attempt.ordering_key.is_some(),
    };
}

/// A row that is there already is replaced: a change from outside can leave one, and an item whose deliveries are at
/// the largest number has one. It must not keep the claim from ending.
///
/// An attempt that is given back once more takes the place of the one before it, if that failed alike: the row then tells
/// of all of them, from the begin of the first.
const INSERT_HISTORY: &str = "\
    WITH new AS (
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
                             $8::text[], $9::text[], $10::text[], $11::boolean[], $12::bytea[], $14::boolean[])
            AS new (item_id, delivery, attempt, started_at, pod, class, code, message, stderr, handler_digest,
                    maybe_executed, exchanges, is_given_back_again)
    ), equal AS (
        DELETE FROM outbox.attempts AS known USING new
        WHERE new.is_given_back_again AND known.item_id = new.item_id AND known.delivery < new.delivery
          AND known.delivery = (SELECT max(last.delivery) FROM outbox.attempts AS last
                                WHERE last.item_id = new.item_id)
          AND known.attempt = new.attempt AND known.class = new.class AND known.code = new.code
          AND known.message = new.message
        RETURNING known.item_id, known.started_at, known.maybe_executed
    )
    INSERT INTO outbox.attempts (item_id, delivery, attempt, started_at, pod, class, code, message, stderr,
                                 handler_digest, maybe_executed, exchanges, ended_at)
    SELECT new.item_id, new.delivery, new.attempt, coalesce(equal.started_at, new.started_at), new.pod, new.class,
           new.code, new.message, new.stderr, new.handler_digest,
           new.maybe_executed OR coalesce(equal.maybe_executed, false), new.exchanges, $13::bigint
    FROM new LEFT JOIN equal USING (item_id)
    ON CONFLICT (item_id, delivery) DO UPDATE
    SET attempt = excluded.attempt, started_at = excluded.started_at, ended_at = excluded.ended_at, pod = excluded.pod,
        class = excluded.class, code = excluded.code, message = excluded.message, stderr = excluded.stderr,
        handler_digest = excluded.handler_digest, maybe_executed = excluded.maybe_executed,
        exchanges = excluded.exchanges";

/// A row of the history: an attempt that did not end DONE.
struct HistoryRow<'a> {
    attempt: &'a AttemptRecord,
    failure: &'a Failure,
    stderr: Option<&'a str>,
    /// See [`ClaimEnd`].
    is_given_back_again: bool,
}

async fn write_history(tx: &WriteTx<'_>, rows: &[HistoryRow<'_>]) -> Result<(), PgError> {
    if rows.is_empty() {
        return Ok(());
    }
    let attempts = || rows.iter().map(|row| row.attempt);
    let failures = || rows.iter().map(|row| row.failure);
    let ids: Vec<_> = attempts().map(|attempt| attempt.id.get()).collect();
    let deliveries: Vec<_> = attempts().map(|attempt| i64::from(attempt.delivery)).collect();
    let numbers: Vec<_> = attempts().map(|attempt| i64::from(attempt.attempt)).collect();
    let started: Vec<_> = attempts().map(|attempt| attempt.started_at.get()).collect();
    let pods: Vec<_> = attempts().map(|attempt| attempt.pod.as_str()).collect();
    let classes: Vec<_> = failures().map(|failure| failure.class.as_str()).collect();
    let codes: Vec<_> = failures().map(|failure| without_nul(&failure.code)).collect();
    let messages: Vec<_> = failures().map(|failure| without_nul(&failure.message)).collect();
    let outputs: Vec<_> = rows.iter().map(|row| row.stderr.map(without_nul)).collect();
    let digests: Vec<_> = attempts().map(|attempt| attempt.handler_digest.as_deref()).collect();
    let given_back: Vec<_> = rows.iter().map(|row| row.is_given_back_again).collect();
    let executed: Vec<_> = attempts().map(|attempt| attempt.maybe_executed).collect();
    let exchanges: Vec<_> = attempts().map(|attempt| attempt.exchanges.as_deref()).collect();
    let (told, failed): (Values<'_>, Values<'_>) =
        (&[&ids, &deliveries, &numbers, &started, &pods], &[&classes, &codes, &messages, &outputs]);
    let traced: Values<'_> = &[&digests, &executed, &exchanges, &tx.now.get(), &given_back];
    tx.rows(INSERT_HISTORY, &[told, failed, traced].concat()).await.map(drop)
}
