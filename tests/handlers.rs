//! The repository's own handlers: the requests that they send, and the outcomes that they derive from the answers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::host::HostProcess;
use crate::support::stage::{Deployment, becomes};

/// Enqueues an item for the webhook, waits for its first failed attempt, and returns the item.
async fn first_failure(deployment: &Deployment, host: &HostProcess, key: &str) -> Value {
    let args = ["enqueue", "--type", "webhook", "--key", key, "--payload", "{}", "--json"];
    let id = deployment.plan.json(&args)["ids"][0].as_i64().unwrap();
    let mut item = Value::Null;
    eventually("an attempt has failed", Duration::from_mins(1), async || {
        item = host.send("GET", &format!("/items/{id}"), &[], "").await.json();
        item["failed_attempts"].as_array().is_some_and(|rows| !rows.is_empty())
    })
    .await;
    item
}

#[tokio::test]
async fn the_webhook_retries_rejects_or_defers_by_the_answer() {
    let deployment = Deployment::new().await;
    let host = deployment.plan.clone().set("OUTBOX_BACKOFF_BASE_MS", "60000").start("serve").await;
    for (status, retry_after, class) in [
        (401, None, "retryable"),
        (403, None, "retryable"),
        (408, None, "retryable"),
        (409, None, "retryable"),
        (425, None, "retryable"),
        (429, None, "retryable"),
        (500, None, "retryable"),
        (503, None, "retryable"),
        (429, Some(120), "deferred"),
        (503, Some(120), "deferred"),
        (302, None, "permanent"),
        (400, None, "permanent"),
        (404, None, "permanent"),
        (422, None, "permanent"),
    ] {
        deployment.vector.ledger.answer_with(status, retry_after);
        let item = first_failure(&deployment, &host, &format!("{status}-{retry_after:?}")).await;
        let failure = &item["failed_attempts"][0];
        assert_eq!(failure["class"], class, "{status}: {failure}");
        assert_eq!(failure["code"], format!("upstream.{status}"), "{failure}");
        assert_eq!(item["status"], if class == "permanent" { "DLQ" } else { "PENDING" });
        assert_eq!(item["attempts"], i32::from(class != "deferred"), "a deferred attempt does not count");
        if let Some(seconds) = retry_after {
            let wait = item["available_at"].as_i64().unwrap() - failure["ended_at"].as_i64().unwrap();
            assert_eq!(wait, i64::from(seconds) * 1_000, "the receiver says when");
        }
    }
    let refused = deployment.vector.kill().await;
    let deployment = Deployment { vector: refused.revive().await, ..deployment };
    deployment.vector.ledger.answer_with(204, None);
    let args = ["enqueue", "--type", "webhook", "--key", "fine", "--payload", r#"{"n":1}"#, "--json"];
    let id = deployment.plan.json(&args)["ids"][0].as_i64().unwrap();
    becomes(&host, id, "DONE").await;
    let received = deployment.vector.ledger.received();
    let last = received.last().unwrap();
    assert_eq!((last.path.as_str(), &last.body[..]), ("/hook", &br#"{"n":1}"#[..]));
    assert_eq!(last.header("content-type"), "application/json");
}

#[tokio::test]
async fn the_webhook_leaves_out_headers_that_no_request_can_have() {
    let deployment = Deployment::new().await;
    let host = deployment.plan.clone().set("OUTBOX_MAX_RETRIES", "0").start("serve").await;
    // Plain SQL, because every other way refuses them.
    let headers = r#"{"Host": "evil", "Content-Length": "7", "Upgrade": "x", "bad name": "x", "x-line": "a\nb", "X-Tenant": "7"}"#;
    let insert = format!(
        "INSERT INTO outbox_items (type, idem_key, payload, headers) VALUES ('webhook', 'odd', '{{}}', '{headers}')"
    );
    deployment.test_db.sql(&insert).unwrap();
    let id = deployment.test_db.sql("SELECT id FROM outbox_items").unwrap().trim().parse().unwrap();
    becomes(&host, id, "DONE").await;
    let received = deployment.vector.ledger.received();
    assert_eq!((received[0].header("x-tenant"), received[0].header("x-line")), ("7", ""));
    assert_eq!(received[0].header("host"), deployment.vector.address.to_string());
}

#[tokio::test]
async fn the_handlers_import_what_they_use_and_nothing_more() {
    let deployment = Deployment::new().await;
    for name in ["vector-upsert", "belief-recompute", "webhook"] {
        let file = deployment.plugins().join(format!("{name}.wasm")).display().to_string();
        let inspection = deployment.plan.json(&["plugin", "inspect", &file, "--json"]);
        assert_eq!(inspection["errors"], json!([]), "{name}");
        let imports = inspection["imports"].to_string();
        assert!(imports.contains("wasi:http/outgoing-handler"), "{imports}");
        for unused in ["outbox:handler/state", "outbox:handler/followups", "wasi:filesystem", "wasi:sockets"] {
            assert!(!imports.contains(unused), "{name} imports {unused}");
        }
    }
}
