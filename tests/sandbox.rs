//! What a handler cannot do, shown with the chaos handler in the real host: each try is a failed attempt of one item,
//! and the host continues to handle other items.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::guests::{self, CHAOS_GRANTS};
use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::{Deployment, becomes};

/// A manifest that grants what the tests need and sets short limits.
fn manifest(retry: &str) -> String {
    format!(
        r#"
timeout = "4s"
{CHAOS_GRANTS}
[[grant.http]]
origin = "${{SLOW_URL}}"

[limits]
memory = "32MiB"
cpu = "500ms"

[retry]
{retry}
"#
    )
}

/// A deployment with the chaos handler, which has no retries.
async fn deployment() -> (Deployment, HostConfig) {
    deployment_with("max_retries = 0", "http://127.0.0.1:9").await
}

async fn deployment_with(retry: &str, slow_url: &str) -> (Deployment, HostConfig) {
    let deployment = Deployment::new().await;
    guests::install(&guests::chaos(1), &manifest(retry), &deployment.plugins(), "chaos");
    let plan = deployment.plan.clone().set("SLOW_URL", slow_url).set("SECRET_OF_THE_HOST", "s3cret");
    (deployment, plan)
}

/// A server that accepts connections and never answers.
async fn silent_server() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            open.push(connection);
        }
    });
    (url, serving)
}

fn enqueue(plan: &HostConfig, key: &str, payload: &Value) -> i64 {
    let payload = payload.to_string();
    let args = ["enqueue", "--type", "chaos", "--key", key, "--payload", &payload, "--json"];
    plan.json(&args)["ids"][0].as_i64().unwrap()
}

/// The failed attempt of an item in the DLQ; asserts that there is only one.
async fn failure(host: &HostProcess, id: i64) -> Value {
    let item = becomes(host, id, "DLQ").await;
    assert_eq!(item["failed_attempts"].as_array().unwrap().len(), 1, "{item}");
    item["failed_attempts"][0].clone()
}

#[tokio::test]
async fn a_handler_cannot_run_on_grow_escape_or_take_others_with_it() {
    let (slow_url, _serving) = silent_server().await;
    let (_deployment, plan) = deployment_with("max_retries = 0", &slow_url).await;
    let host = plan.start("serve").await;

    let elsewhere = "http://127.0.0.1:9/";
    let cases = [
        ("loop", json!({"do": "loop"}), "cpu", "500ms"),
        ("sleep", json!({"do": "sleep", "ms": 60_000}), "timeout", "deadline"),
        ("slow server", json!({"do": "http", "method": "POST", "url": slow_url}), "timeout", ""),
        ("memory", json!({"do": "eat_memory"}), "memory", "32"),
        ("forbidden host", json!({"do": "http", "method": "POST", "url": elsewhere}), "denied", "[[grant.http]]"),
        ("trap", json!({"do": "trap", "message": "by order"}), "trap", "by order"),
        ("recursion", json!({"do": "recurse"}), "trap", ""),
        ("exit", json!({"do": "exit", "code": 3}), "trap", "exit"),
        ("forgotten request", json!({"do": "http_forget", "method": "POST", "url": slow_url}), "contract", "in flight"),
        ("reject", json!({"do": "reject"}), "permanent", ""),
        ("retry", json!({"do": "retry"}), "retryable", ""),
    ];
    let bad: Vec<_> = cases.iter().map(|(key, payload, ..)| enqueue(&plan, key, payload)).collect();
    let good: Vec<_> =
        (0..20).map(|n| enqueue(&plan, &format!("good-{n}"), &json!({"do": "succeed", "result": n}))).collect();
    for id in good {
        becomes(&host, id, "DONE").await;
    }
    for (id, (name, _, class, words)) in bad.into_iter().zip(cases) {
        let failure = failure(&host, id).await;
        assert_eq!(failure["class"], class, "{name}: {failure}");
        assert!(failure["message"].as_str().unwrap().contains(words), "{name}: {failure}");
    }
    let trapped = plan.json(&["list", "DLQ", "--json"]);
    assert_eq!(trapped.as_array().unwrap().len(), 11);
    assert_eq!(host.terminate(), Some(0));
}

#[tokio::test]
async fn a_handler_sees_no_environment_no_files_and_no_sockets() {
    let (deployment, plan) = deployment().await;
    let host = plan.start("serve").await;
    let address = deployment.vector.address.to_string();
    let results = [
        ("env", json!({"do": "env"})),
        ("files", json!({"do": "files"})),
        ("socket", json!({"do": "socket", "address": address})),
    ];
    for (key, payload) in results {
        let id = enqueue(&plan, key, &payload);
        let result = becomes(&host, id, "DONE").await["result"].clone();
        let text = result.to_string();
        assert!(!text.contains("s3cret") && !text.contains("root:"), "{key}: {text}");
    }
    assert!(deployment.vector.ledger.received().is_empty());
}

#[tokio::test]
async fn what_a_failed_attempt_wrote_is_kept_with_it() {
    let (_deployment, plan) = deployment().await;
    let host = plan.start("serve").await;
    let steps = json!([{"do": "stderr", "message": "about to fail"}, {"do": "retry"}]);
    let id = enqueue(&plan, "noisy", &json!({"do": "sequence", "steps": steps}));
    let failure = failure(&host, id).await;
    assert!(failure["stderr"].as_str().unwrap().contains("about to fail"), "{failure}");
    assert!(failure["handler_digest"].as_str().is_some_and(|digest| digest.len() >= 32), "{failure}");
}

#[tokio::test]
async fn the_keys_of_a_handlers_requests_are_the_same_in_every_attempt_and_its_own() {
    let (deployment, plan) = deployment_with("max_retries = 3\nbase = \"10ms\"", "http://127.0.0.1:9").await;
    let host = plan.start("serve").await;
    let url = |path: &str| format!("{}{path}", deployment.vector.url());
    let forged = json!({"idempotency-key": "forged", "traceparent": "forged", "x-correlation-id": "forged"});
    let call = |path: &str| json!({"do": "http", "method": "POST", "url": url(path), "headers": {}});
    let steps = json!([
        call("/a"), call("/a"), call("/b"),
        {"do": "http", "method": "POST", "url": url("/b"), "effect": "named"},
        {"do": "http", "method": "GET", "url": url("/c")},
        {"do": "flaky", "succeed_at": 2},
    ]);
    let id = enqueue(&plan, "k", &json!({"do": "sequence", "steps": steps}));
    becomes(&host, id, "DONE").await;
    let received = deployment.vector.ledger.received();
    let keys: Vec<_> = received.iter().map(|request| request.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys[..5], keys[5..], "both attempts send the same keys");
    assert!(keys[..4].iter().all(|key| key.starts_with("k/")), "{keys:?}");
    assert_eq!(keys[4], "", "a safe request needs none");
    assert_eq!(keys[3], "k/named");
    assert!(keys[0] != keys[1] && keys[0] != keys[2], "{keys:?}");
    assert!(received.iter().all(|request| request.header("outbox-effect").is_empty()));

    let forging = json!({"do": "http", "method": "POST", "url": url("/d"), "headers": forged});
    let id = enqueue(&plan, "forger", &forging);
    crate::support::eventually("it was settled", Duration::from_secs(30), async || {
        let status = host.send("GET", &format!("/items/{id}"), &[], "").await.json()["status"].clone();
        status == "DONE" || status == "DLQ"
    })
    .await;
    let forged = deployment.vector.ledger.received().into_iter().filter(|request| request.path == "/d");
    assert!(forged.into_iter().all(|request| request.header("idempotency-key").starts_with("forger/")));
}

#[tokio::test]
async fn state_within_its_quota_is_kept_and_what_goes_beyond_fails_at_settlement() {
    let (deployment, plan) = deployment().await;
    let tight = manifest("max_retries = 0").replace("[limits]", "[limits]\nstate_bytes = \"1KiB\"");
    guests::install(&guests::chaos(1), &tight, &deployment.plugins(), "chaos");
    let host = plan.start("serve").await;
    let put = |key: &str| json!({"do": "state_put", "key": key, "value": "x".repeat(600)});
    let within = enqueue(&plan, "within", &put("a"));
    becomes(&host, within, "DONE").await;
    let beyond = enqueue(&plan, "beyond", &put("b"));
    let failure = failure(&host, beyond).await;
    assert_eq!((&failure["class"], &failure["code"]), (&json!("contract"), &json!("state.quota")), "{failure}");
    assert!(failure["message"].as_str().unwrap().contains("`limits.state_bytes` is 1024"), "{failure}");
}

#[tokio::test]
async fn items_that_enqueue_items_without_an_end_are_stopped_and_stuck_names_their_root() {
    let (deployment, plan) = deployment().await;
    let tight = manifest("max_retries = 0").replace("[limits]", "[limits]\ndescendants = 3");
    let granted = tight.replace("chaos_other", "chaos");
    guests::install(&guests::chaos(1), &granted, &deployment.plugins(), "chaos");
    let host = plan.start("serve").await;
    let emit = |payload: &Value| json!({"do": "emit", "type": "chaos", "payload": payload});
    let root = enqueue(&plan, "root", &emit(&emit(&emit(&emit(&json!({"do": "version"}))))));
    becomes(&host, root + 3, "DLQ").await;
    let failure = failure(&host, root + 3).await;
    assert_eq!(
        (&failure["class"], &failure["code"]),
        (&json!("contract"), &json!("followups.descendants")),
        "{failure}"
    );
    let stuck = plan.json(&["stuck", "--json"]);
    let found = stuck.as_array().unwrap().iter().find(|entry| entry["kind"] == "descendants").unwrap();
    assert_eq!((&found["item"], &found["waiting"]), (&json!(root), &json!(1)), "{found}");
}
