//! A request for each problem of each route, which meets it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use outbox::core::{Failure, FailureClass, Outcome};
use outbox::http::{AccessSettings, HttpSettings, Right, Role};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::super::HttpResponse;
use super::Operation;
use super::scene::{Scene, example_body, example_path, example_request, request_to, settings, token_of};

/// The host on which each problem is met. A request that meets a problem changes nothing, so one host serves all routes.
#[derive(Default)]
pub(super) struct Hosts(HashMap<String, Scene>);

/// Problems after which another host is needed, because there are failed attempts to log in, items or streams.
const LEAVING_TRACES: [&str; 4] = ["unauthorized", "conflict", "inline-failed", "too-many-streams"];

impl Hosts {
    /// A request that meets the problem, and its answer.
    pub(super) async fn provoke(&mut self, operation: &Operation, word: &str) -> HttpResponse {
        if LEAVING_TRACES.contains(&word) {
            self.0.remove(word);
        }
        if !self.0.contains_key(word) {
            let is_scanned = word != "not-ready";
            let scene = Scene::with(unusual(word).unwrap_or_else(settings), is_scanned).await;
            self.0.insert(word.to_owned(), scene);
        }
        provoke(&self.0[word], operation, word).await
    }
}

async fn provoke(scene: &Scene, operation: &Operation, word: &str) -> HttpResponse {
    let admin = token_of(Role::Admin);
    if unusual(word).is_some() {
        return in_unusual_host(scene, operation, word, &admin).await;
    }
    match word {
        "unauthorized" | "too-many-attempts" => unknown_caller(scene, operation, word).await,
        "forbidden" => {
            let right = operation.right().unwrap_or(Right::Read);
            let role = Role::ALL.into_iter().find(|role| !role.rights().has(right)).unwrap();
            scene.send(example_request(operation), Some(&token_of(role))).await
        }
        "cross-site" => scene.send(of_another_site(scene, operation).await, None).await,
        "store-unavailable" => {
            if scene.host.folder.file().exists() {
                std::fs::remove_file(scene.host.folder.file()).unwrap();
            }
            scene.send(example_request(operation), Some(&admin)).await
        }
        "too-many-streams" => one_stream_more(scene, operation, &admin).await,
        "conflict" => other_content(scene, operation, &admin).await,
        _ => scene.send(wrong_request(operation, word), Some(&admin)).await,
    }
}

async fn one_stream_more(scene: &Scene, operation: &Operation, token: &str) -> HttpResponse {
    let stream = || {
        let mut request = request_to(operation, &[], "/signals", "");
        request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    let mut open = Vec::new();
    for _ in 0..512 {
        open.push(scene.host.router.clone().oneshot(stream()).await.unwrap());
    }
    scene.host.send(stream()).await
}

/// A second write under the key of the first.
async fn other_content(scene: &Scene, operation: &Operation, token: &str) -> HttpResponse {
    let keys = [("idempotency-key", "k"), ("x-correlation-id", "c")];
    let keyed = |body: &str| request_to(operation, &keys, &example_path(operation), body);
    let first = example_body(operation);
    let mut other: Value = serde_json::from_str(&first).unwrap();
    other["payload"] = json!({ "other": 1 });
    assert_eq!(scene.send(keyed(&first), Some(token)).await.status, 202);
    scene.send(keyed(&other.to_string()), Some(token)).await
}

/// The settings of a host on which alone the problem is met.
fn unusual(word: &str) -> Option<HttpSettings> {
    let usual = settings();
    match word {
        "wrong-host" => Some(HttpSettings { access: AccessSettings::default(), ..usual }),
        "too-large" => Some(HttpSettings { max_body: 64, ..usual }),
        "slow-body" => Some(HttpSettings { body_timeout: Duration::from_millis(1), ..usual }),
        "missing-headers" => Some(HttpSettings { is_strict: true, ..usual }),
        "too-many-pending" => Some(HttpSettings { max_pending: Some(1), ..usual }),
        "unserved" | "inline-failed" => Some(HttpSettings { is_durable: false, ..usual }),
        "not-ready" => Some(usual),
        _ => None,
    }
}

async fn in_unusual_host(scene: &Scene, operation: &Operation, word: &str, admin: &str) -> HttpResponse {
    let path = example_path(operation);
    let request = match word {
        "wrong-host" => {
            let mut request = example_request(operation);
            request.headers_mut().insert("host", "evil.example".parse().unwrap());
            request
        }
        "too-large" => request_to(operation, &[], &path, &format!("{{\"a\":\"{}\"}}", "a".repeat(5_000))),
        "slow-body" => {
            let endless = futures_util::stream::pending::<Result<Bytes, Infallible>>();
            example_request(operation).map(|_| Body::from_stream(endless))
        }
        "inline-failed" => {
            for item_type in ["mail", "crm", "vector_upsert", "belief_recompute"] {
                let failure = Failure::new(FailureClass::Permanent, "address.unknown", "nobody there");
                scene.host.handler.answers(item_type, Outcome::Failed(failure));
            }
            example_request(operation)
        }
        _ => example_request(operation),
    };
    scene.send(request, Some(admin).filter(|_| word != "wrong-host")).await
}

async fn unknown_caller(scene: &Scene, operation: &Operation, word: &str) -> HttpResponse {
    let is_login = operation.id() == "login";
    let guess = || {
        if is_login { request_to(operation, &[], "/login", r#"{"token":"guess"}"#) } else { example_request(operation) }
    };
    let given = if is_login { None } else { Some("guess") };
    let mut answer = scene.send(guess(), given).await;
    for _ in 0..if word == "unauthorized" { 0 } else { 10 } {
        answer = scene.send(guess(), given).await;
    }
    answer
}

async fn of_another_site(scene: &Scene, operation: &Operation) -> Request<Body> {
    let login = super::super::post("/login", &[], r#"{"token":"admin-token"}"#);
    let session = scene.send(login, None).await;
    let cookie = session.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let headers = [("cookie", cookie.as_str()), ("sec-fetch-site", "cross-site")];
    request_to(operation, &headers, &example_path(operation), &example_body(operation))
}

/// A request with the mistake that the problem is about.
fn wrong_request(operation: &Operation, word: &str) -> Request<Body> {
    let (path, body) = (example_path(operation), example_body(operation));
    let send = |path: &str, body: &str| request_to(operation, &[], path, body);
    match word {
        "wrong-content-type" => {
            let mut request = send(&path, &body);
            request.headers_mut().insert("content-type", "text/plain".parse().unwrap());
            request
        }
        "invalid-json" => send(&path, "{"),
        "malformed-header" => {
            request_to(operation, &[("idempotency-key", "a"), ("idempotency-key", "b")], &path, &body)
        }
        "no-item" => send(&operation.path.replace("{id}", "none-such"), &body),
        "no-job" => send(&operation.path.replace("{id}", "99"), &body),
        "unknown-saga" => send("/sagas/Onbording", &body),
        "refused" => send(&operation.path.replace("{id}", unfit_item(operation)), &body),
        "confirmation-needed" => matching(operation, &json!({ "status": [taken_status(operation)] })),
        "unknown-name" if operation.path.starts_with("/items:") => {
            matching(operation, &json!({ "status": [taken_status(operation)], "type": "none-such" }))
        }
        "unknown-name" => send(&operation.path.replace("{type}", "none-such").replace("{key}", "none-such"), "{}"),
        "invalid-item" => invalid_item(operation, &path),
        "invalid-request" => invalid_request(operation, &path),
        other => panic!("no request meets {other}"),
    }
}

/// The action on all items that the filter lets through.
fn matching(operation: &Operation, filter: &Value) -> Request<Body> {
    let mut order = json!({ "filter": filter });
    match operation.id() {
        "release_items" if filter.get("type").is_none() => order["force"] = json!(true),
        "reschedule_items" => order["delay_ms"] = json!(0),
        _ => {}
    }
    request_to(operation, &[], &operation.path, &order.to_string())
}

/// A status whose items can take the action.
fn taken_status(operation: &Operation) -> &'static str {
    match operation.id().split('_').next().unwrap() {
        "dead" | "reschedule" => "PENDING",
        "release" => "CLAIMED",
        "restore" => "DLQ",
        _ => "DONE",
    }
}

/// An item that cannot take the action.
fn unfit_item(operation: &Operation) -> &'static str {
    match operation.id().split('_').next().unwrap() {
        "replay" | "release" => "2",
        "dead" => "4",
        _ => "1",
    }
}

fn invalid_item(operation: &Operation, path: &str) -> Request<Body> {
    let send = |path: &str, body: &str| request_to(operation, &[], path, body);
    match operation.id() {
        "list_items" | "list_failures" => send(&format!("{path}?key_prefix="), ""),
        "enqueue" => send(path, r#"{"type":"Capital","payload":1}"#),
        "write_memory" | "start_saga" => {
            request_to(operation, &[("idempotency-key", &"k".repeat(255))], path, &example_body(operation))
        }
        "pause_type" | "resume_type" => send(&operation.path.replace("{type}", "Capital"), r#"{"force":true}"#),
        "unblock_key" | "pause_key" | "resume_key" => {
            send(&operation.path.replace("{key}", "%C3%BC"), r#"{"force":true}"#)
        }
        _ => matching(operation, &json!({ "status": [taken_status(operation)], "key_prefix": "" })),
    }
}

fn invalid_request(operation: &Operation, path: &str) -> Request<Body> {
    let send = |path: &str, body: &str| request_to(operation, &[], path, body);
    match operation.id() {
        "write_memory" | "start_saga" => send(path, "[1]"),
        "show_item" => send("/items/%FF", ""),
        "pause_type" | "resume_type" => send(&operation.path.replace("{type}", "%FF"), "{}"),
        "pause_key" | "resume_key" | "unblock_key" => send(&operation.path.replace("{key}", "%FF"), "{}"),
        "show_job" | "cancel_job" => send(&operation.path.replace("{id}", "x"), &example_body(operation)),
        "enqueue" | "login" => {
            let media_type =
                if operation.id() == "login" { "application/x-www-form-urlencoded" } else { "application/x-ndjson" };
            let mut request = send(path, "\n");
            request.headers_mut().insert("content-type", media_type.parse().unwrap());
            request
        }
        _ if operation.method == "GET" => send(&format!("{path}?colour=red"), ""),
        _ if operation.path.starts_with("/items:") => send(path, "{}"),
        _ => send(path, r#"{"ids":[1],"delay_ms":0}"#),
    }
}
