//! Handlers in Rust, JavaScript and Python behave alike, and the tutorials of `docs/handlers.md` work in each language.
//!
//! These tests need node and python3, and building takes minutes: `make test-languages` runs them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::downstream::{Downstream, ReceivedRequest};
use crate::support::eventually;
use crate::support::guests::{install, root};
use crate::support::host::{HostConfig, HostProcess, free_port};
use crate::support::plugins::Wat;

/// The limit for compiling a component. A host in a debug build needs 30 s for one that is made of Python.
const COMPILED: Duration = Duration::from_mins(5);

/// The handlers that mail receipts, one for each language.
const RECEIPTS: [&str; 3] = ["receipt", "js-receipt", "py-receipt"];

fn languages() -> PathBuf {
    root().join("target/languages")
}

/// An item for a handler, and the receiver's answer: a status, and `Retry-After` in seconds if there is one.
struct Scene {
    key: &'static str,
    payload: String,
    answer: (u16, Option<u32>),
}

fn scenes() -> Vec<Scene> {
    let order = |key, customer: &str, cents, status, retry_after| Scene {
        key,
        payload: json!({ "order": key, "customer": customer, "cents": cents }).to_string(),
        answer: (status, retry_after),
    };
    let mut scenes = vec![
        order("first", "ada@example.org", 1250, 200, None),
        order("second", "ada@example.org", 5, 204, None),
        order("other", "jürgen@example.org", 100_007, 200, None),
        order("third, with thanks", "ada@example.org", 99, 200, None),
        order("nowhere", "ada", 1, 200, None),
        order("refused", "ada@example.org", 1, 422, None),
        order("broken", "ada@example.org", 1, 500, None),
        order("closed", "ada@example.org", 1, 503, Some(120)),
        order("limited", "ada@example.org", 1, 429, None),
    ];
    scenes.push(Scene { key: "no JSON", payload: "{".to_owned(), answer: (200, None) });
    scenes
}

/// The result of an item, without the parts that differ between two runs of the same handler.
fn outcome(item: &Value) -> Value {
    let failure = &item["failed_attempts"][0];
    let wait = failure["ended_at"].as_i64().filter(|_| failure["class"] == "deferred");
    let message = failure["message"].as_str().filter(|_| failure["code"] != "payload.invalid");
    json!({
        "key": item["idem_key"],
        "status": item["status"],
        "attempts": item["attempts"],
        "result": item["result"],
        "class": failure["class"],
        "code": failure["code"],
        // The message about invalid JSON differs between the languages.
        "message": message,
        "wait": wait.map(|ended| item["available_at"].as_i64().unwrap() - ended),
        "maybe_executed": item["maybe_executed"],
    })
}

fn request(received: &ReceivedRequest) -> Value {
    let told = |name: &&str| !matches!(*name, "traceparent" | "host");
    let names = received.headers.keys().map(axum::http::HeaderName::as_str).filter(told);
    let headers: Value = names.map(|name| (name.to_owned(), json!(received.header(name)))).collect();
    json!({
        "method": received.method.as_str(),
        "path": received.path,
        "headers": headers,
        "body": String::from_utf8(received.body.to_vec()).unwrap(),
    })
}

async fn settled(host: &HostProcess, id: i64) -> Value {
    let mut item = Value::Null;
    eventually(&format!("item {id} has been attempted"), COMPILED, async || {
        item = host.send("GET", &format!("/items/{id}"), &[], "").await.json();
        item["status"] == "DONE" || item["failed_attempts"].as_array().is_some_and(|rows| !rows.is_empty())
    })
    .await;
    item
}

/// Runs every scene with one handler; returns the outcomes, the follow-ups, the state and the received requests.
async fn play(handler: &str, mail: &Downstream) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let built = languages().join("plugins");
    let manifest = std::fs::read_to_string(built.join(format!("{handler}.toml"))).unwrap();
    install(&built.join(format!("{handler}.wasm")), &manifest, &dir.path().join("plugins.d"), handler);
    let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path())
        .set("MAIL_URL", &format!("{}/receipts", mail.url()))
        .set("OUTBOX_CACHE_DIR", languages().join("cache").to_str().unwrap())
        // The backoff of 100 s is longer than this run and shorter than the receiver's `Retry-After` of 120 s.
        .set("OUTBOX_BACKOFF_BASE_MS", "100000");
    let host = plan.start("serve").await;
    let before = mail.ledger.received().len();
    let mut outcomes = Vec::new();
    for Scene { key, payload, answer: (status, retry_after) } in scenes() {
        mail.ledger.answer_with(status, retry_after);
        let item = ["--type", "receipt", "--key", key, "--cid", "one", "--payload", &payload];
        // With a JSON content type the command line would refuse the scene whose payload is not JSON.
        let args = [&["enqueue", "--content-type", "text/plain", "--json"][..], &item[..]].concat();
        let id = plan.json(&args)["ids"][0].as_i64().unwrap();
        outcomes.push(outcome(&settled(&host, id).await));
    }
    let thanks = plan.json(&["list", "--type", "thanks", "--json"]);
    let thanks = thanks.as_array().unwrap().iter().map(|item| {
        let item = plan.json(&["show", &item["id"].to_string(), "--json"]);
        json!([item["idem_key"], item["payload"], item["cid"]])
    });
    json!({
        "outcomes": outcomes,
        "requests": mail.ledger.received()[before..].iter().map(request).collect::<Vec<_>>(),
        "followups": thanks.collect::<Vec<_>>(),
        "state": state(&plan, handler),
    })
}

fn state(plan: &HostConfig, handler: &str) -> Value {
    let keys = ["receipts/ada@example.org", "receipts/jürgen@example.org"];
    keys.map(|key| plan.json(&["plugin", "state", "show", handler, key, "--json"])["value"].clone())
        .into_iter()
        .collect()
}

#[tokio::test]
#[ignore = "needs node and python3: make test-languages"]
async fn the_same_items_give_the_same_requests_outcomes_and_state_in_every_language() {
    let mail = Downstream::start().await;
    let mut worlds = Vec::new();
    for handler in RECEIPTS {
        worlds.push((handler, play(handler, &mail).await));
    }
    let (_, expected) = worlds.remove(0);
    assert_eq!(expected["outcomes"][3]["result"], json!({ "receipts": 3 }), "{expected}");
    assert_eq!(expected["followups"].as_array().unwrap().len(), 1, "{expected}");
    assert_eq!(expected["requests"].as_array().unwrap().len(), 8, "{expected}");
    for (handler, world) in worlds {
        for part in ["outcomes", "requests", "followups", "state"] {
            let one = |world: &Value| serde_json::to_string_pretty(&world[part]).unwrap();
            assert_eq!(one(&world), one(&expected), "{part} of {handler}");
        }
    }
}

/// A folder with a handler and the test cases that all languages share.
fn with_cases(handler: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for ending in ["toml", "wasm"] {
        let name = format!("{handler}.{ending}");
        std::fs::copy(languages().join("plugins").join(&name), dir.path().join(&name)).unwrap();
    }
    std::fs::create_dir(dir.path().join("cases")).unwrap();
    for case in std::fs::read_dir(root().join("plugins/receipt/cases")).unwrap() {
        let case = case.unwrap();
        std::fs::copy(case.path(), dir.path().join("cases").join(case.file_name())).unwrap();
    }
    dir
}

#[test]
#[ignore = "needs node and python3: make test-languages"]
fn every_language_passes_the_same_cases_and_no_crash_of_it_does_harm() {
    for handler in RECEIPTS {
        let dir = with_cases(handler);
        let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path())
            .set("OUTBOX_CACHE_DIR", languages().join("cache").to_str().unwrap());
        for verb in ["test", "check"] {
            let output = plan.run(&["plugin", verb, "."]);
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
            assert!(output.status.success(), "{verb} of {handler}: {}", said.join("\n"));
        }
    }
}

/// The handlers of interpreters, which are the large ones.
const LARGE: [&str; 2] = ["js-receipt", "py-receipt"];
/// Fifty plugins with the large ones.
const SMALL: usize = 48;

/// A folder with the small plugins and the large ones. Each handles the type that has its name.
fn fifty(folder: &Path) -> Vec<String> {
    let small: Vec<_> = (0..SMALL).map(|number| format!("small-{number}")).collect();
    std::fs::create_dir(folder).unwrap();
    for name in &small {
        let component = Wat { types: &[name], ..Wat::default() }.bytes();
        std::fs::write(folder.join(format!("{name}.wasm")), component).unwrap();
    }
    let built = languages().join("plugins");
    for name in LARGE {
        let manifest = std::fs::read_to_string(built.join(format!("{name}.toml"))).unwrap();
        let manifest = format!("{manifest}\n[types]\n{name} = \"receipt\"\n");
        install(&built.join(format!("{name}.wasm")), &manifest, folder, name);
    }
    small.into_iter().chain(LARGE.map(str::to_owned)).collect()
}

#[tokio::test]
#[ignore = "needs node and python3: make test-languages"]
async fn of_fifty_plugins_the_small_ones_serve_while_those_of_interpreters_are_compiled() {
    let (dir, mail) = (tempfile::tempdir().unwrap(), Downstream::start().await);
    let folder = dir.path().join("plugins.d");
    let types = fifty(&folder);
    let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path())
        .set("OUTBOX_PLUGINS", folder.to_str().unwrap())
        .set("OUTBOX_CACHE_DIR", dir.path().join("cold").to_str().unwrap())
        .set("MAIL_URL", &format!("{}/receipts", mail.url()));
    let payload = json!({ "order": "first", "customer": "ada@example.org", "cents": 1250 }).to_string();
    for item_type in &types {
        plan.json(&["enqueue", "--type", item_type, "--key", item_type, "--payload", &payload, "--json"]);
    }
    let done = || {
        let items = plan.json(&["list", "DONE", "--limit", "100", "--json"]);
        items.as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let mut starting = std::pin::pin!(plan.start("serve"));
    let served = eventually("the small ones have served", COMPILED, async || {
        let done = done();
        types[..SMALL].iter().all(|item_type| done.contains(item_type))
    });
    // A host is ready when it has compiled all.
    tokio::select! {
        _ = &mut starting => panic!("the host was ready first"),
        () = served => {}
    }
    assert!(!done().contains("py-receipt"), "the largest one is compiled last");
    let _host = starting.await;
    eventually("the large ones have served", COMPILED, async || done().len() == types.len()).await;
}

/// The commands of one tutorial: the lines of the shell blocks under its heading.
fn commands(tutorials: &str, language: &str) -> Vec<String> {
    let section = tutorials.split("\n## ").find(|section| section.starts_with(language)).unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

fn follow(language: &str) {
    let tutorials = std::fs::read_to_string(root().join("docs/handlers.md")).unwrap();
    let commands = commands(&tutorials, language);
    let stated = format!("{language}: {} commands", commands.len());
    assert!(tutorials.contains(&stated), "the document does not say {stated:?}");
    let folder = tempfile::tempdir().unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_outbox")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    // A project is built, tested and checked again and again, so each of these verbs follows its first use.
    let again = ["build", "test", "check"].map(|verb| format!("outbox plugin {verb} hello")).join("\n");
    let script = format!("set -euo pipefail\ntrap 'kill $(jobs -p) || true' EXIT\n{}\n{again}\n", commands.join("\n"));
    let output = Command::new("timeout")
        .args(["1200", "bash", "-c", &script])
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}", binaries.display()))
        .env("OUTBOX_LISTEN", format!("127.0.0.1:{}", free_port()))
        .env("OUTBOX_CACHE_DIR", languages().join("cache"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("greet-ada"), "{stdout}\n{stderr}");
}

/// The tutorials run one after another, because each starts a receiver at the same address.
#[test]
#[ignore = "needs node and python3: make test-languages"]
fn the_tutorials_lead_from_an_empty_folder_to_a_handler_at_work() {
    for language in ["Rust", "JavaScript", "Python"] {
        follow(language);
    }
}
