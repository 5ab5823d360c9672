//! One run: an item is delivered until it is settled for good, while a schedule goes wrong.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::case::{Case, NOW};
use super::outbox::{NotSettled, OneClaim, OneItem, Rows};
use super::receivers::Town;
use super::schedule::{Point, Schedule, Step};
use super::stage::Stage;
use crate::handler::{Outcome, Report, Service};
use crate::item::{Class, Failure, Status};
use crate::plugin::lab::{Call, Ending, Subject, Take};
use crate::retry::RetryPolicy;
use crate::worker;

/// An item that is not settled after so many deliveries never will be.
const DELIVERIES_MAX: u32 = 40;

/// What all runs of a case have in common.
pub(super) struct Setting {
    pub(super) subject: Subject,
    /// The component as it is after a reload.
    pub(super) reloaded: Subject,
    pub(super) case: Case,
    pub(super) before: BTreeMap<String, Vec<u8>>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(super) struct Played {
    /// What the first attempt called.
    pub(super) calls: Vec<Call>,
    /// What is stored in the end.
    pub(super) rows: Rows,
    /// What receivers have in the end.
    pub(super) town: Town,
    /// The last failure of an attempt.
    pub(super) failure: Option<Failure>,
    /// Whether everything of the schedule came to pass.
    pub(super) is_whole: bool,
}

/// One run.
struct Run {
    setting: Arc<Setting>,
    schedule: Schedule,
    service: Service,
    outbox: Arc<OneItem>,
    town: Arc<Mutex<Town>>,
    /// Moves clocks and dice from run to run, where nothing else does.
    shift: u64,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    calls: Vec<Call>,
    failure: Option<Failure>,
    reached: usize,
}

/// Plays a schedule to its end. `shift` tells runs apart that differ in nothing but time and chance.
pub(super) fn play(setting: &Arc<Setting>, schedule: &Schedule, shift: u64) -> Played {
    let case = &setting.case;
    let run = Arc::new(Run {
        service: service(setting),
        outbox: Arc::new(OneItem::new(case.new_item(), setting.before.clone(), NOW)),
        town: Arc::new(Mutex::new(Town::new(schedule.receivers, case.answer.clone()))),
        setting: Arc::clone(setting),
        schedule: schedule.clone(),
        shift,
        notes: Mutex::default(),
    });
    run.deliver();
    run.played()
}

fn service(setting: &Setting) -> Service {
    Service {
        item_type: setting.case.item.r#type.clone(),
        timeout: None,
        retry: setting.subject.retry(RetryPolicy::default()),
        concurrency: None,
        rate: None,
        on_dead: setting.subject.on_dead(),
        breaker: None,
    }
}

impl Run {
    /// Delivers the item until it is finished.
    fn deliver(self: &Arc<Self>) {
        while let Some(claim) = self.outbox.claim(&self.service) {
            self.attempt(&claim);
            if claim.item.deliveries >= DELIVERIES_MAX {
                return;
            }
        }
    }

    /// Makes an attempt and settles it, unless the schedule has it end otherwise.
    fn attempt(self: &Arc<Self>, claim: &OneClaim) {
        let delivery = claim.item.deliveries;
        let steps = &self.schedule.steps;
        let index = usize::try_from(delivery - 1).unwrap_or(usize::MAX);
        let step = steps.get(index).copied();
        let is_reloaded = steps.iter().take(index).any(|step| matches!(step, Step::Reload(_)));
        let run = Arc::clone(self);
        let stage = Arc::new(Stage::new(Arc::clone(&self.town), delivery, step, Box::new(move || run.meanwhile())));
        let subject = if is_reloaded { &self.setting.reloaded } else { &self.setting.subject };
        let ending = block_on(subject.run(self.take(claim, &stage)));
        self.end(claim, &stage, ending);
        self.note(|notes| {
            notes.reached += usize::from(stage.is_reached());
            if delivery == 1 {
                notes.calls = stage.calls();
            }
        });
    }

    fn take(&self, claim: &OneClaim, stage: &Arc<Stage>) -> Take {
        let seed = u64::from(claim.item.deliveries) + self.shift * 1_000;
        let shift = i64::try_from(self.shift).unwrap_or(0) * 3_723_456;
        Take {
            item: claim.item.clone(),
            world: Arc::clone(stage) as _,
            state: Arc::clone(&self.outbox) as _,
            now: claim.item.claimed_at.unwrap_or_default() + shift,
            seed,
        }
    }

    fn end(&self, claim: &OneClaim, stage: &Stage, ending: Ending) {
        let Ending::Reported(report) = ending else { return self.outbox.expire() };
        if stage.reach(Point::Return) == ControlFlow::Break(()) {
            return self.outbox.expire();
        }
        if let Outcome::Failed(failure) = &report.outcome {
            self.note(|notes| notes.failure = Some(failure.clone()));
        }
        self.settle(claim, report);
        // Whoever dies after the commit leaves nothing to deliver again.
        let _ = stage.reach(Point::Commit);
    }

    fn settle(&self, claim: &OneClaim, report: Report) {
        let maybe_executed = report.maybe_executed;
        let decide = |outcome| worker::settlement(outcome, &claim.item, &self.service, 1.0);
        match self.outbox.settle(claim, &decide(report.outcome), maybe_executed) {
            Ok(()) | Err(NotSettled::ClaimLost) => {}
            Err(NotSettled::StateConflict(key)) => {
                let failure = Failure::new(Class::Conflict, "state.conflict", format!("{key:?} was changed meanwhile"));
                // The claim was the attempt's a moment ago, and nobody else is there to take it.
                let _ = self.outbox.settle(claim, &decide(Outcome::Failed(failure)), maybe_executed);
            }
        }
    }

    /// While an attempt stands still its lease ends, and others run. They have a thread of their own,
    /// since this one is in the midst of the attempt.
    fn meanwhile(self: &Arc<Self>) {
        let run = Arc::clone(self);
        let others = std::thread::spawn(move || {
            run.outbox.expire();
            run.deliver();
        });
        // A panic there is told when the run is compared: nothing is settled then.
        drop(others.join());
    }

    fn note(&self, write: impl FnOnce(&mut Notes)) {
        write(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn played(&self) -> Played {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        Played {
            calls: std::mem::take(&mut notes.calls),
            rows: self.outbox.rows(),
            town: self.town.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            failure: notes.failure.take(),
            is_whole: notes.reached == self.schedule.steps.len(),
        }
    }
}

impl Played {
    /// Whether the item's effect is done.
    pub(super) fn is_done(&self) -> bool {
        self.rows.item.status == Status::Done
    }

    /// Whether nothing more will happen to the item.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.rows.item.status, Status::Done | Status::Dlq)
    }
}

thread_local! {
    static RUNTIME: std::io::Result<tokio::runtime::Runtime> =
        tokio::runtime::Builder::new_current_thread().enable_all().build();
}

/// Runs an attempt on this thread alone, so that nothing in it depends on how threads are scheduled.
fn block_on(attempt: impl Future<Output = Ending>) -> Ending {
    RUNTIME.with(|runtime| match runtime {
        Ok(runtime) => runtime.block_on(attempt),
        Err(_) => Ending::Crashed,
    })
}
