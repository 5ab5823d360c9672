//! Plays one schedule: delivers the item of a case until it is finished, and disrupts its attempts.
//!
//! It does not judge the result; `findings.rs` compares it with the undisturbed run.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outbox_core::{AttemptReport, AttemptTrace, Failure, FailureClass, Outcome, RetryPolicy, ServedType};
use outbox_item::Status;
use outbox_runtime::simulation::{AttemptEnd, GuestCall, SimulatedAttempt, SimulatedPlugin};

use crate::case::{Case, NOW};
use crate::fault_injector::FaultInjector;
use crate::in_memory_outbox::{InMemoryClaim, InMemoryOutbox, OutboxSnapshot, SettleError};
use crate::receivers::SimulatedReceivers;
use crate::schedule::{CrashPoint, Disruption, Schedule};

/// The most deliveries of one run. An item that is not finished by then counts as never finished. The number is
/// well above the nine attempts of the default retry policy.
const DELIVERIES_MAX: u32 = 40;

/// What all runs of one case share.
pub(crate) struct CheckContext {
    pub(crate) plugin: SimulatedPlugin,
    /// The component after a reload.
    pub(crate) reloaded: SimulatedPlugin,
    pub(crate) case: Case,
    pub(crate) initial_state: BTreeMap<String, Vec<u8>>,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub(crate) struct RunResult {
    /// The calls of the first attempt, in order.
    pub(crate) calls: Vec<GuestCall>,
    /// The rows of the outbox at the end.
    pub(crate) snapshot: OutboxSnapshot,
    /// The receivers at the end.
    pub(crate) receivers: SimulatedReceivers,
    /// The last failure of an attempt.
    pub(crate) failure: Option<Failure>,
    /// Whether every disruption of the schedule happened.
    pub(crate) has_reached_all: bool,
}

/// The start time and the random seed of a run. Two undisturbed runs with different variants show what depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunVariant {
    /// The time of the case and the first seeds.
    Standard,
    /// A later time and other seeds.
    OtherTimeAndSeed,
}

impl RunVariant {
    /// How much later than the case the run starts: more than an hour, and no whole number of seconds.
    fn time_offset(self) -> Duration {
        match self {
            Self::Standard => Duration::ZERO,
            Self::OtherTimeAndSeed => Duration::from_millis(3_723_456),
        }
    }

    /// What the run adds to the number of the delivery to get its seed: more than the most deliveries of a run.
    fn seed_offset(self) -> u64 {
        match self {
            Self::Standard => 0,
            Self::OtherTimeAndSeed => 1_000,
        }
    }
}

/// One run.
struct ScheduledRun {
    context: Arc<CheckContext>,
    schedule: Schedule,
    served_type: ServedType,
    outbox: Arc<InMemoryOutbox>,
    receivers: Arc<Mutex<SimulatedReceivers>>,
    variant: RunVariant,
    notes: Mutex<RunNotes>,
}

#[derive(Default)]
struct RunNotes {
    calls: Vec<GuestCall>,
    failure: Option<Failure>,
    /// The number of disruptions that have happened.
    reached: usize,
}

/// Plays a schedule to its end.
pub(crate) fn run_schedule(context: &Arc<CheckContext>, schedule: &Schedule, variant: RunVariant) -> RunResult {
    let case = &context.case;
    let run = Arc::new(ScheduledRun {
        served_type: served_type(context),
        outbox: Arc::new(InMemoryOutbox::new(case.new_item(), context.initial_state.clone(), NOW)),
        receivers: Arc::new(Mutex::new(SimulatedReceivers::new(schedule.receivers, case.answer.clone()))),
        context: Arc::clone(context),
        schedule: schedule.clone(),
        variant,
        notes: Mutex::default(),
    });
    run.deliver();
    run.result()
}

fn served_type(context: &CheckContext) -> ServedType {
    ServedType {
        retry: context.plugin.retry(RetryPolicy::default()),
        on_dead: context.plugin.on_dead(),
        ..ServedType::new(&context.case.item.r#type)
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

    /// Runs an attempt and settles it, unless the schedule ends it before.
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
        SimulatedAttempt {
            item: claim.item.clone(),
            world: Arc::clone(injector) as _,
            state: Arc::clone(&self.outbox) as _,
            now: claim.item.claimed_at.unwrap_or_default().saturating_add(self.variant.time_offset()),
            seed: u64::from(claim.item.deliveries) + self.variant.seed_offset(),
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
        // A crash after the commit causes no redelivery.
        let _ = injector.reach(CrashPoint::Commit);
    }

    fn settle(&self, claim: &InMemoryClaim, report: AttemptReport) {
        let trace = AttemptTrace { maybe_executed: report.maybe_executed, handler_digest: None };
        let decide = |outcome| outbox_core::settlement_for(outcome, &claim.item, &self.served_type, 1.0);
        match self.outbox.settle(claim, &decide(report.outcome), trace) {
            Ok(()) | Err(SettleError::ClaimLost) => {}
            Err(SettleError::StateConflict(key)) => {
                let failure =
                    Failure::new(FailureClass::Conflict, "state.conflict", format!("{key:?} was changed meanwhile"));
                // The claim is still valid: the outbox checks it before the state, and no other attempt runs now.
                let _ = self.outbox.settle(claim, &decide(Outcome::Failed(failure)), trace);
            }
        }
    }

    /// Ends the lease of the paused attempt and runs other attempts. They need a thread of their own, because this
    /// thread is inside the paused attempt.
    fn run_others_meanwhile(self: &Arc<Self>) {
        let run = Arc::clone(self);
        let others = std::thread::spawn(move || {
            run.outbox.expire();
            run.deliver();
        });
        // A panic in the thread shows in the comparison, because nothing is settled then.
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
    /// Whether the item is DONE.
    pub(crate) fn is_done(&self) -> bool {
        self.snapshot.item.status == Status::Done
    }

    /// Whether the item is DONE or dead-lettered.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.snapshot.item.status, Status::Done | Status::Dlq)
    }
}

thread_local! {
    static RUNTIME: std::io::Result<tokio::runtime::Runtime> =
        tokio::runtime::Builder::new_current_thread().enable_all().build();
}

/// Runs an attempt on this thread alone, so that its result does not depend on how threads are scheduled.
fn block_on(attempt: impl Future<Output = AttemptEnd>) -> AttemptEnd {
    RUNTIME.with(|runtime| match runtime {
        Ok(runtime) => runtime.block_on(attempt),
        Err(_) => AttemptEnd::Crashed,
    })
}
