//! A host with something of everything, on which the examples of the document are tried.
//!
//! Item 1 is dead and blocks the key `order-7`, item 2 waits, item 3 is claimed, item 4 is done, and item 5 was
//! dead-lettered by an operator. The type and the
//! fairness key of item 6 are paused, and job 1 is running.

use axum::body::Body;
use axum::http::Request;
use outbox::core::saga::SagaDefinition;
use outbox::http::{AccessSettings, HostStatus, HttpSettings, NamedToken, Role};
use outbox::item::Status;
use outbox::store::{
    Action, AuditQuery, Control, ControlRequest, EffectKeys, Execution, Filter, Inspect as _, JobPace, Operate as _,
    OperateRequest, Selection,
};
use serde_json::{Map, Value, json};

use super::super::{HttpFixture, HttpResponse, request};
use super::Operation;
use crate::support::guests::root;

/// The text of the token of a role.
pub(super) fn token_of(role: Role) -> String {
    format!("{role}-token")
}

/// A host, and what its operators had done before the test.
pub(super) struct Scene {
    pub(super) host: HttpFixture,
    newest: Option<i64>,
}

/// The settings of a host with a token for each role.
pub(super) fn settings() -> HttpSettings {
    let token = |role: Role| NamedToken { name: format!("the-{role}"), role, ..NamedToken::admin(&token_of(role)) };
    let access = AccessSettings { tokens: Role::ALL.map(token).to_vec(), ..AccessSettings::default() };
    let onboarding = SagaDefinition { name: "Onboarding".into(), steps: vec!["mail".into(), "crm".into()] };
    let sagas = vec![SagaDefinition::write_memory(), onboarding];
    HttpSettings { is_durable: true, access, sagas, metrics_store: true, ..HttpSettings::default() }
}

impl Scene {
    /// A host with a token for each role.
    pub(super) async fn closed() -> Self {
        Self::with(settings(), true).await
    }

    pub(super) async fn with(settings: HttpSettings, is_scanned: bool) -> Self {
        let status = HostStatus { is_scanned, ..HostStatus::default() };
        let host = HttpFixture::with_status(settings, status);
        seed(&host).await;
        let mut scene = Self { host, newest: None };
        scene.newest = scene.entries().await.first().map(|(seq, _)| *seq);
        scene
    }

    pub(super) async fn send(&self, mut request: Request<Body>, token: Option<&str>) -> HttpResponse {
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        self.host.send(request).await
    }

    async fn entries(&self) -> Vec<(i64, String)> {
        let entries = self.host.store.audit(&AuditQuery::default()).await.unwrap();
        entries.into_iter().map(|entry| (entry.seq, entry.actor)).collect()
    }

    /// Who did the newest thing since the test began.
    pub(super) async fn newest_actor(&self) -> Option<String> {
        let newer = |(seq, _): &(i64, String)| Some(*seq) > self.newest;
        self.entries().await.into_iter().find(newer).map(|(_, actor)| actor)
    }
}

async fn seed(host: &HttpFixture) {
    let items = [
        json!({ "type": "mail", "idem_key": "mail-1", "payload": { "to": "Ada" }, "ordering_key": "order-7", "fairness_key": "acme" }),
        json!({ "type": "sms", "idem_key": "sms-2", "payload": { "to": "Ada" } }),
        json!({ "type": "webhook", "idem_key": "webhook-3", "payload": {} }),
        json!({ "type": "report", "idem_key": "report-4", "payload": {} }),
        json!({ "type": "letter", "idem_key": "letter-5", "payload": {} }),
        json!({ "type": "fax", "idem_key": "fax-6", "payload": {}, "fairness_key": "late" }),
    ];
    let new = |item: &Value| {
        let document: outbox::item::ItemDocument = serde_json::from_value(item.clone()).unwrap();
        document.into_new_item("unused").unwrap()
    };
    let mode = outbox::store::BatchMode::AllOrNothing;
    outbox::store::Enqueue::enqueue(&*host.store, items.iter().map(new).collect(), mode).await.unwrap();
    host.dead_letter("mail").await;
    host.claim("webhook").await;
    host.complete("report").await;
    let dead = Action::Dead { on_dead: outbox::core::OnDead::Block, lease: outbox::store::LeasePolicy::Respect };
    let order = |action, selection| OperateRequest {
        action,
        selection,
        actor: "ops@desk".into(),
        reason: Some("an example".into()),
        execution: Execution::Apply,
    };
    host.store.operate(&order(dead, Selection::Ids(vec![5.into()]))).await.unwrap();
    for control in
        [Control::Pause { item_type: "fax".into() }, Control::PauseKey { fairness_key: "late".into(), item_type: None }]
    {
        let (actor, reason) = ("ops@desk".into(), Some("an example".into()));
        let pause = ControlRequest { control, actor, reason, execution: Execution::Apply };
        host.store.control(&pause).await.unwrap();
    }
    let filter = Filter { status: vec![Status::Dlq], ..Filter::default() };
    let replay = order(Action::Replay { keys: EffectKeys::Same }, Selection::Filter(filter));
    host.store.start_job(&replay, JobPace::per_second(1)).await.unwrap();
}

/// The request that the document shows as an example.
pub(super) fn example_request(operation: &Operation) -> Request<Body> {
    let path = example_path(operation) + &example_query(operation);
    request_to(operation, &[], &path, &example_body(operation))
}

/// The same with other headers, another path or another body.
pub(super) fn request_to(operation: &Operation, headers: &[(&str, &str)], path: &str, body: &str) -> Request<Body> {
    let mut sent = request(&operation.method, path, &[("accept", "application/json")], body);
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().unwrap();
        sent.headers_mut().append(name, value.parse().unwrap());
    }
    sent
}

/// The path with the example of each parameter.
pub(super) fn example_path(operation: &Operation) -> String {
    let parameters = operation.about["parameters"].as_array().into_iter().flatten();
    parameters.filter(|parameter| parameter["in"] == "path").fold(operation.path.clone(), |path, parameter| {
        let (name, example) = (parameter["name"].as_str().unwrap(), parameter["example"].as_str().unwrap());
        path.replace(&format!("{{{name}}}"), example)
    })
}

/// The query of the example: parameters of which the document shows one.
pub(super) fn example_query(operation: &Operation) -> String {
    let parameters = operation.about["parameters"].as_array().into_iter().flatten();
    let shown = parameters.filter(|parameter| parameter["in"] == "query" && !parameter["example"].is_null());
    let pairs = shown.map(|parameter| format!("{}={}", parameter["name"].as_str().unwrap(), parameter["example"]));
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() { query } else { format!("?{query}") }
}

pub(super) fn example_body(operation: &Operation) -> String {
    let example = &operation.about["requestBody"]["content"]["application/json"]["example"];
    if example.is_null() { String::new() } else { example.to_string() }
}

/// Keeps the answers as the examples of the document.
pub(super) fn write_examples(answers: &Map<String, Value>) {
    let file = root().join("host/http/src/description/examples.json");
    let mut examples: Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    for (id, answer) in answers {
        let example = examples.entry(id).or_insert_with(|| json!({}));
        example["status"] = answer["status"].clone();
        example["response"] = answer["response"].clone();
    }
    std::fs::write(&file, serde_json::to_string_pretty(&examples).unwrap() + "\n").unwrap();
}
