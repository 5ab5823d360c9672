//! One attempt: runs the handler until its deadline or until it is interrupted, and decides the settlement.
//!
//! Does not decide which items are claimed nor how long their leases hold, and does not know what a handler does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use outbox_core::{
    Attempt, AttemptLocks, AttemptReport, Breakers, DeliveryMode, Failure, FailureClass, Handler, KeyLocks, Outcome,
    ServedType, Settlement, SpanSink, TracedAttempt,
};
use outbox_item::Item;
use outbox_store::{ClaimRef, Queue, SettleRequest};

use crate::breaker_news;
use crate::failure_log::FailureLog;
use crate::host_faults::HostFaults;
use crate::leases_in_hand::ItemInHand;
use crate::prefetch::Prefetch;
use crate::run_permits::{RunPermit, RunPermits};
use crate::settle::{Settler, decide, exchanges_to_keep};
use crate::streak::{Progress, Turn};
use crate::tally::Tally;

/// What all attempts of a worker share.
#[derive(Clone)]
pub(crate) struct AttemptContext {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) handler: Arc<dyn Handler>,
    /// Cancelled when the worker waits for no settlement any more.
    pub(crate) gave_up: CancellationToken,
    pub(crate) breakers: Breakers,
    pub(crate) failure_log: Arc<FailureLog>,
    pub(crate) host_faults: Arc<HostFaults>,
    pub(crate) tally: Tally,
    /// Records the spans of the attempts, if somebody asks for them.
    pub(crate) spans: Option<Arc<dyn SpanSink>>,
    pub(crate) key_locks: KeyLocks,
    pub(crate) run_permits: Arc<RunPermits>,
    pub(crate) prefetch: Arc<Prefetch>,
    /// Wakes the claim loop when prefetched items run low.
    pub(crate) permit_freed: Arc<Notify>,
}

/// Everything that an attempt needs except its item.
pub(crate) struct AttemptTask {
    pub(crate) context: Arc<AttemptContext>,
    pub(crate) served_type: Arc<ServedType>,
    /// The claim. It is in hand until the task ends.
    pub(crate) in_hand: ItemInHand,
    /// When the attempt may begin.
    pub(crate) turn: Turn,
    /// A moment before the claim was requested.
    pub(crate) sent: Instant,
}

impl AttemptTask {
    /// Makes the attempt and settles the claim.
    pub(crate) async fn attempt(self, claim: ClaimRef, item: Arc<Item>) {
        // Dropped after the settlement: only then may another attempt read the state that this one wrote.
        let locks = self.context.key_locks.for_attempt();
        let trace =
            self.context.spans.as_ref().map(|sink| TracedAttempt::new(Arc::clone(sink), Arc::clone(&item), self.sent));
        let report = self.run(&item, &locks, trace.as_ref()).await;
        let ended = Instant::now();
        self.in_hand.end_attempt();
        if self.turn.is_given_back() {
            if let Some(trace) = trace {
                trace.end(ended, Instant::now(), None, Some(Settlement::Release.as_str()));
            }
            return self.turn.tell(Progress::GivenBack);
        }
        let settlement = decide(report.outcome, &item, &self.served_type, &self.context.host_faults);
        let failure = settlement.failure().filter(|_| trace.is_some()).cloned();
        self.context.failure_log.attempt_settled(&item, &settlement, Instant::now());
        self.context.host_faults.attempt_settled(&item, &settlement, Instant::now());
        self.tell_breakers(&settlement).await;
        let request = SettleRequest {
            exchanges: exchanges_to_keep(&settlement, &report.recording),
            settlement,
            maybe_executed: report.maybe_executed,
            stderr: report.stderr,
            handler_digest: report.digest.map(String::from),
        };
        let settler = Settler {
            queue: &*self.context.queue,
            key_locks: &self.context.key_locks,
            served_type: &self.served_type,
            failure_log: &self.context.failure_log,
            host_faults: &self.context.host_faults,
            item: &item,
            recording: &report.recording,
            in_hand: &self.in_hand,
            turn: &self.turn,
            gave_up: &self.context.gave_up,
        };
        let taken = settler.settle(&claim, request).await;
        if let Some(trace) = trace {
            trace.end(ended, Instant::now(), failure.as_ref(), taken.as_ref().map(Settlement::as_str));
        }
        if let Some(settlement) = taken {
            // The store's time: the claim began at `sent` or a little later.
            let now = item.claimed_at.unwrap_or_default().saturating_add(self.sent.elapsed());
            self.context.tally.settled(&item, &settlement, now);
        }
    }

    async fn tell_breakers(&self, settlement: &Settlement) {
        let ServedType { item_type, breaker, .. } = &*self.served_type;
        let opened = self.context.breakers.attempt_settled(&self.served_type, settlement, Instant::now());
        if let Some(policy) = breaker.filter(|_| opened) {
            breaker_news::type_breaker_opened(&*self.context.queue, item_type, policy, settlement).await;
        }
        breaker_news::tell(&*self.context.queue, self.context.breakers.take_news()).await;
    }

    /// Waits for the item's turn and a run permit, then runs the handler unless the lease may be lost.
    async fn run(
        &self,
        item: &Arc<Item>,
        locks: &Arc<AttemptLocks>,
        trace: Option<&Arc<TracedAttempt>>,
    ) -> AttemptReport {
        let Some(_run_permit) = self.run_permit().await else {
            return AttemptReport::without_component(Outcome::Interrupted);
        };
        let started = Instant::now();
        let Some(deadline) = self.in_hand.begin_attempt(started, self.served_type.timeout) else {
            return AttemptReport::without_component(Outcome::Interrupted);
        };
        if let Some(trace) = trace {
            trace.begin(started);
        }
        let attempt = self.new_attempt(item, deadline, locks, trace);
        let report = self.handle_in_turn(attempt).await;
        self.context.prefetch.attempt_finished(started.elapsed());
        report
    }

    /// The run permit, or `None` when the attempt is interrupted first.
    async fn run_permit(&self) -> Option<RunPermit> {
        let permit = tokio::select! {
            biased;
            permit = self.run_permit_in_turn() => permit,
            () = self.in_hand.stop().cancelled() => None,
        };
        if permit.is_none() && self.in_hand.stop().is_cancelled() {
            // No attempt was shorter than this wait, so the worker claims fewer items ahead, or none.
            self.context.prefetch.attempt_finished(self.sent.elapsed());
        }
        if self.context.prefetch.item_started() {
            self.context.permit_freed.notify_one();
        }
        // A permit that an interrupted attempt returned must not start a new attempt.
        permit.filter(|_| !self.in_hand.stop().is_cancelled())
    }

    /// `None` when the item must not begin because of one before it.
    async fn run_permit_in_turn(&self) -> Option<RunPermit> {
        if !self.turn.comes().await {
            return None;
        }
        let permit = self.context.run_permits.acquire(&self.served_type).await;
        // The settlement before it may have failed during the wait.
        self.turn.comes().await.then_some(permit)
    }

    /// Interrupts the attempt when the claim on an item before it turns out to have failed.
    async fn handle_in_turn(&self, attempt: Attempt) -> AttemptReport {
        let mut handling = std::pin::pin!(self.handle(attempt));
        tokio::select! {
            biased;
            report = &mut handling => report,
            () = self.turn.is_broken() => {
                self.in_hand.stop().cancel();
                handling.await
            }
        }
    }

    fn new_attempt(
        &self,
        item: &Arc<Item>,
        deadline: Instant,
        locks: &Arc<AttemptLocks>,
        trace: Option<&Arc<TracedAttempt>>,
    ) -> Attempt {
        let claimed_at = item.claimed_at.unwrap_or_default();
        Attempt {
            item: Arc::clone(item),
            deadline,
            // The claim began at `sent` or a little later.
            deadline_at: claimed_at.saturating_add(deadline.saturating_duration_since(self.sent)),
            mode: DeliveryMode::Durable,
            stop: self.in_hand.stop().clone(),
            locks: Arc::clone(locks),
            trace: trace.cloned(),
        }
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        let deadline = attempt.deadline;
        let handling = AssertUnwindSafe(self.context.handler.handle(attempt)).catch_unwind();
        tokio::select! {
            // The handler first: an attempt that ends at once starts no timer.
            biased;
            report = timeout_at(deadline + self.in_hand.times().deadline_grace(), handling) => match report {
                Ok(Ok(report)) => report,
                Ok(Err(panic)) => panicked(panic.as_ref()),
                Err(_) => deadline_ignored(),
            },
            () = self.interrupted() => interrupted_late(),
        }
    }

    /// Resolves when the attempt was interrupted and the grace period is over.
    async fn interrupted(&self) {
        self.in_hand.stop().cancelled().await;
        sleep(self.in_hand.times().interrupt_grace()).await;
    }
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
