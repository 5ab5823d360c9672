//! One attempt: run the handler within its time, then settle the claim.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::breaker::Breakers;
use crate::claim_deadline::ClaimDeadline;
use crate::prefetch::Prefetch;
use outbox_core::{
    Attempt, AttemptLocks, AttemptReport, DeliveryMode, Failure, FailureClass, Handler, KeyLocks, Outcome, Recording,
    ServedType, Settlement, settlement_for,
};
use outbox_item::Item;
use outbox_store::{Alert, AlertKind, Claim, ClaimRef, SettleRequest, Store, StoreError};

/// How long a handler may take to notice that it was interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);
/// A settlement that the store did not take is tried again after this long.
const SETTLE_RETRY_DELAY: Duration = Duration::from_millis(200);

/// What an attempt needs, apart from its claim.
pub(crate) struct AttemptTask {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) served_type: Arc<ServedType>,
    pub(crate) claim_deadline: ClaimDeadline,
    pub(crate) interrupt: CancellationToken,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) key_locks: KeyLocks,
    pub(crate) run_permits: Arc<Semaphore>,
    pub(crate) prefetch: Arc<Prefetch>,
    /// Wakes the claim loop.
    pub(crate) permit_freed: Arc<Notify>,
}

impl AttemptTask {
    /// Makes the attempt and settles the claim.
    pub(crate) async fn attempt(self, claim: Claim) {
        let (reference, item) = (claim.reference(), Arc::new(claim.item));
        // Dropped when the claim is settled: only then may the next one read what this one wrote.
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

    /// Runs the handler as soon as it may run, if there is enough time left by then.
    async fn run(&self, item: &Arc<Item>, locks: &Arc<AttemptLocks>) -> AttemptReport {
        let Some(_run_permit) = self.run_permit().await else {
            return AttemptReport::without_component(Outcome::Interrupted);
        };
        let started = Instant::now();
        // A claim that was so long in coming would be cut off at once.
        let Some(deadline) = self.claim_deadline.attempt_deadline(started) else {
            return AttemptReport::without_component(Outcome::Interrupted);
        };
        let report = self.handle(item, deadline, locks).await;
        self.prefetch.attempt_finished(started.elapsed());
        report
    }

    /// The permit to run, or `None` when the process stops first.
    async fn run_permit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = tokio::select! {
            biased;
            permit = self.run_permits.acquire() => permit.ok(),
            () = self.interrupt.cancelled() => None,
        };
        if self.prefetch.item_started() {
            self.permit_freed.notify_one();
        }
        // Those that were interrupted have just given their permits back.
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
            // The handler first: what ends at once never starts a timer.
            biased;
            report = timeout_at(self.claim_deadline.grace_deadline(deadline), handling) => match report {
                Ok(Ok(report)) => report,
                Ok(Err(panic)) => panicked(panic.as_ref()),
                Err(_) => deadline_ignored(),
            },
            () = self.interrupted() => AttemptReport { maybe_executed: true, ..AttemptReport::without_component(Outcome::Interrupted) },
        }
    }

    /// Tells operators that the type is not claimed for a while.
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
        if let Err(err) = self.store.send_alert(&alert).await {
            tracing::error!(error = %err, "the open breaker could not be announced");
        }
    }

    /// Resolves when the handler was interrupted and did not notice.
    async fn interrupted(&self) {
        self.interrupt.cancelled().await;
        sleep(INTERRUPT_GRACE).await;
    }

    /// Settles, again and again while the store does not answer, until the lease has ended: then the
    /// claim expires and somebody else takes the item.
    async fn settle(&self, item: &Item, reference: &ClaimRef, mut request: SettleRequest, recording: &Recording) {
        let mut is_logged = false;
        loop {
            match self.store.settle(reference, request.clone()).await {
                Ok(()) => return,
                Err(StoreError::ClaimLost) => {
                    tracing::warn!(item.id = reference.id, "the claim was lost before its settlement; dropped it");
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
                        tracing::error!(item.id = reference.id, error = %err, "settling failed; trying again");
                    }
                    sleep(SETTLE_RETRY_DELAY).await;
                }
                Err(err) => {
                    tracing::error!(item.id = reference.id, error = %err, "settling failed; the claim will expire");
                    return;
                }
            }
        }
    }
}

/// What the history keeps of what was sent and answered: nothing where there is no history.
fn exchanges_to_keep(settlement: &Settlement, recording: &Recording) -> Option<Vec<u8>> {
    settlement.failure().and_then(|_| recording.compress())
}

/// What the attempt failed with, when the store will never commit what it wants stored.
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
        item.id = item.id, item.type = item.item_type, item.cid = item.cid,
        attempt = item.attempts, class = %failure.class, code = failure.code,
        "attempt failed, {what}: {}", failure.message
    );
}
