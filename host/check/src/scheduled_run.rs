//! One run: an item is delivered until it is settled for good, while a schedule goes wrong.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::case::{Case, NOW};
use crate::fault_injector::FaultInjector;
use crate::in_memory_outbox::{InMemoryClaim, InMemoryOutbox, OutboxSnapshot, SettleError};
use crate::receivers::SimulatedReceivers;
use crate::schedule::{CrashPoint, Disruption, Schedule};
use outbox_core::{AttemptReport, Failure, FailureClass, Outcome, RetryPolicy, ServedType};
use outbox_item::Status;
use outbox_runtime::simulation::{AttemptEnd, GuestCall, SimulatedAttempt, SimulatedPlugin};

/// An item that is not settled after so many deliveries never will be.
const DELIVERIES_MAX: u32 = 40;

/// What all runs of a case have in common.
pub(crate) struct CheckContext {
    pub(crate) plugin: SimulatedPlugin,
    /// The component as it is after a reload.
    pub(crate) reloaded: SimulatedPlugin,
    pub(crate) case: Case,
    pub(crate) initial_state: BTreeMap<String, Vec<u8>>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(crate) struct RunResult {
    /// What the first attempt called.
    pub(crate) calls: Vec<GuestCall>,
    /// What is stored in the end.
    pub(crate) snapshot: OutboxSnapshot,
    /// What receivers have in the end.
    pub(crate) receivers: SimulatedReceivers,
    /// The last failure of an attempt.
    pub(crate) failure: Option<Failure>,
    /// Whether everything of the schedule came to pass.
    pub(crate) has_reached_all: bool,
}

/// One run.
struct ScheduledRun {
    context: Arc<CheckContext>,
    schedule: Schedule,
    served_type: ServedType,
    outbox: Arc<InMemoryOutbox>,
    receivers: Arc<Mutex<SimulatedReceivers>>,
    /// Changes the clock and the random numbers from run to run, where nothing else does.
    offset: u64,
    notes: Mutex<RunNotes>,
}

#[derive(Default)]
struct RunNotes {
    calls: Vec<GuestCall>,
    failure: Option<Failure>,
    reached: usize,
}

/// Plays a schedule to its end. `offset` tells runs apart that differ in nothing but time and chance.
pub(crate) fn run_schedule(context: &Arc<CheckContext>, schedule: &Schedule, offset: u64) -> RunResult {
    let case = &context.case;
    let run = Arc::new(ScheduledRun {
        served_type: served_type(context),
        outbox: Arc::new(InMemoryOutbox::new(case.new_item(), context.initial_state.clone(), NOW)),
        receivers: Arc::new(Mutex::new(SimulatedReceivers::new(schedule.receivers, case.answer.clone()))),
        context: Arc::clone(context),
        schedule: schedule.clone(),
        offset,
        notes: Mutex::default(),
    });
    run.deliver();
    run.result()
}

fn served_type(context: &CheckContext) -> ServedType {
    ServedType {
        item_type: context.case.item.r#type.clone(),
        timeout: None,
        retry: context.plugin.retry(RetryPolicy::default()),
        concurrency: None,
        rate: None,
        on_dead: context.plugin.on_dead(),
        breaker: None,
    }
}

impl ScheduledRun {
    /// Delivers the item until it is finished.
    fn deliver(self: &Arc<Self>) {
        while let Some(claim) = self.outbox.claim(&self.served_type) {
            self.attempt(&claim);
            if claim.item.deliveries >= DELIVERIES_MAX {
                return;
            }
        }
    }

    /// Makes an attempt and settles it, unless the schedule has it end otherwise.
    fn attempt(self: &Arc<Self>, claim: &InMemoryClaim) {
        let delivery = claim.item.deliveries;
        let disruptions = &self.schedule.disruptions;
        let index = usize::try_from(delivery - 1).unwrap_or(usize::MAX);
        let disruption = disruptions.get(index).copied();
        let is_reloaded = disruptions.iter().take(index).any(|disruption| matches!(disruption, Disruption::Reload(_)));
        let run = Arc::clone(self);
        let injector = Arc::new(FaultInjector::new(
            Arc::clone(&self.receivers),
            delivery,
            disruption,
            Box::new(move || run.run_others_meanwhile()),
        ));
        let plugin = if is_reloaded { &self.context.reloaded } else { &self.context.plugin };
        let ending = block_on(plugin.run(self.simulated_attempt(claim, &injector)));
        self.finish_attempt(claim, &injector, ending);
        self.record(|notes| {
            notes.reached += usize::from(injector.is_reached());
            if delivery == 1 {
                notes.calls = injector.calls();
            }
        });
    }

    fn simulated_attempt(&self, claim: &InMemoryClaim, injector: &Arc<FaultInjector>) -> SimulatedAttempt {
        let seed = u64::from(claim.item.deliveries) + self.offset * 1_000;
        let offset = i64::try_from(self.offset).unwrap_or(0) * 3_723_456;
        SimulatedAttempt {
            item: claim.item.clone(),
            world: Arc::clone(injector) as _,
            state: Arc::clone(&self.outbox) as _,
            now: claim.item.claimed_at.unwrap_or_default() + offset,
            seed,
        }
    }

    fn finish_attempt(&self, claim: &InMemoryClaim, injector: &FaultInjector, ending: AttemptEnd) {
        let AttemptEnd::Reported(report) = ending else { return self.outbox.expire() };
        if injector.reach(CrashPoint::Return) == ControlFlow::Break(()) {
            return self.outbox.expire();
        }
        if let Outcome::Failed(failure) = &report.outcome {
            self.record(|notes| notes.failure = Some(failure.clone()));
        }
        self.settle(claim, report);
        // Whoever dies after the commit leaves nothing to deliver again.
        let _ = injector.reach(CrashPoint::Commit);
    }

    fn settle(&self, claim: &InMemoryClaim, report: AttemptReport) {
        let maybe_executed = report.maybe_executed;
        let decide = |outcome| outbox_core::settlement_for(outcome, &claim.item, &self.served_type, 1.0);
        match self.outbox.settle(claim, &decide(report.outcome), maybe_executed) {
            Ok(()) | Err(SettleError::ClaimLost) => {}
            Err(SettleError::StateConflict(key)) => {
                let failure =
                    Failure::new(FailureClass::Conflict, "state.conflict", format!("{key:?} was changed meanwhile"));
                // The claim was the attempt's a moment ago, and nobody else is there to take it.
                let _ = self.outbox.settle(claim, &decide(Outcome::Failed(failure)), maybe_executed);
            }
        }
    }

    /// While an attempt stands still its lease ends, and others run. They have a thread of their own,
    /// since this one is in the midst of the attempt.
    fn run_others_meanwhile(self: &Arc<Self>) {
        let run = Arc::clone(self);
        let others = std::thread::spawn(move || {
            run.outbox.expire();
            run.deliver();
        });
        // A panic there shows when the run is compared: nothing is settled then.
        drop(others.join());
    }

    fn record(&self, write: impl FnOnce(&mut RunNotes)) {
        write(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn result(&self) -> RunResult {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        RunResult {
            calls: std::mem::take(&mut notes.calls),
            snapshot: self.outbox.snapshot(),
            receivers: self.receivers.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            failure: notes.failure.take(),
            has_reached_all: notes.reached == self.schedule.disruptions.len(),
        }
    }
}

impl RunResult {
    /// Whether the item's effect is done.
    pub(crate) fn is_done(&self) -> bool {
        self.snapshot.item.status == Status::Done
    }

    /// Whether nothing more will happen to the item.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.snapshot.item.status, Status::Done | Status::Dlq)
    }
}

thread_local! {
    static RUNTIME: std::io::Result<tokio::runtime::Runtime> =
        tokio::runtime::Builder::new_current_thread().enable_all().build();
}

/// Runs an attempt on this thread alone, so that nothing in it depends on how threads are scheduled.
fn block_on(attempt: impl Future<Output = AttemptEnd>) -> AttemptEnd {
    RUNTIME.with(|runtime| match runtime {
        Ok(runtime) => runtime.block_on(attempt),
        Err(_) => AttemptEnd::Crashed,
    })
}
