//! The repository's own handlers: the requests that they send, and the outcomes that they derive from the answers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::downstream::ReceivedRequest;
use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::{Deployment, becomes};
use crate::support::{eventually, guests};

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

/// Enqueues an item and returns it when it has this status.
async fn ends(plan: &HostConfig, host: &HostProcess, args: &[&str], status: &str) -> Value {
    let args = [&["enqueue", "--payload", "{}", "--json"][..], args].concat();
    becomes(host, plan.json(&args)["ids"][0].as_i64().unwrap(), status).await
}

#[tokio::test]
async fn a_copy_of_a_component_serves_another_type_with_a_destination_of_its_own() {
    let deployment = Deployment::new().await;
    let url = deployment.belief.url();
    let grant = format!("[[grant.http]]\norigin = '{url}'\n[config]\nurl = '{url}/alerts'\n");
    let manifest = format!("[types]\nalert = 'webhook'\n{grant}");
    guests::install(&guests::plugins().join("webhook.wasm"), &manifest, &deployment.plugins(), "alert");
    let plan = deployment.plan.clone().set("OUTBOX_ALERTS", "alert");
    let host = plan.start("serve").await;
    let alert = ends(&plan, &host, &["--type", "alert", "--key", "a"], "DONE").await;
    assert_eq!(alert["type"], "alert");
    ends(&plan, &host, &["--type", "webhook", "--key", "w"], "DONE").await;
    let paths = |received: Vec<ReceivedRequest>| received.into_iter().map(|request| request.path).collect::<Vec<_>>();
    assert_eq!(paths(deployment.belief.ledger.received()), ["/alerts"]);
    assert_eq!(paths(deployment.vector.ledger.received()), ["/hook"]);
    let doctor = String::from_utf8(plan.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("alert sends them, and nothing else"), "{doctor}");
    let shared = String::from_utf8(deployment.plan.clone().set("OUTBOX_ALERTS", "webhook").run(&["doctor"]).stdout);
    assert!(shared.unwrap().contains("a receiver that may be down itself"));
}

#[tokio::test]
async fn an_item_names_its_own_destination_among_those_that_are_granted() {
    let deployment = Deployment::new().await;
    let plan = deployment.plan.clone().set("OUTBOX_MAX_RETRIES", "0");
    let host = plan.start("serve").await;
    let with = |url: String| format!("webhook-url={url}");
    let granted = with(format!("{}/other", deployment.vector.url()));
    ends(&plan, &host, &["--type", "webhook", "--key", "a", "--header", &granted], "DONE").await;
    let received = deployment.vector.ledger.received();
    assert_eq!((received[0].path.as_str(), received[0].header("webhook-url")), ("/other", ""));
    let foreign = with(format!("{}/other", deployment.belief.url()));
    let dead = ends(&plan, &host, &["--type", "webhook", "--key", "b", "--header", &foreign], "DLQ").await;
    assert_eq!(dead["failed_attempts"][0]["class"], "denied");
    assert!(deployment.belief.ledger.received().is_empty());
    let refused =
        plan.run(&["enqueue", "--type", "webhook", "--key", "c", "--payload", "1", "--header", "webhook-url=x"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("an absolute URL in webhook-url"));
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
