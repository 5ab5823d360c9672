//! What the history keeps of a failed attempt: its requests and answers, and never a secret.

use std::path::Path;

use axum::Router;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::support::downstream::Pod;
use crate::support::guests;
use crate::support::host::{Host, HostPlan};
use crate::support::stage::becomes;

const TOKEN: &str = "hush-4711";

/// A receiver that repeats what it was sent to whoever asks, as many do in their error documents.
async fn echo() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let repeat = async |headers: HeaderMap| {
        let sent = headers.get("authorization").unwrap().to_str().unwrap().to_owned();
        let token = sent.strip_prefix("Bearer ").unwrap().to_owned();
        ([("x-echo", sent.clone()), ("set-cookie", "session=1".to_owned())], format!("you sent {sent}, so {token}"))
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(repeat)).await });
    url
}

fn manifest(url: &str) -> String {
    format!(
        r#"
[grant]
state = true
emit = ["chaos_other"]
[[grant.http]]
origin = "{url}"
secrets = [{{ env = "TOKEN", header = "authorization", template = "Bearer {{}}" }}]
[limits]
state_bytes = "1000B"
[retry]
max_retries = 0
"#
    )
}

/// A host with the chaos handler, which may call this receiver.
async fn host(url: &str) -> (tempfile::TempDir, HostPlan, Host) {
    let dir = tempfile::tempdir().unwrap();
    guests::install(&guests::chaos(1), &manifest(url), &dir.path().join("plugins.d"), "chaos");
    let plan = HostPlan::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path()).set("TOKEN", TOKEN);
    let host = plan.start("serve").await;
    (dir, plan, host)
}

fn enqueue(plan: &HostPlan, key: &str, payload: &Value) -> i64 {
    let payload = payload.to_string();
    plan.json(&["enqueue", "--type", "chaos", "--key", key, "--payload", &payload, "--json"])["ids"][0]
        .as_i64()
        .unwrap()
}

fn call(url: &str, more: &Value) -> Value {
    let mut order = json!({ "do": "http", "url": url });
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    order
}

#[tokio::test]
async fn the_requests_of_a_failed_attempt_are_kept_with_their_answers_and_without_secrets() {
    let url = echo().await;
    let (_dir, plan, host) = host(&url).await;
    let named = json!({ "body": "{\"n\":1}", "effect": "mail", "headers": { "x-own": "v", "cookie": "mine" } });
    let steps = [call(&format!("{url}/a?b=1"), &named), json!({ "do": "reject" })];
    let id = enqueue(&plan, "k", &json!({ "do": "sequence", "steps": steps }));
    let item = becomes(&host, id, "DLQ").await;
    let exchanges = &item["failed_attempts"][0]["exchanges"];
    let [exchange] = &exchanges.as_array().unwrap()[..] else { panic!("one request was sent: {exchanges}") };
    let sent = json!([exchange["method"], exchange["url"], exchange["effect"], exchange["body"]["text"]]);
    assert_eq!(sent, json!(["POST", format!("{url}/a?b=1"), "mail", "{\"n\":1}"]));
    let headers = exchange["headers"].to_string();
    assert!(headers.contains(r#"["x-own","v"]"#) && headers.contains(r#"["cookie","[redacted]"]"#), "{headers}");
    for added in ["idempotency-key", "x-correlation-id", "traceparent", "authorization", "outbox-effect"] {
        assert!(!headers.contains(added), "{added} was added by the host: {headers}");
    }
    let answer = &exchange["answer"];
    assert_eq!(
        (&answer["status"], &answer["body"]["text"]),
        (&json!(200), &json!("you sent [redacted], so [redacted]"))
    );
    assert!(answer["headers"].to_string().contains(r#"["set-cookie","[redacted]"]"#), "{answer}");
    let shown = plan.run(&["show", &id.to_string()]);
    let page = String::from_utf8(shown.stdout).unwrap();
    assert!(page.contains("/a?b=1 (mail)") && page.contains("200, "), "{page}");
    for told in [item.to_string(), page] {
        assert!(!told.contains("hush") && !told.contains("session=1"), "a secret is stored: {told}");
    }
}

#[tokio::test]
async fn what_was_not_answered_is_kept_as_what_the_handler_was_told() {
    let dead = Pod::start().await;
    let url = dead.url();
    let _closed = dead.kill().await;
    let (_dir, plan, host) = host(&url).await;
    let id = enqueue(&plan, "k", &call(&url, &json!({})));
    let exchange = becomes(&host, id, "DLQ").await["failed_attempts"][0]["exchanges"][0].clone();
    assert_eq!(exchange["answer"], json!({ "error": "connection-refused" }));
}

#[tokio::test]
async fn an_attempt_that_the_store_refuses_is_kept_with_its_requests() {
    let url = echo().await;
    let (_dir, plan, host) = host(&url).await;
    // Each value fits the quota, and only the settlement knows that both do not.
    let fill = json!({ "do": "state_fill", "keys": 2, "bytes": 600 });
    let id = enqueue(&plan, "k", &json!({ "do": "sequence", "steps": [call(&url, &json!({})), fill] }));
    let attempt = becomes(&host, id, "DLQ").await["failed_attempts"][0].clone();
    assert_eq!((&attempt["code"], &attempt["exchanges"][0]["answer"]["status"]), (&json!("state.quota"), &json!(200)));
}
