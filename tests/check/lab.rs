//! The simulation of a handler: which parts are real and which are simulated.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outbox::check::InMemoryOutbox;
use outbox::core::{AttemptReport, Failure, FailureClass, Outcome};
use outbox::item::{Item, ItemId, NewItem, Status};
use outbox::runtime::simulation::{
    AttemptEnd, GuestCall, OutgoingRequest, SimulatedAttempt, SimulatedWorld, Simulator, WorldResponse,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::START;
use crate::support::guests::{CHAOS_GRANTS, chaos, install};

/// A simulated world that gives the same answer to every request, records all calls, and ends the attempt at one call.
struct Town {
    answer: WorldResponse,
    fatal: Option<&'static str>,
    heard: Mutex<Vec<String>>,
    requests: Mutex<Vec<OutgoingRequest>>,
}

impl Town {
    fn new(answer: WorldResponse, fatal: Option<&'static str>) -> Arc<Self> {
        Arc::new(Self { answer, fatal, heard: Mutex::default(), requests: Mutex::default() })
    }

    fn hear(&self, what: String) -> ControlFlow<()> {
        let is_fatal = self.fatal == Some(what.as_str());
        self.heard.lock().unwrap().push(what);
        if is_fatal { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

impl SimulatedWorld for Town {
    fn before_call(&self, call: &GuestCall) -> ControlFlow<()> {
        self.hear(format!("before {call}"))
    }

    fn respond(&self, request: &OutgoingRequest) -> WorldResponse {
        self.requests.lock().unwrap().push(request.clone());
        self.answer.clone()
    }

    fn after_call(&self, call: &GuestCall) -> ControlFlow<()> {
        self.hear(format!("after {call}"))
    }
}

fn ok() -> WorldResponse {
    WorldResponse::Response { status: 200, headers: Vec::new(), body: Vec::new() }
}

/// The chaos handler, compiled once for all tests.
async fn simulator() -> &'static Simulator {
    static SIMULATOR: OnceCell<Simulator> = OnceCell::const_new();
    let open = async || {
        let dir = tempfile::tempdir().unwrap();
        let secret = "secrets = [{ env = 'TOKEN', header = 'authorization' }]";
        install(&chaos(1), &format!("{CHAOS_GRANTS}\n{secret}"), dir.path(), "chaos");
        Simulator::open(&dir.path().join("chaos.wasm"), None).await.unwrap()
    };
    SIMULATOR.get_or_init(open).await
}

async fn run(order: Value, town: &Arc<Town>) -> AttemptEnd {
    let environment = |name: &str| match name {
        "VECTOR_URL" => Some("http://granted.test".to_owned()),
        name => (name == "TOKEN").then(|| "hush".to_owned()),
    };
    let plugin = simulator().await.plugin(&(Arc::new(environment) as _), BTreeMap::new()).await.unwrap();
    let new = NewItem { cid: Some("c".into()), ..NewItem::new("chaos", "key", order.to_string()) };
    let item = Item { status: Status::Claimed, attempts: 1, ..new.clone().into_item(ItemId::new(1), START) };
    let state = Arc::new(InMemoryOutbox::new(new, BTreeMap::new(), START));
    plugin.run(SimulatedAttempt { item, world: Arc::clone(town) as _, state, now: START, seed: 1 }).await
}

fn failure(ending: AttemptEnd) -> Failure {
    match ending {
        AttemptEnd::Reported(AttemptReport { outcome: Outcome::Failed(failure), .. }) => failure,
        other => panic!("it did not fail: {other:?}"),
    }
}

fn http(url: &str, more: &Value) -> Value {
    let mut order = json!({ "do": "http", "url": url });
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    order
}

#[tokio::test]
async fn a_guest_that_sleeps_has_slept_at_once() {
    let begun = Instant::now();
    let town = Town::new(ok(), None);
    let ending = run(json!({ "do": "sleep", "ms": 50_000 }), &town).await;
    assert!(matches!(ending, AttemptEnd::Reported(AttemptReport { outcome: Outcome::Done { .. }, .. })), "{ending:?}");
    let ending = run(json!({ "do": "sleep", "ms": 60_000 }), &town).await;
    assert_eq!(failure(ending).class, FailureClass::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(40));
}

#[tokio::test]
async fn what_is_not_granted_is_denied_and_the_world_does_not_hear_of_it() {
    let town = Town::new(ok(), None);
    let failure = failure(run(http("http://elsewhere.test/", &json!({})), &town).await);
    assert_eq!(failure.class, FailureClass::Denied);
    assert!(failure.message.contains("http://elsewhere.test"), "{}", failure.message);
    assert_eq!(town.heard(), [""; 0]);
}

#[tokio::test]
async fn requests_bear_the_keys_of_the_host_and_no_secrets() {
    let town = Town::new(ok(), None);
    run(http("http://granted.test/a", &json!({ "effect": "one", "headers": { "x-a": "b" } })), &town).await;
    let request = town.requests.lock().unwrap().pop().unwrap();
    assert_eq!(request.key.as_deref(), Some("key/one"));
    assert_eq!(request.headers, [("x-a".to_owned(), "b".to_owned())]);
}

#[tokio::test]
async fn silence_ends_with_the_timeout_of_the_guest_or_else_with_its_deadline() {
    let town = Town::new(WorldResponse::Silence, None);
    let ended = failure(run(http("http://granted.test/a", &json!({ "timeout_ms": 500 })), &town).await);
    assert_eq!((ended.class, ended.code.as_str()), (FailureClass::Retryable, "upstream.timeout"));
    let ended = failure(run(http("http://granted.test/a", &json!({})), &town).await);
    assert_eq!((ended.class, ended.code.as_str()), (FailureClass::Timeout, "plugin.timeout"));
    assert!(ended.message.contains("a request had gone out"), "{}", ended.message);
}

#[tokio::test]
async fn a_request_that_vanishes_is_told_as_a_timeout_and_was_not_sent_if_there_was_no_connection() {
    let town = Town::new(WorldResponse::Vanished, None);
    let report = |ending| match ending {
        AttemptEnd::Reported(report) => (report.maybe_executed, failure(AttemptEnd::Reported(report)).code),
        AttemptEnd::Crashed => panic!("it crashed"),
    };
    let ended = report(run(http("http://granted.test/a", &json!({ "timeout_ms": 500 })), &town).await);
    assert_eq!(ended, (true, "upstream.timeout".to_owned()));
    let ended = report(run(http("http://granted.test/a", &json!({})), &town).await);
    assert_eq!(ended, (false, "upstream.timeout".to_owned()));
}

#[tokio::test]
async fn a_crash_ends_the_attempt_before_or_after_the_effect_of_any_call() {
    let order = json!({ "do": "sequence", "steps": [
        http("http://granted.test/a", &json!({})),
        { "do": "state_put", "key": "k", "value": 1 },
        { "do": "emit", "type": "chaos_other" },
    ]});
    let all = [
        "before POST http://granted.test/a",
        "after POST http://granted.test/a",
        "before state put k",
        "after state put k",
        "before emit chaos_other",
        "after emit chaos_other",
    ];
    for (index, fatal) in all.into_iter().enumerate() {
        let town = Town::new(ok(), Some(fatal));
        assert_eq!(run(order.clone(), &town).await, AttemptEnd::Crashed, "{fatal}");
        assert_eq!(town.heard(), all[..=index]);
        assert_eq!(town.requests.lock().unwrap().len(), usize::from(index > 0), "{fatal}");
    }
}
