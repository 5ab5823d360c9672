//! Components that were built for released versions of the contract go on working.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{released, versions};
use crate::support::downstream::Downstream;
use crate::support::guests;
use crate::support::host::HostConfig;
use crate::support::stage::becomes;

const MANIFEST: &str = r#"
[grant]
state = true
emit = ["campaign", "charge_card", "contacts", "mail", "release_stock"]
[[grant.http]]
origin = "${RECEIVER}"
[config]
url = "${RECEIVER}"
"#;

/// What a released component is given, and what it sends then.
fn cases(name: &str) -> Vec<(&'static str, Value, Vec<&'static str>)> {
    match name {
        "webhook" => vec![("webhook", json!({ "n": 1 }), vec!["POST /"])],
        "patterns" => vec![
            ("reserve_stock", json!({ "order": "o1", "cents": 5 }), vec!["PUT /reservations/o1", "POST /charges"]),
            ("campaign", json!({ "text": "hi", "to": ["ada"] }), vec!["POST /mails"]),
        ],
        other => panic!("nobody says what the released component {other} does"),
    }
}

#[tokio::test]
async fn components_of_every_released_version_load_and_work() {
    for version in versions() {
        let components = std::fs::read_dir(released().join(&version)).unwrap().map(|entry| entry.unwrap().path());
        let components: Vec<_> = components.filter(|path| path.extension().is_some_and(|ext| ext == "wasm")).collect();
        assert!(!components.is_empty(), "no component of {version} was kept");
        for component in components {
            works(component.file_stem().unwrap().to_str().unwrap(), &component).await;
        }
    }
}

async fn works(name: &str, component: &Path) {
    let (dir, pod) = (tempfile::tempdir().unwrap(), Downstream::start().await);
    guests::install(component, MANIFEST, &dir.path().join("plugins.d"), name);
    let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path());
    let plan = plan.set("RECEIVER", &pod.url());
    let host = plan.start("serve").await;
    for (item_type, payload, expected) in cases(name) {
        let (payload, seen) = (payload.to_string(), pod.ledger.received().len());
        let args = ["enqueue", "--type", item_type, "--key", item_type, "--payload", &payload, "--json"];
        becomes(&host, plan.json(&args)["ids"][0].as_i64().unwrap(), "DONE").await;
        let sent = || {
            pod.ledger.received()[seen..]
                .iter()
                .map(|sent| format!("{} {}", sent.method, sent.path))
                .collect::<Vec<_>>()
        };
        crate::support::eventually("its follow-ups are done", Duration::from_mins(1), async || sent() == expected)
            .await;
    }
}
