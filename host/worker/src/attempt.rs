//! One attempt: runs the handler until the claim's deadline, then settles the claim.
//!
//! Does not decide which items are claimed, and does not know what a handler does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use outbox_core::{
    Attempt, AttemptLocks, AttemptReport, DeliveryMode, Failure, FailureClass, Handler, KeyLocks, Outcome, Recording,
    ServedType, Settlement, settlement_for,
};
use outbox_item::Item;
use outbox_store::{Alert, AlertKind, Claim, ClaimRef, Queue, SettleRequest, StoreError};

use crate::breaker::Breakers;
use crate::claim_deadline::ClaimDeadline;
use crate::prefetch::Prefetch;

/// How long an interrupted handler may take to return. Then the worker drops it.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);
/// The wait before a settlement is repeated after an error of the store.
const SETTLE_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Everything that an attempt needs except its claim.
pub(crate) struct AttemptTask {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) served_type: Arc<ServedType>,
    pub(crate) claim_deadline: ClaimDeadline,
    pub(crate) interrupt: CancellationToken,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) key_locks: KeyLocks,
    pub(crate) run_permits: Arc<Semaphore>,
    pub(crate) prefetch: Arc<Prefetch>,
    /// Wakes the claim loop when prefetched items run low.
    pub(crate) permit_freed: Arc<Notify>,
}

impl AttemptTask {
    /// Makes the attempt and settles the claim.
    pub(crate) async fn attempt(self, claim: Claim) {
        let (reference, item) = (claim.reference(), Arc::new(claim.item));
        // Dropped after the settlement: only then may another attempt read the state that this one wrote.
        let locks = self.key_locks.for_attempt();
        let report = self.run(&item, &locks).await;
        let settlement = settlement_for(report.outcome, &item, &self.served_type, fastrand::f64());
        log_failure(&item, &settlement);
        if self.breakers.attempt_settled(&self.served_type, &settlement, Instant::now()) {
            self.alert_breaker_open(&settlement).await;
        }
        let request = SettleRequest {
            exchanges: exchanges_to_keep(&settlement, &report.recording),
            settlement,
            maybe_executed: report.maybe_executed,
            stderr: report.stderr,
            handler_digest: report.digest,
        };
        self.settle(&item, &reference, request, &report.recording).await;
    }

    /// Waits for a run permit, then runs the handler if enough of the lease is left.
    async fn run(&self, item: &Arc<Item>, locks: &Arc<AttemptLocks>) -> AttemptReport {
        let Some(_run_permit) = self.run_permit().await else {
            return AttemptReport::without_component(Outcome::Interrupted);
        };
        let started = Instant::now();
        // Too little of the lease is left: the attempt would be cut off almost at once.
        let Some(deadline) = self.claim_deadline.attempt_deadline(started) else {
            return AttemptReport::without_component(Outcome::Interrupted);
        };
        let report = self.handle(item, deadline, locks).await;
        self.prefetch.attempt_finished(started.elapsed());
        report
    }

    /// The run permit, or `None` when the worker interrupts its attempts first.
    async fn run_permit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = tokio::select! {
            biased;
            permit = self.run_permits.acquire() => permit.ok(),
            () = self.interrupt.cancelled() => None,
        };
        if self.prefetch.item_started() {
            self.permit_freed.notify_one();
        }
        // A permit that an interrupted attempt returned must not start a new attempt.
        permit.filter(|_| !self.interrupt.is_cancelled())
    }

    async fn handle(&self, item: &Arc<Item>, deadline: Instant, locks: &Arc<AttemptLocks>) -> AttemptReport {
        let claimed_at = item.claimed_at.unwrap_or_default();
        let attempt = Attempt {
            item: Arc::clone(item),
            deadline,
            deadline_at: self.claim_deadline.in_store_time(claimed_at, deadline),
            mode: DeliveryMode::Durable,
            stop: self.interrupt.clone(),
            locks: Arc::clone(locks),
        };
        let handling = AssertUnwindSafe(self.handler.handle(attempt)).catch_unwind();
        tokio::select! {
            // The handler first: an attempt that ends at once starts no timer.
            biased;
            report = timeout_at(self.claim_deadline.grace_deadline(deadline), handling) => match report {
                Ok(Ok(report)) => report,
                Ok(Err(panic)) => panicked(panic.as_ref()),
                Err(_) => deadline_ignored(),
            },
            () = self.interrupted() => interrupted_late(),
        }
    }

    /// Logs that the process claims no items of the type for a while, and alerts operators.
    async fn alert_breaker_open(&self, settlement: &Settlement) {
        let ServedType { item_type, breaker, .. } = &*self.served_type;
        let Some(policy) = breaker else { return };
        tracing::error!(
            item.type = item_type, failures = policy.failures, pause = ?policy.pause,
            "the breaker is open: this process claims no items of the type for a while"
        );
        let last = settlement.failure().map(|failure| failure.message.as_str()).unwrap_or_default();
        let message = format!("{} failures in a row, the last: {last}", policy.failures);
        let alert = Alert { kind: AlertKind::BreakerOpen, subject: item_type.clone(), message };
        if let Err(err) = self.queue.send_alert(&alert).await {
            tracing::error!(error = %err, "the open breaker could not be announced");
        }
    }

    /// Resolves when the worker has interrupted its attempts and the grace period is over.
    async fn interrupted(&self) {
        self.interrupt.cancelled().await;
        sleep(INTERRUPT_GRACE).await;
    }

    /// Settles the claim. Repeats the call while the store fails, until the lease has ended; then the claim expires and
    /// another attempt follows. A write that the store refuses for good becomes a failure of the attempt.
    async fn settle(&self, item: &Item, reference: &ClaimRef, mut request: SettleRequest, recording: &Recording) {
        let mut is_logged = false;
        loop {
            match self.queue.settle(reference, request.clone()).await {
                Ok(()) => return,
                Err(StoreError::ClaimLost) => {
                    tracing::warn!(
                        item.id = reference.id.get(),
                        "the claim was lost before its settlement; dropped it"
                    );
                    return;
                }
                Err(err) if let Some(failure) = permanent_store_failure(&err) => {
                    if let StoreError::StateConflict { plugin, key } = &err {
                        self.key_locks.record_conflict(plugin, key);
                    }
                    let outcome = Outcome::Failed(failure);
                    request.settlement = settlement_for(outcome, item, &self.served_type, fastrand::f64());
                    request.exchanges = exchanges_to_keep(&request.settlement, recording);
                    log_failure(item, &request.settlement);
                }
                Err(err) if Instant::now() < self.claim_deadline.lease_end() => {
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::error!(item.id = reference.id.get(), error = %err, "settling failed; trying again");
                    }
                    sleep(SETTLE_RETRY_DELAY).await;
                }
                Err(err) => {
                    let item_id = reference.id.get();
                    tracing::error!(item.id = item_id, error = %err, "settling failed; the claim will expire");
                    return;
                }
            }
        }
    }
}

/// The recorded requests and responses, compressed, for the history row. `None` without a failure, because then there
/// is no row.
fn exchanges_to_keep(settlement: &Settlement, recording: &Recording) -> Option<Vec<u8>> {
    settlement.failure().and_then(|_| recording.compress())
}

/// The failure of an attempt whose writes the store can never commit; `None` for an error that may pass.
fn permanent_store_failure(err: &StoreError) -> Option<Failure> {
    let (class, code) = match err {
        StoreError::StateConflict { .. } => (FailureClass::Conflict, "state.conflict"),
        StoreError::StateQuota { .. } => (FailureClass::Contract, "state.quota"),
        StoreError::StateValueTooLarge { .. } => (FailureClass::Contract, "state.too_large"),
        StoreError::Invalid(_) => (FailureClass::Contract, "followups.invalid"),
        _ => return None,
    };
    Some(Failure::new(class, code, err.to_string()))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> AttemptReport {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    let failure = Failure::new(FailureClass::Trap, "handler.panic", format!("the handler panicked: {text}"));
    AttemptReport { maybe_executed: true, ..AttemptReport::without_component(Outcome::Failed(failure)) }
}

/// The report of a handler that was dropped: it may have sent a request.
fn interrupted_late() -> AttemptReport {
    AttemptReport { maybe_executed: true, ..AttemptReport::without_component(Outcome::Interrupted) }
}

fn deadline_ignored() -> AttemptReport {
    let failure = Failure::new(FailureClass::Timeout, "handler.deadline", "the handler went on past its deadline");
    AttemptReport { maybe_executed: true, ..AttemptReport::without_component(Outcome::Failed(failure)) }
}

fn log_failure(item: &Item, settlement: &Settlement) {
    let Some(failure) = settlement.failure() else { return };
    let what = match settlement {
        Settlement::Dead { .. } => "dead-lettered",
        Settlement::GiveBack { .. } => "given back",
        _ => "retry",
    };
    tracing::warn!(
        item.id = item.id.get(), item.type = item.item_type, item.cid = item.cid,
        attempt = item.attempts, class = %failure.class, code = failure.code,
        "attempt failed, {what}: {}", failure.message
    );
}
