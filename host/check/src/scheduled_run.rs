//! Plays one schedule: delivers the item of a case until it is finished, and disrupts its attempts.
//!
//! It does not judge the result; `findings.rs` compares it with the undisturbed run.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use outbox_core::{
    AttemptReport, AttemptTrace, Circumstances, Failure, FailureClass, Outcome, RetryPolicy, ServedType, settlement_for,
};
use outbox_item::Status;
use outbox_runtime::simulation::{AttemptEnd, GuestCall, SimulatedAttempt, SimulatedPlugin};

use crate::call_record::PlayedAttempt;
use crate::case::{Case, NOW};
use crate::fault_injector::FaultInjector;
use crate::in_memory_outbox::{InMemoryClaim, InMemoryOutbox, OutboxSnapshot, SettleError};
use crate::receivers::SimulatedReceivers;
use crate::schedule::{CrashPoint, Schedule};

/// The most deliveries of one run. An item that is not finished by then counts as never finished. The number is
/// well above the nine attempts of the default retry policy.
const DELIVERIES_MAX: u32 = 40;
/// The delivery in which an outage ends at the latest. A handler that defers never has a last attempt, and must be
/// able to finish after the outage.
const OUTAGE_DELIVERIES_MAX: u32 = 20;

/// The distance of the seeds of two runs: more than the most deliveries of a run.
const SEEDS_PER_RUN: u64 = 1_000;
/// How many schedules have random numbers of their own. Any large number keeps most of them apart.
const SCHEDULE_SEEDS: u64 = 1_000_003;

/// What all runs of one case share.
pub(crate) struct CheckContext {
    pub(crate) plugin: SimulatedPlugin,
    /// The component after a reload.
    pub(crate) reloaded: SimulatedPlugin,
    pub(crate) case: Case,
    pub(crate) initial_state: BTreeMap<String, Vec<u8>>,
    /// What another item writes to a state key: what the undisturbed run leaves there. Set once that is known.
    pub(crate) others_state: OnceLock<BTreeMap<String, Vec<u8>>>,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub(crate) struct RunResult {
    /// The attempts, by the number of their delivery.
    pub(crate) attempts: BTreeMap<u32, PlayedAttempt>,
    /// The rows of the outbox at the end.
    pub(crate) snapshot: OutboxSnapshot,
    /// The receivers at the end.
    pub(crate) receivers: SimulatedReceivers,
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

    /// What the run adds to the number of the delivery to get its seed.
    fn seed_offset(self) -> u64 {
        match self {
            Self::Standard => 0,
            Self::OtherTimeAndSeed => SEEDS_PER_RUN,
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
    attempts: BTreeMap<u32, PlayedAttempt>,
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
        if self.is_last(claim) {
            self.receivers.lock().unwrap_or_else(PoisonError::into_inner).end_outages();
        }
        let run = Arc::clone(self);
        let injector = Arc::new(FaultInjector::new(
            Arc::clone(&self.receivers),
            delivery,
            self.schedule.of_attempt(delivery).collect(),
            Box::new(move || run.run_others_meanwhile()),
        ));
        let is_reloaded = self.schedule.is_reloaded_before(delivery);
        let plugin = if is_reloaded { &self.context.reloaded } else { &self.context.plugin };
        let ending = block_on(plugin.run(self.simulated_attempt(claim, &injector)));
        let failure = self.finish_attempt(claim, &injector, ending);
        self.record(|notes| {
            notes.reached += injector.reached();
            notes.attempts.insert(delivery, PlayedAttempt { calls: injector.calls(), failure });
        });
    }

    /// Whether a failure of the attempt dead-letters the item.
    fn is_last(&self, claim: &InMemoryClaim) -> bool {
        let has_retries = self.served_type.retry.allows_another(claim.item.attempts);
        !has_retries || claim.item.deliveries >= OUTAGE_DELIVERIES_MAX
    }

    fn simulated_attempt(&self, claim: &InMemoryClaim, injector: &Arc<FaultInjector>) -> SimulatedAttempt {
        SimulatedAttempt {
            item: claim.item.clone(),
            world: Arc::clone(injector) as _,
            state: Arc::clone(&self.outbox) as _,
            now: claim.item.claimed_at.unwrap_or_default().saturating_add(self.variant.time_offset()),
            seed: u64::from(claim.item.deliveries) + self.variant.seed_offset() + self.schedule_seed(claim),
        }
    }

    /// What the schedule adds to the seed. Up to the first disruption, a run is the undisturbed one; after it, each
    /// schedule has random numbers of its own, so that all of them together show what a handler does by chance.
    fn schedule_seed(&self, claim: &InMemoryClaim) -> u64 {
        let first = self.schedule.disruptions.first().map_or(u32::MAX, |first| first.attempt);
        if claim.item.deliveries <= first {
            return 0;
        }
        let id = self.schedule.to_string();
        let sum = id.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        sum % SCHEDULE_SEEDS * SEEDS_PER_RUN
    }

    /// Settles an attempt, unless its process crashes before. Returns the failure that the attempt reported.
    fn finish_attempt(&self, claim: &InMemoryClaim, injector: &FaultInjector, ending: AttemptEnd) -> Option<Failure> {
        let AttemptEnd::Reported(report) = ending else {
            self.outbox.expire();
            return None;
        };
        if injector.reach(CrashPoint::Return) == ControlFlow::Break(()) {
            self.outbox.expire();
            return None;
        }
        let failure = match &report.outcome {
            Outcome::Failed(failure) => Some(failure.clone()),
            _ => None,
        };
        self.change_state_meanwhile(injector);
        let conflict = self.settle(claim, report);
        // A crash after the commit causes no redelivery.
        let _ = injector.reach(CrashPoint::Commit);
        failure.or(conflict)
    }

    /// Lets another item write what the attempt has read, if the schedule says so.
    fn change_state_meanwhile(&self, injector: &FaultInjector) {
        let Some(index) = injector.conflict().and_then(|call| call.checked_sub(1)) else { return };
        let calls = injector.calls();
        let Some(GuestCall::Get { key }) = calls.get(index).map(|record| &record.call) else { return };
        if let Some(value) = self.context.others_state.get().and_then(|state| state.get(key)) {
            self.outbox.write_state(key, value);
        }
    }

    /// Settles an attempt. Returns the conflict, if another attempt changed the state that this one read.
    fn settle(&self, claim: &InMemoryClaim, report: AttemptReport) -> Option<Failure> {
        let trace = AttemptTrace { maybe_executed: report.maybe_executed, handler_digest: None };
        let circumstances = Circumstances { draw: 1.0, others_fail_too: false };
        let decide = |outcome| settlement_for(outcome, &claim.item, &self.served_type, circumstances);
        match self.outbox.settle(claim, &decide(report.outcome), trace) {
            Ok(()) | Err(SettleError::ClaimLost) => None,
            Err(SettleError::StateConflict(key)) => {
                let failure =
                    Failure::new(FailureClass::Conflict, "state.conflict", format!("{key:?} was changed meanwhile"));
                // The claim is still valid: the outbox checks it before the state, and no other attempt runs now.
                let _ = self.outbox.settle(claim, &decide(Outcome::Failed(failure.clone())), trace);
                Some(failure)
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
            attempts: std::mem::take(&mut notes.attempts),
            snapshot: self.outbox.snapshot(),
            receivers: self.receivers.lock().unwrap_or_else(PoisonError::into_inner).clone(),
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

    /// The last attempt that failed, with its number.
    pub(crate) fn last_failed(&self) -> Option<(u32, &PlayedAttempt, &Failure)> {
        let mut attempts = self.attempts.iter().rev();
        attempts.find_map(|(number, attempt)| Some((*number, attempt, attempt.failure.as_ref()?)))
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
