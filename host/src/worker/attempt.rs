//! One attempt: run the handler within its time, then settle the claim.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::breaker::Breakers;
use super::decide;
use super::pace::Pace;
use super::timing::Clock;
use crate::handler::{Attempt, Handler, Mode, Outcome, Report, Service, Turn, Turns};
use crate::item::{Class, Failure, Item, Recording};
use crate::store::{Alert, AlertKind, Claim, ClaimRef, Settled, Settlement, Store, StoreError};

/// How long a handler may take to notice that it was interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);
/// A settlement that the store did not take is tried again after this long.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// What an attempt needs, apart from its claim.
pub(super) struct Run {
    pub(super) store: Arc<dyn Store>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) service: Arc<Service>,
    pub(super) clock: Clock,
    pub(super) interrupt: CancellationToken,
    pub(super) breakers: Arc<Breakers>,
    pub(super) turns: Turns,
    pub(super) running: Arc<Semaphore>,
    pub(super) pace: Arc<Pace>,
    /// Wakes the claim loop.
    pub(super) freed: Arc<Notify>,
}

impl Run {
    /// Makes the attempt and settles the claim.
    pub(super) async fn attempt(self, claim: Claim) {
        let (reference, item) = (claim.reference(), Arc::new(claim.item));
        // Dropped when the claim is settled: only then may the next one read what this one wrote.
        let turn = self.turns.of_attempt();
        let report = self.run(&item, &turn).await;
        let settlement = decide::settlement(report.outcome, &item, &self.service, fastrand::f64());
        log_failure(&item, &settlement);
        if self.breakers.settled(&self.service, &settlement, Instant::now()) {
            self.announce_breaker(&settlement).await;
        }
        let settled = Settled {
            exchanges: history(&settlement, &report.recording),
            settlement,
            maybe_executed: report.maybe_executed,
            stderr: report.stderr,
            handler_digest: report.digest,
        };
        self.settle(&item, &reference, settled, &report.recording).await;
    }

    /// Runs the handler as soon as it may run, if there is enough time left by then.
    async fn run(&self, item: &Arc<Item>, turn: &Arc<Turn>) -> Report {
        let Some(_running) = self.permit().await else { return Report::bare(Outcome::Stopped) };
        let begun = Instant::now();
        // A claim that was so long in coming would be cut off at once.
        let Some(deadline) = self.clock.deadline(begun) else { return Report::bare(Outcome::Stopped) };
        let report = self.handle(item, deadline, turn).await;
        self.pace.took(begun.elapsed());
        report
    }

    /// The permit to run, or `None` when the process stops first.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = tokio::select! {
            biased;
            permit = self.running.acquire() => permit.ok(),
            () = self.interrupt.cancelled() => None,
        };
        if self.pace.go_on() {
            self.freed.notify_one();
        }
        // Those that were interrupted have just given their permits back.
        permit.filter(|_| !self.interrupt.is_cancelled())
    }

    async fn handle(&self, item: &Arc<Item>, deadline: Instant, turn: &Arc<Turn>) -> Report {
        let claimed_at = item.claimed_at.unwrap_or_default();
        let attempt = Attempt {
            item: Arc::clone(item),
            deadline,
            deadline_at: self.clock.in_store_time(claimed_at, deadline),
            mode: Mode::Durable,
            stop: self.interrupt.clone(),
            turn: Arc::clone(turn),
        };
        let handling = AssertUnwindSafe(self.handler.handle(attempt)).catch_unwind();
        tokio::select! {
            // The handler first: what ends at once never starts a timer.
            biased;
            report = timeout_at(self.clock.abandon(deadline), handling) => match report {
                Ok(Ok(report)) => report,
                Ok(Err(panic)) => panicked(panic.as_ref()),
                Err(_) => abandoned(),
            },
            () = self.interrupted() => Report { maybe_executed: true, ..Report::bare(Outcome::Stopped) },
        }
    }

    /// Tells operators that the type is not claimed for a while.
    async fn announce_breaker(&self, settlement: &Settlement) {
        let Service { item_type, breaker, .. } = &*self.service;
        let Some(policy) = breaker else { return };
        tracing::error!(
            item.type = item_type, failures = policy.failures, pause = ?policy.pause,
            "the breaker is open: this process claims no items of the type for a while"
        );
        let last = settlement.failure().map(|failure| failure.message.as_str()).unwrap_or_default();
        let message = format!("{} failures in a row, the last: {last}", policy.failures);
        let alert = Alert { kind: AlertKind::BreakerOpen, subject: item_type.clone(), message };
        if let Err(err) = self.store.announce(&alert).await {
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
    async fn settle(&self, item: &Item, reference: &ClaimRef, mut settled: Settled, recording: &Recording) {
        let mut is_told = false;
        loop {
            match self.store.settle(reference, settled.clone()).await {
                Ok(()) => return,
                Err(StoreError::ClaimLost) => {
                    tracing::warn!(item.id = reference.id, "the claim was lost before its settlement; dropped it");
                    return;
                }
                Err(err) if let Some(failure) = refusal(&err) => {
                    if let StoreError::StateConflict { plugin, key } = &err {
                        self.turns.note_conflict(plugin, key);
                    }
                    let outcome = Outcome::Failed(failure);
                    settled.settlement = decide::settlement(outcome, item, &self.service, fastrand::f64());
                    settled.exchanges = history(&settled.settlement, recording);
                    log_failure(item, &settled.settlement);
                }
                Err(err) if Instant::now() < self.clock.lease_end() => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::error!(item.id = reference.id, error = %err, "settling failed; trying again");
                    }
                    sleep(SETTLE_PAUSE).await;
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
fn history(settlement: &Settlement, recording: &Recording) -> Option<Vec<u8>> {
    settlement.failure().and_then(|_| recording.pack())
}

/// What the attempt failed with, when the store will never commit what it wants stored.
fn refusal(err: &StoreError) -> Option<Failure> {
    let (class, code) = match err {
        StoreError::StateConflict { .. } => (Class::Conflict, "state.conflict"),
        StoreError::StateQuota { .. } => (Class::Contract, "state.quota"),
        StoreError::StateValueTooLarge { .. } => (Class::Contract, "state.too_large"),
        StoreError::Invalid(_) => (Class::Contract, "followups.invalid"),
        _ => return None,
    };
    Some(Failure::new(class, code, err.to_string()))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Report {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    let failure = Failure::new(Class::Trap, "handler.panic", format!("the handler panicked: {text}"));
    Report { maybe_executed: true, ..Report::bare(Outcome::Failed(failure)) }
}

fn abandoned() -> Report {
    let failure = Failure::new(Class::Timeout, "handler.deadline", "the handler went on past its deadline");
    Report { maybe_executed: true, ..Report::bare(Outcome::Failed(failure)) }
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
