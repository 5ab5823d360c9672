//! The smoke test of the playbook and related checks, against the real binary.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::stage::{Deployment, becomes, ids, write_memory};
use crate::support::{Backend, TestDb, eventually, on_each_backend};

const SOON: Duration = Duration::from_mins(1);

on_each_backend! {
    the_playbooks_smoke_holds_against_the_real_binary
    an_item_inserted_with_plain_sql_is_handled_by_the_running_host
    two_roles_as_two_processes_on_one_store_handle_only_their_own_types
}

mod on_each {
    use super::*;

    pub(super) async fn the_playbooks_smoke_holds_against_the_real_binary(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let host = deployment.plan.clone().set("OUTBOX_MAX_RETRIES", "2").start("serve").await;

        let first = write_memory(&host, "w1").await;
        for id in ids(&first) {
            becomes(&host, id, "DONE").await;
        }
        let headers = [("content-type", "application/json"), ("idempotency-key", "w1"), ("x-correlation-id", "cid-1")];
        let again = host.send("POST", "/memory", &headers, r#"{"text":"w1"}"#).await;
        assert_eq!((again.status.as_u16(), again.json()), (202, first));
        assert_eq!(again.headers["idempotent-replayed"], "true");

        let (vector_ledger, dead) = (std::sync::Arc::clone(&deployment.vector.ledger), deployment.vector.kill().await);
        let second = ids(&write_memory(&host, "w2").await);
        let buried = becomes(&host, second[0], "DLQ").await;
        assert_eq!(buried["failed_attempts"].as_array().unwrap().len(), 3);
        assert_eq!(buried["failed_attempts"][0]["class"], "retryable");
        becomes(&host, second[1], "DONE").await;
        let _vector = dead.revive().await;
        let replayed =
            deployment.plan.json(&["replay", &second[0].to_string(), "--reason", "vector pod is back", "--json"]);
        assert_eq!(replayed["changed"], 1);
        becomes(&host, second[0], "DONE").await;

        // Each item has exactly one effect, counted by its key, and all its attempts use the same keys.
        for (ledger, step) in [(&vector_ledger, "vector_upsert"), (&deployment.belief.ledger, "belief_recompute")] {
            let effects = ledger.effects();
            assert_eq!(effects.values().collect::<Vec<_>>(), [&1, &1], "{effects:?}");
            for (key, write) in effects.keys().zip(["w1", "w2"]) {
                assert!(key.starts_with(&format!("{write}:{step}/")), "{key}");
            }
        }
        let request = &deployment.belief.ledger.received()[0];
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/recompute"));
        assert_eq!(request.body, r#"{"text":"w1"}"#);
        assert_eq!(request.header("x-correlation-id"), "cid-1");
        assert!(request.header("traceparent").starts_with("00-"), "{:?}", request.headers);

        let cockpit = host.send("GET", "/status/cockpit", &[], "").await.json();
        let saga = &cockpit["governor"]["sagas"]["WriteMemorySaga"];
        assert_eq!((&saga["began"], &saga["ended_ok"], &saga["ended_err"]), (&json!(3), &json!(2), &json!(1)));
        assert_eq!(saga["steps"]["vector_upsert"], json!({ "ok": 2, "retried": 2, "dead": 1 }));
        assert_eq!(cockpit["outbox"]["by_status"]["DONE"], 4);
        assert_eq!(host.terminate(), Some(0));
    }

    pub(super) async fn an_item_inserted_with_plain_sql_is_handled_by_the_running_host(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let host = deployment.plan.start("serve").await;
        let sql = "CREATE TABLE orders (id INTEGER PRIMARY KEY);
            BEGIN; INSERT INTO orders VALUES (1);
            INSERT INTO outbox_items (type, idem_key, payload) VALUES ('webhook', 'kept', '{}'); COMMIT;
            BEGIN; INSERT INTO orders VALUES (2);
            INSERT INTO outbox_items (type, idem_key, payload) VALUES ('webhook', 'dropped', '{}'); ROLLBACK;";
        deployment.test_db.sql(sql).unwrap();
        becomes(&host, 1, "DONE").await;
        let keys: Vec<_> = deployment.vector.ledger.effects().into_keys().collect();
        assert!(keys.len() == 1 && keys[0].starts_with("kept/"), "{keys:?}");
    }

    pub(super) async fn two_roles_as_two_processes_on_one_store_handle_only_their_own_types(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        for (name, role) in [("vector-upsert", "vector"), ("belief-recompute", "belief")] {
            for ext in ["wasm", "toml"] {
                let file = format!("{name}.{ext}");
                std::fs::create_dir_all(deployment.plugins().join(role)).unwrap();
                std::fs::rename(deployment.plugins().join(&file), deployment.plugins().join(role).join(&file)).unwrap();
            }
        }
        std::fs::remove_file(deployment.plugins().join("webhook.wasm")).unwrap();
        let vector = deployment.plan.clone().set("OUTBOX_ROLE", "vector").start("worker").await;
        let write =
            deployment.plan.json(&["enqueue", "--type", "vector_upsert", "--key", "v", "--payload", "{}", "--json"]);
        let other =
            deployment.plan.json(&["enqueue", "--type", "belief_recompute", "--key", "b", "--payload", "{}", "--json"]);
        let status = |id: &Value| deployment.plan.json(&["show", &id.to_string(), "--json"])["status"].clone();
        eventually("the vector item is done", SOON, async || status(&write["ids"][0]) == "DONE").await;
        assert_eq!(status(&other["ids"][0]), "PENDING", "nobody serves it yet");
        let unhandled = deployment.plan.json(&["stats", "--json"])["unhandled"].clone();
        assert_eq!(unhandled, json!(["belief_recompute"]));
        let belief = deployment.plan.clone().set("OUTBOX_ROLE", "belief").start("worker").await;
        eventually("the belief item is done", SOON, async || status(&other["ids"][0]) == "DONE").await;
        let digest = |id: &str| deployment.plan.json(&["show", id, "--json"])["handler_digest"].to_string();
        let digests: BTreeSet<_> = ["1", "2"].map(digest).into();
        assert_eq!(digests.len(), 2);
        assert_eq!((vector.terminate(), belief.terminate()), (Some(0), Some(0)));
    }
}
