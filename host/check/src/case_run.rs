//! Runs the one attempt of a case against the answers of the case, and collects what the handler did.
//!
//! It does not know what the case expects.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use outbox_core::{AttemptReport, Failure, HostWrites, Outcome, StateChange};
use outbox_item::NewItem;
use outbox_runtime::simulation::{
    AttemptEnd, GuestCall, OutgoingRequest, SimulatedAttempt, SimulatedPlugin, SimulatedWorld, WorldResponse,
};

use crate::case::{Case, NOW};
use crate::in_memory_outbox::InMemoryOutbox;
use crate::script::Script;

/// What a handler did in the attempt of a case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CaseOutcome {
    /// `done`, the class of the failure, or `stopped`.
    pub(crate) outcome: &'static str,
    pub(crate) failure: Option<Failure>,
    pub(crate) result: Option<Vec<u8>>,
    /// All requests, in order.
    pub(crate) requests: Vec<OutgoingRequest>,
    /// The requests for which the case has no answer, as `METHOD URL`.
    pub(crate) unanswered: Vec<String>,
    /// All plugin state after the attempt.
    pub(crate) state: BTreeMap<String, Vec<u8>>,
    pub(crate) followups: Vec<NewItem>,
    /// The end of what the handler wrote to its standard error and output.
    pub(crate) stderr: Option<String>,
}

/// The world of a case: it gives the answers of the case and lets every call pass.
struct ScriptedWorld(Mutex<ScriptedState>);

struct ScriptedState {
    script: Script,
    requests: Vec<OutgoingRequest>,
    unanswered: Vec<String>,
}

impl SimulatedWorld for ScriptedWorld {
    fn before_call(&self, _: &GuestCall) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn respond(&self, request: &OutgoingRequest) -> WorldResponse {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(request.clone());
        if let Some(number) = state.script.find(request) {
            return state.script.give(number);
        }
        state.unanswered.push(format!("{} {}", request.method, request.url));
        WorldResponse::Refused
    }

    fn after_call(&self, _: &GuestCall) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Runs the attempt of a case.
pub(crate) async fn run_case(plugin: &SimulatedPlugin, case: &Case) -> CaseOutcome {
    let state =
        ScriptedState { script: Script::new(case.answer.clone()), requests: Vec::new(), unanswered: Vec::new() };
    let world = Arc::new(ScriptedWorld(Mutex::new(state)));
    let initial_state = case.initial_state();
    let attempt = SimulatedAttempt {
        item: case.claimed_item(),
        world: Arc::clone(&world) as Arc<dyn SimulatedWorld>,
        state: Arc::new(InMemoryOutbox::new(case.new_item(), initial_state.clone(), NOW)),
        now: NOW,
        seed: 1,
    };
    let ending = plugin.run(attempt).await;
    let state = world.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (requests, unanswered) = (state.requests.clone(), state.unanswered.clone());
    let interrupted = CaseOutcome {
        outcome: "stopped",
        failure: None,
        result: None,
        requests,
        unanswered,
        state: initial_state,
        followups: Vec::new(),
        stderr: None,
    };
    match ending {
        AttemptEnd::Reported(report) => interrupted.with_report(report),
        AttemptEnd::Crashed => interrupted,
    }
}

impl CaseOutcome {
    fn with_report(self, report: AttemptReport) -> Self {
        let outcome = Self { stderr: report.stderr, ..self };
        match report.outcome {
            Outcome::Done { result, writes } => outcome.done(result, writes),
            Outcome::Failed(failure) => Self { outcome: failure.class.as_str(), failure: Some(failure), ..outcome },
            Outcome::Interrupted | Outcome::NoHandler => outcome,
        }
    }

    fn done(mut self, result: Option<Vec<u8>>, writes: HostWrites) -> Self {
        for key_change in writes.state {
            match key_change.change {
                StateChange::None => {}
                StateChange::Put(value) => drop(self.state.insert(key_change.key, value)),
                StateChange::Delete => drop(self.state.remove(&key_change.key)),
            }
        }
        Self { outcome: "done", result, followups: writes.followups, ..self }
    }
}
