//! Handlers are added, replaced, broken and removed while the real host handles items.

use std::time::Duration;

use serde_json::Value;

use crate::support::guests::{CHAOS_GRANTS, chaos, install, place, variant};
use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::{Deployment, becomes, ids, write_memory};
use crate::support::{eventually, is_soak};

const SOON: Duration = Duration::from_mins(1);

/// The entry of one plugin in the output of `plugin list`.
fn plugin(plan: &HostConfig, name: &str) -> Value {
    let plugins = plan.json(&["plugin", "list", "--json"]);
    let named = |plugin: &&Value| plugin["name"] == name;
    plugins.as_array().unwrap().iter().find(named).cloned().unwrap_or_default()
}

/// Writes a file in pieces directly to its final name, as a slow copy does.
async fn copy_slowly(bytes: &[u8], path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for piece in bytes.chunks(bytes.len() / 4 + 1) {
        file.write_all(piece).unwrap();
        file.flush().unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn errs(plan: &HostConfig) {
    eventually("the error is visible", SOON, async || plugin(plan, "vector-upsert")["error"].is_string()).await;
}

async fn write(host: &HostProcess, number: usize) -> Vec<i64> {
    ids(&write_memory(host, &format!("flow-{number}")).await)
}

#[tokio::test]
async fn items_flow_while_a_handler_is_replaced_twenty_times_and_broken_five() {
    let writes = if is_soak() { 500 } else { 50 };
    let deployment = Deployment::new().await;
    let host = deployment.plan.start("serve").await;
    let component = deployment.plugins().join("vector-upsert.wasm");
    let good = std::fs::read(&component).unwrap();
    let mut written = Vec::new();
    let mut replaced = 0;
    for number in 0..writes {
        written.extend(write(&host, number).await);
        if number % (writes / 25) == 0 && replaced < 25 {
            replaced += 1;
            match replaced % 5 {
                0 if replaced % 2 == 0 => place(b"garbage", &component),
                0 => place(&good[..good.len() / 2], &component),
                1 => copy_slowly(&variant(&good, replaced), &component).await,
                _ => place(&variant(&good, replaced), &component),
            }
            if replaced % 5 == 0 {
                errs(&deployment.plan).await;
            }
        }
    }
    assert_eq!(replaced, 25, "twenty replacements and five breakages");
    for id in &written {
        becomes(&host, *id, "DONE").await;
    }
    for ledger in [&deployment.vector.ledger, &deployment.belief.ledger] {
        let effects = ledger.effects();
        assert_eq!(effects.len(), writes);
        assert!(effects.values().all(|times| *times == 1), "an effect was asked for twice");
    }
    place(&variant(&good, 99), &component);
    eventually("the good one is live again", SOON, async || {
        plugin(&deployment.plan, "vector-upsert")["error"].is_null()
    })
    .await;
}

#[tokio::test]
async fn a_broken_file_leaves_the_good_one_live_and_a_removed_one_leaves_its_items_waiting() {
    let deployment = Deployment::new().await;
    let host = deployment.plan.start("serve").await;
    let component = deployment.plugins().join("vector-upsert.wasm");
    let good = std::fs::read(&component).unwrap();

    place(b"not wasm at all", &component);
    errs(&deployment.plan).await;
    for id in write(&host, 1).await {
        becomes(&host, id, "DONE").await;
    }

    std::fs::remove_file(&component).unwrap();
    eventually("the type is unhandled", SOON, async || {
        plugin(&deployment.plan, "vector-upsert")["types"].as_array().is_none_or(Vec::is_empty)
    })
    .await;
    let waiting = write(&host, 2).await;
    becomes(&host, waiting[1], "DONE").await;
    assert_eq!(becomes(&host, waiting[0], "PENDING").await["attempts"], 0);
    assert_eq!(deployment.plan.json(&["stats", "--json"])["unhandled"], serde_json::json!(["vector_upsert"]));

    place(&good, &component);
    becomes(&host, waiting[0], "DONE").await;
}

#[tokio::test]
async fn an_attempt_in_flight_finishes_on_the_handler_that_it_started_on() {
    let deployment = Deployment::new().await;
    let folder = deployment.plugins();
    install(&chaos(1), CHAOS_GRANTS, &folder, "chaos");
    let host = deployment.plan.start("serve").await;
    let enqueue = |key: &str, payload: &str| {
        deployment.plan.json(&["enqueue", "--type", "chaos", "--key", key, "--payload", payload, "--json"])["ids"][0]
            .as_i64()
            .unwrap()
    };
    let slow = enqueue("slow", r#"{"do":"sequence","steps":[{"do":"sleep","ms":3000},{"do":"version"}]}"#);
    becomes(&host, slow, "CLAIMED").await;
    let old = plugin(&deployment.plan, "chaos")["digest"].clone();
    install(&chaos(2), CHAOS_GRANTS, &folder, "chaos");
    eventually("the new one is live", SOON, async || plugin(&deployment.plan, "chaos")["digest"] != old).await;
    let fast = enqueue("fast", r#"{"do":"version"}"#);
    assert_eq!(becomes(&host, fast, "DONE").await["result"], "2");
    let finished = becomes(&host, slow, "DONE").await;
    assert_eq!(
        (&finished["result"][1], &finished["handler_digest"], &finished["attempts"]),
        (&"1".into(), &old, &1.into())
    );
}
