//! One attempt at a case's item against the answers of the case, and what came of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::case::{Case, NOW};
use super::outbox::OneItem;
use super::script::Script;
use crate::handler::{Outcome, Report};
use crate::item::{Failure, HostWrites, NewItem, StateChange};
use crate::plugin::lab::{Answer, Call, Ending, Request, Subject, Take, World};

/// What a handler did with a case.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// `done`, or the class of the failure.
    pub(super) outcome: String,
    pub(super) failure: Option<Failure>,
    pub(super) result: Option<Vec<u8>>,
    pub(super) requests: Vec<Request>,
    /// Requests that the case has no answer for.
    pub(super) unanswered: Vec<String>,
    /// All that is stored for the plugin afterwards.
    pub(super) state: BTreeMap<String, Vec<u8>>,
    pub(super) followups: Vec<NewItem>,
    /// The last that the handler wrote.
    pub(super) stderr: Option<String>,
}

/// The world of a case: its answers and nothing else.
struct Scripted(Mutex<Stage>);

struct Stage {
    script: Script,
    requests: Vec<Request>,
    unanswered: Vec<String>,
}

impl World for Scripted {
    fn enter(&self, _: &Call) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stage.requests.push(request.clone());
        if let Some(number) = stage.script.find(request) {
            return stage.script.give(number);
        }
        stage.unanswered.push(format!("{} {}", request.method, request.url));
        Answer::Refused
    }

    fn leave(&self, _: &Call) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Makes the attempt that a case is about.
pub(super) async fn rehearse(subject: &Subject, case: &Case) -> Found {
    let stage = Stage { script: Script::new(case.answer.clone()), requests: Vec::new(), unanswered: Vec::new() };
    let world = Arc::new(Scripted(Mutex::new(stage)));
    let before = case.stored_before();
    let take = Take {
        item: case.claimed_item(),
        world: Arc::clone(&world) as Arc<dyn World>,
        state: Arc::new(OneItem::new(case.new_item(), before.clone(), NOW)),
        now: NOW,
        seed: 1,
    };
    let ending = subject.run(take).await;
    let stage = world.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (requests, unanswered) = (stage.requests.clone(), stage.unanswered.clone());
    let nothing = Found {
        outcome: "stopped".to_owned(),
        failure: None,
        result: None,
        requests,
        unanswered,
        state: before,
        followups: Vec::new(),
        stderr: None,
    };
    match ending {
        Ending::Reported(report) => nothing.after(report),
        Ending::Crashed => nothing,
    }
}

impl Found {
    fn after(self, report: Report) -> Self {
        let found = Self { stderr: report.stderr, ..self };
        match report.outcome {
            Outcome::Done { result, writes } => found.done(result, writes),
            Outcome::Failed(failure) => {
                Self { outcome: failure.class.as_str().to_owned(), failure: Some(failure), ..found }
            }
            Outcome::Stopped | Outcome::Unserved => found,
        }
    }

    fn done(mut self, result: Option<Vec<u8>>, writes: HostWrites) -> Self {
        for touch in writes.state {
            match touch.change {
                StateChange::None => {}
                StateChange::Put(value) => drop(self.state.insert(touch.key, value)),
                StateChange::Delete => drop(self.state.remove(&touch.key)),
            }
        }
        Self { outcome: "done".to_owned(), result, followups: writes.followups, ..self }
    }
}
