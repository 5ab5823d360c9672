//! The runbook's commands, run as an operator would run them: in order, incident by incident, against a real host whose
//! receiver is broken at first. On both stores.

use std::process::Stdio;
use std::sync::Arc;

use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::Store;
use serde_json::{Value, json};

use crate::support::guests::root;
use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::{Deployment, becomes};
use crate::support::{Backend, TestDb, on_each_backend, request};

/// The command blocks of the runbook, each with its heading, in the order of the document.
struct Runbook {
    plan: HostConfig,
    blocks: Vec<(String, String)>,
}

impl Runbook {
    fn open(plan: HostConfig) -> Self {
        let text = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
        let mut blocks = Vec::new();
        for section in text.split("\n## ").skip(1) {
            let (heading, rest) = section.split_once('\n').unwrap();
            let commands = rest.split("```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap());
            blocks.extend(commands.map(|commands| (heading.to_owned(), commands.to_owned())));
        }
        Self { plan, blocks }
    }

    /// Leaves out the blocks below this heading, which are next: they are for another store.
    fn skip(&mut self, heading: &str) {
        let blocks = self.blocks.iter().take_while(|(found, _)| found == heading).count();
        assert!(blocks > 0, "no commands are below {heading}");
        self.blocks.drain(..blocks);
    }

    /// Runs the next block, which must be below this heading; returns its output.
    #[track_caller]
    fn next(&mut self, heading: &str) -> String {
        let (found, commands) = self.blocks.remove(0);
        assert_eq!(found, heading);
        let mut shell = self.plan.shell(&format!("set -euo pipefail\n{commands}\n"));
        let output = shell.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{commands}\n{stdout}\n{stderr}");
        stdout
    }
}

/// The backup, the restore into another file, and the look at it.
fn restore(runbook: &mut Runbook, deployment: &Deployment) {
    let before = statuses(&deployment.plan);
    says(&runbook.next("Backup and restore"), &["yesterday.sqlite: 7 items", "checked"]);
    let restored = runbook.next("Backup and restore");
    says(&restored, &["pause mail: done", "pause webhook: done", "letter"]);
    says(&runbook.next("Backup and restore"), &["resume mail: done", "resume webhook: done"]);
    assert_eq!(statuses(&deployment.plan.clone().set("OUTBOX_DB", "restored.sqlite")), before);
}

#[track_caller]
fn says(printed: &str, words: &[&str]) {
    for word in words {
        assert!(printed.contains(word), "{word:?} is not said in\n{printed}");
    }
}

fn enqueue(plan: &HostConfig, item_type: &str, key: &str, ordering_key: Option<&str>) -> i64 {
    let mut args = vec!["enqueue", "--type", item_type, "--key", key, "--payload", "{}", "--json"];
    args.extend(ordering_key.into_iter().flat_map(|key| ["--ordering-key", key]));
    plan.json(&args)["ids"][0].as_i64().unwrap()
}

/// A host with a broken receiver: a dead item blocks an ordering key with another item behind it, three items failed
/// for the same reason, and one item has a type that this host does not serve.
async fn trouble(deployment: &Deployment) -> HostProcess {
    let host = deployment.plan.start("serve").await;
    deployment.vector.ledger.answer_with(404, None);
    let head = enqueue(&deployment.plan, "webhook", "order-7-placed", Some("order-7"));
    becomes(&host, head, "DLQ").await;
    enqueue(&deployment.plan, "webhook", "order-7-paid", Some("order-7"));
    deployment.vector.ledger.answer_with(422, None);
    for key in ["report-1", "report-2", "report-3"] {
        let id = enqueue(&deployment.plan, "webhook", key, None);
        becomes(&host, id, "DLQ").await;
    }
    enqueue(&deployment.plan, "mail", "letter", None);
    host
}

/// Claims an item like a process that ends before it settles the claim.
async fn claim_and_vanish(deployment: &Deployment) {
    let address = deployment.test_db.address();
    let store: Arc<dyn Store> = match deployment.test_db {
        TestDb::Sqlite(_) => SqliteStore::open_existing(address.as_ref(), SqliteOptions::default()).unwrap(),
        TestDb::Postgres(_) => PostgresStore::open_existing(&address, PostgresOptions::default()).await.unwrap(),
    };
    let claimed = store.claim(&request(&["mail"], 1)).await.unwrap();
    assert_eq!(claimed.claims.len(), 1);
}

fn statuses(plan: &HostConfig) -> Value {
    plan.json(&["stats", "--json"])["by_status"].clone()
}

on_each_backend! { the_commands_of_the_runbook_do_what_it_says }

mod on_each {
    use super::*;

    pub(super) async fn the_commands_of_the_runbook_do_what_it_says(backend: Backend) {
        follow_the_runbook(&Deployment::on(TestDb::new(backend)).await, backend).await;
    }
}

async fn follow_the_runbook(deployment: &Deployment, backend: Backend) {
    let host = trouble(deployment).await;
    let mut runbook = Runbook::open(deployment.plan.clone());

    let look = runbook.next("First look");
    says(&look, &["blocked_key: type webhook, key order-7, item 1 (1 item waiting)", "upstream.404", "upstream.422"]);

    says(&runbook.next("A receiver is down"), &["PENDING", "No failures."]);

    let explained = runbook.next("A blocked key");
    says(&explained, &["outbox replay 1, or outbox unblock 'order-7'", "order-7-placed", "404"]);
    assert_eq!(deployment.plan.json(&["show", "2", "--json"])["attempts"], 0, "the key is blocked");
    deployment.vector.ledger.answer_with(200, None);
    says(&runbook.next("A blocked key"), &["would be done, past 1 dead item", "unblock order-7: done"]);
    becomes(&host, 2, "DONE").await;
    becomes(&host, 1, "DLQ").await;

    says(&runbook.next("Dead items"), &["would change 3 items (3, 4, 5)", "changed 3 items (3, 4, 5)"]);
    for id in 3..=5 {
        assert_eq!(becomes(&host, id, "DONE").await["replays"], 1);
    }
    assert_eq!(becomes(&host, 1, "DLQ").await["replays"], 0, "it died of something else");
    says(&runbook.next("Dead items"), &["would change 1 item (1)"]);
    says(&runbook.next("Dead items"), &["3 of 3", "DONE", "50 items each second", "the receiver is back"]);

    let sent = deployment.vector.ledger.received().len();
    let tried = runbook.next("A dead item and a repaired handler");
    says(&tried, &["Requests of the failed attempts", "failed, permanent upstream.422", "as before"]);
    assert_eq!(deployment.vector.ledger.received().len(), sent, "nothing was sent");

    claim_and_vanish(deployment).await;
    says(
        &runbook.next("A stuck claim"),
        &["letter", "by pod-1", "the lease has not ended", "release: changed 1 item (6)"],
    );
    let released = becomes(&host, 6, "PENDING").await;
    assert_eq!((&released["maybe_executed"], &released["attempts"]), (&json!(true), &json!(1)));

    says(&runbook.next("Stopping and postponing"), &["outbox resume webhook", "the receiver is being upgraded"]);
    becomes(&host, 7, "DONE").await;

    let trail = runbook.next("Who did what");
    says(&trail, &["unblock", "the customer cancelled order 7", "replay", "release", "pod-gone was deleted"]);
    says(&trail, &["pause", "reschedule", "dead", "restore", "resume"]);

    says(&runbook.next("Making room"), &["would change 0 items"]);
    match backend {
        Backend::Sqlite => restore(&mut runbook, deployment),
        Backend::Postgres => runbook.skip("Backup and restore"),
    }
    runbook.next("Moving to another store");
    let moved = deployment.plan.clone().set("OUTBOX_DB", "new.sqlite");
    assert_eq!(statuses(&moved), statuses(&deployment.plan));
    let items = |plan: &HostConfig| plan.json(&["list", "--json"]).to_string();
    assert_eq!(items(&moved), items(&deployment.plan));
    assert!(runbook.blocks.is_empty(), "not run: {:?}", runbook.blocks);
}
