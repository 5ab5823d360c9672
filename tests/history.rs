//! What happened lately, as an operator sees it: from any process, over HTTP and in the shell, and after a restart.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::stage::{Deployment, becomes};
use crate::support::{Backend, TestDb, eventually, on_each_backend};

/// The limit for everything that a test expects of a host; a minute allows for busy machines.
const SOON: Duration = Duration::from_mins(1);

mod on_each {
    use super::*;

    pub(super) async fn the_history_adds_up_all_processes_and_outlives_them(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let plan = deployment.plan.clone().set("OUTBOX_MAX_RETRIES", "1");
        let (first, second) = (plan.start("serve").await, plan.start("worker").await);
        let enqueue = |key: &str| {
            let args = ["enqueue", "--type", "webhook", "--key", key, "--payload", "{}", "--json"];
            plan.json(&args)["ids"][0].as_i64().unwrap()
        };
        for number in 0..6 {
            becomes(&first, enqueue(&format!("done-{number}")), "DONE").await;
        }
        deployment.vector.ledger.answer_with(503, None);
        becomes(&first, enqueue("dead"), "DLQ").await;

        let whole = |sum: &Value| [&sum["done"], &sum["failed"], &sum["dead"]] == [&json!(6), &json!(2), &json!(1)];
        let mut report = Value::Null;
        eventually("both processes have told the store", SOON, async || {
            report = first.send("GET", "/history", &[], "").await.json();
            whole(&report["types"]["webhook"]["sum"])
        })
        .await;
        assert_eq!(
            (report["step_ms"].as_u64(), report["total"]["steps"].as_array().unwrap().len()),
            (Some(60_000), 60)
        );
        let sum = &report["types"]["webhook"]["sum"];
        assert!(sum["p50_ms"].as_u64() <= sum["p99_ms"].as_u64() && sum["p99_ms"].is_u64(), "{report}");
        first.kill();
        assert_eq!(second.terminate(), Some(0));

        let told = plan.json(&["stats", "--last", "1h", "--json"]);
        assert!(whole(&told["types"]["webhook"]["sum"]) && whole(&told["total"]["sum"]), "{told}");
        let output = |args: &str| {
            let output = plan.shell(args).output().unwrap();
            assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let numbers = output("outbox stats --last 1h");
        let row = numbers.lines().find(|line| line.starts_with("webhook") && line.contains("(all)")).unwrap();
        assert_eq!(row.split_whitespace().take(6).collect::<Vec<_>>(), ["webhook", "(all)", "6", "2", "1", "0"]);
        assert!(!numbers.contains('█'), "{numbers}");
        let bars = output("script -qec 'outbox stats --last 1h' /dev/null");
        assert!(bars.contains('█') && bars.contains("EACH 1m"), "{bars}");
    }

    pub(super) async fn a_stop_tells_the_store_what_happened_last(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let host = deployment.plan.start("serve").await;
        let args = ["enqueue", "--type", "webhook", "--key", "last", "--payload", "{}", "--json"];
        becomes(&host, deployment.plan.json(&args)["ids"][0].as_i64().unwrap(), "DONE").await;
        assert_eq!(host.terminate(), Some(0));
        let told = deployment.plan.json(&["stats", "--last", "1h", "--json"]);
        assert_eq!(told["types"]["webhook"]["sum"]["done"], 1, "{told}");
    }
}

on_each_backend! {
    the_history_adds_up_all_processes_and_outlives_them
    a_stop_tells_the_store_what_happened_last
}
