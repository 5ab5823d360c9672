//! The history of a failed attempt keeps its requests and answers but no secrets, and `plugin replay-item` runs a
//! changed handler against it.

use std::path::Path;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

use crate::support::downstream::Downstream;
use crate::support::guests;
use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::becomes;

const TOKEN: &str = "hush-4711";

/// A receiver that repeats the request's credentials in its answer, as many receivers do in error documents.
async fn echo() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let repeat = async |uri: Uri, headers: HeaderMap| {
        let sent = headers.get("authorization").unwrap().to_str().unwrap().to_owned();
        let token = sent.strip_prefix("Bearer ").unwrap().to_owned();
        let status = if uri.path() == "/denied" { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        let headers = [("x-echo", sent.clone()), ("set-cookie", "session=1".to_owned())];
        (status, headers, format!("you sent {sent}, so {token}"))
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

/// A host with the chaos handler, which may call the receiver at `url`.
async fn host(url: &str) -> (tempfile::TempDir, HostConfig, HostProcess) {
    let dir = tempfile::tempdir().unwrap();
    guests::install(&guests::chaos(1), &manifest(url), &dir.path().join("plugins.d"), "chaos");
    let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path()).set("TOKEN", TOKEN);
    let host = plan.start("serve").await;
    (dir, plan, host)
}

fn enqueue(plan: &HostConfig, key: &str, payload: &Value) -> i64 {
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
async fn what_a_handler_says_of_an_answer_is_stored_without_secrets() {
    let url = echo().await;
    let (_dir, plan, host) = host(&url).await;
    let denied = json!({ "do": "http", "url": format!("{url}/denied"), "classify": true });
    let item = becomes(&host, enqueue(&plan, "k", &denied), "DLQ").await;
    let message = item["last_error"].as_str().unwrap();
    assert_eq!(message, "the upstream answered 401: you sent [redacted], so [redacted]");
    assert!(!item.to_string().contains("hush"), "{item}");
}

#[tokio::test]
async fn what_a_handler_returns_keeps_and_emits_is_stored_without_secrets() {
    let url = echo().await;
    let (_dir, plan, host) = host(&url).await;
    let keep = json!({ "do": "state_put", "key": "kept", "value": TOKEN });
    let emit = json!({ "do": "emit", "type": "chaos_other", "payload": TOKEN });
    let order = json!({ "do": "sequence", "steps": [call(&url, &json!({})), keep, emit] });
    let item = becomes(&host, enqueue(&plan, "k", &order), "DONE").await;
    assert_eq!(item["result"][0]["body"], "you sent [redacted], so [redacted]");
    assert_eq!(plan.json(&["plugin", "state", "show", "chaos", "kept", "--json"])["value"], "[redacted]");
    assert_eq!(plan.json(&["show", "k/chaos_other/1", "--json"])["payload"], "[redacted]");
}

#[tokio::test]
async fn what_was_not_answered_is_kept_as_what_the_handler_was_told() {
    let dead = Downstream::start().await;
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
    // Each value fits into the quota; only the settlement finds that both together do not.
    let fill = json!({ "do": "state_fill", "keys": 2, "bytes": 600 });
    let id = enqueue(&plan, "k", &json!({ "do": "sequence", "steps": [call(&url, &json!({})), fill] }));
    let attempt = becomes(&host, id, "DLQ").await["failed_attempts"][0].clone();
    assert_eq!((&attempt["code"], &attempt["exchanges"][0]["answer"]["status"]), (&json!("state.quota"), &json!(200)));
}

/// A dead-lettered item whose handler traps in version 1, between the steps `before` and `after`.
async fn trapped(url: &str, before: &[Value], after: &[Value]) -> (tempfile::TempDir, HostConfig, i64, Value) {
    let (dir, plan, host) = host(url).await;
    let steps = [before, &[json!({ "do": "trap_in", "version": "1" })], after].concat();
    let id = enqueue(&plan, "k", &json!({ "do": "sequence", "steps": steps }));
    let item = becomes(&host, id, "DLQ").await;
    guests::install(&guests::chaos(2), &manifest(url), &dir.path().join("changed"), "chaos");
    (dir, plan, id, item)
}

/// Runs `plugin replay-item` with the changed handler; returns whether it succeeds, and its output.
fn replay(plan: &HostConfig, id: i64, more: &[&str]) -> (bool, Value) {
    let id = id.to_string();
    let args = ["plugin", "replay-item", &id, "--plugin", "changed/chaos.wasm", "--json"];
    let output = plan.run(&[&args, more].concat());
    let told = serde_json::from_slice(&output.stdout);
    (output.status.success(), told.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

#[tokio::test]
async fn a_changed_handler_is_tried_on_a_dead_item_without_touching_the_world() {
    let url = echo().await;
    let state = json!({ "do": "state_put", "key": "a", "value": 7 });
    let emit = json!({ "do": "emit", "type": "chaos_other", "name": "n" });
    let (_dir, plan, id, item) = trapped(&url, &[call(&url, &json!({ "body": "x" }))], &[state, emit]).await;
    let same = plan.run(&["plugin", "replay-item", &id.to_string()]);
    let page = String::from_utf8(same.stdout).unwrap();
    assert_eq!(same.status.code(), Some(1), "the handler in the folder still traps: {page}");
    assert!(page.contains("failed, trap") && page.contains("recorded"), "{page}");
    let (is_well, told) = replay(&plan, id, &[]);
    assert!(is_well, "{told}");
    assert_eq!((&told["ending"]["outcome"], &told["recorded"]["class"]), (&json!("done"), &json!("trap")));
    let request = json!([{ "method": "POST", "url": format!("{url}/"), "answer": "200", "is_recorded": true }]);
    assert_eq!((&told["requests"], &told["divergences"]), (&request, &json!([])));
    assert_eq!(told["state"], json!([{ "key": "a", "put": 7 }]));
    assert_eq!(told["followups"][0]["idem_key"], "k/chaos_other/n");
    assert_eq!(plan.json(&["plugin", "state", "list", "--json"]), json!([]), "nothing is written");
    let after = plan.json(&["show", &id.to_string(), "--json"]);
    assert_eq!((after, plan.json(&["list", "--json"]).as_array().unwrap().len()), (item, 1), "the item is not touched");
}

#[tokio::test]
async fn a_request_that_was_not_recorded_is_named_and_stops_the_rerun_unless_it_is_told_an_answer() {
    let url = echo().await;
    let (_dir, plan, id, _) = trapped(&url, &[], &[call(&url, &json!({}))]).await;
    let (is_well, told) = replay(&plan, id, &[]);
    assert_eq!((is_well, &told["ending"]["outcome"]), (false, &json!("stopped")));
    assert_eq!(told["divergences"][0]["kind"], "not_recorded", "{told}");
    let (is_well, told) = replay(&plan, id, &["--otherwise", "204"]);
    assert_eq!((is_well, &told["ending"]["outcome"]), (true, &json!("done")), "{told}");
    assert_eq!(told["requests"][0]["answer"], "204");
}

/// The text between two others.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).unwrap_or_else(|| panic!("no {before}: {text}")).1.split_once(after).unwrap().0
}

#[tokio::test]
async fn the_cockpit_tries_a_dead_item_with_the_handler_of_today_without_touching_the_world() {
    let url = echo().await;
    let (dir, plan, host) = host(&url).await;
    let steps = [call(&url, &json!({ "body": "x" })), json!({ "do": "trap_in", "version": "1" })];
    let id = enqueue(&plan, "k", &json!({ "do": "sequence", "steps": steps }));
    let item = becomes(&host, id, "DLQ").await;
    let browser =
        [("accept", "text/html"), ("origin", host.url.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    let text = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
    let try_it = async || {
        let page = text(&host.send("GET", &format!("/cockpit/items/{id}"), &browser, "").await.body);
        let form = format!("form_token={}", between(&page, "name=\"form_token\" value=\"", "\""));
        text(&host.send("POST", &format!("/cockpit/items/{id}/try"), &browser, &form).await.body)
    };
    let same = try_it().await;
    assert!(same.contains("would fail again") && same.contains("the one that failed"), "{same}");
    guests::install(&guests::chaos(2), &manifest(&url), &dir.path().join("plugins.d"), "chaos");
    crate::support::eventually("the changed handler is tried", std::time::Duration::from_mins(1), async || {
        try_it().await.contains("would be done")
    })
    .await;
    let tried = try_it().await;
    assert!(tried.contains("another one than") && tried.contains("the recording"), "{tried}");
    assert_eq!(plan.json(&["show", &id.to_string(), "--json"]), item, "the item is not touched");
}
