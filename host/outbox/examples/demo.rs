//! A demonstration of the host with its handlers and two downstream services, step by step, with every step checked.
//!
//! `make demo` starts it. With `--exit` it ends after the last step; without, the host keeps running.
#![expect(clippy::print_stdout, reason = "the walk is printed for its reader")]
#![expect(dead_code, reason = "the support modules serve the tests as well")]

#[path = "../../../tests/support/downstream.rs"]
mod downstream;
#[path = "../../../tests/support/host.rs"]
mod host;
#[path = "../../../tests/support/http.rs"]
mod http;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use downstream::Downstream;
use host::{HostConfig, HostProcess};
use serde_json::{Value, json};

/// A step that takes longer than this has failed.
const STEP_TIMEOUT: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() -> Result<()> {
    let exit = std::env::args().any(|arg| arg == "--exit");
    let demo = Demo::start().await?;
    let demo = demo.walk().await?;
    println!("\nEvery step held.");
    if exit { Ok(()) } else { demo.stay().await }
}

struct Demo {
    dir: PathBuf,
    plan: HostConfig,
    host: HostProcess,
    vector: Downstream,
    belief: Downstream,
}

impl Demo {
    async fn start() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("finding the repository")?;
        let dir = root.join("target/demo");
        prepare(&dir, &root.join("plugins.d"))?;
        step("Two downstream services start: the vector pod and the belief pod");
        let (vector, belief) = (Downstream::start().await, Downstream::start().await);
        println!("   vector pod   {}\n   belief pod   {}", vector.url(), belief.url());
        step("The host starts: SQLite store, worker, sandboxed handlers, HTTP server");
        let plan = HostConfig::new(&binary()?, &dir)
            .set("VECTOR_URL", &vector.url())
            .set("BELIEF_URL", &belief.url())
            .set("WEBHOOK_URL", &format!("{}/hook", belief.url()))
            .set("OUTBOX_MAX_RETRIES", "2")
            .set("OUTBOX_BACKOFF_BASE_MS", "200");
        let host = plan.start("serve").await;
        println!("   host         {}", host.url);
        Ok(Self { dir, plan, host, vector, belief })
    }

    async fn walk(self) -> Result<Self> {
        self.write_once().await?;
        let demo = self.survive_a_dead_pod().await?;
        let writes = demo.replace_a_handler().await?;
        demo.show_the_cockpit(writes).await?;
        Ok(demo)
    }

    /// A write is accepted and performed once. The same write again changes nothing.
    async fn write_once(&self) -> Result<()> {
        step("A write to memory is accepted with 202 once it is durable");
        let first = write(&self.host, "first").await?;
        ensure!(first["outbox_ids"].as_array().is_some_and(|ids| ids.len() == 2), "two items were promised");
        self.all_become(&first, "DONE").await?;
        step("The same write again: the same ids, and no second effect");
        let again = write(&self.host, "first").await?;
        ensure!(again["outbox_ids"] == first["outbox_ids"], "the ids differ");
        effects("the vector pod", &self.vector, 1)?;
        effects("the belief pod", &self.belief, 1)
    }

    /// A downstream service fails: retries, DLQ, recovery, replay.
    async fn survive_a_dead_pod(self) -> Result<Self> {
        step("The vector pod is killed; a write is accepted all the same");
        let Self { dir, plan, host, vector, belief } = self;
        let dead = vector.kill().await;
        let ids = ids(&write(&host, "second").await?)?;
        step("Its vector item is tried, tried again twice, and goes to the DLQ; the belief item is done");
        becomes(&host, ids[0], "DLQ").await?;
        becomes(&host, ids[1], "DONE").await?;
        let item = host.send("GET", &format!("/items/{}", ids[0]), &[], "").await.json();
        for attempt in item["failed_attempts"].as_array().context("the item has a history")? {
            println!("   attempt {}: {} {}", attempt["attempt"], attempt["code"], attempt["message"]);
        }
        ensure!(item["failed_attempts"].as_array().is_some_and(|rows| rows.len() == 3), "three attempts were promised");
        step("The vector pod is brought back, and the item is replayed: DONE");
        let vector = dead.revive().await;
        let demo = Self { dir, plan, host, vector, belief };
        let reason = json!({ "reason": "the vector pod is back" });
        show(&demo.host, "POST", &format!("/items/{}/replay", ids[0]), &[], &reason).await?;
        becomes(&demo.host, ids[0], "DONE").await?;
        effects("the vector pod", &demo.vector, 2)?;
        Ok(demo)
    }

    /// A handler is replaced while items flow.
    async fn replace_a_handler(&self) -> Result<usize> {
        step("A handler is replaced while items flow: none is lost, none is performed twice");
        let before = self.vector.ledger.effects().len();
        let writes = self.write_across_a_replacement().await?;
        let mut digests = BTreeSet::new();
        for write in &writes {
            let items = ids(write)?;
            digests.insert(settled(&self.host, items[0], "DONE").await?["handler_digest"].to_string());
            settled(&self.host, items[1], "DONE").await?;
        }
        let effects = self.vector.ledger.effects().len() - before;
        println!("   {} writes, {} items, all DONE; {effects} more effects", writes.len(), 2 * writes.len());
        println!("   the vector items were handled by {} generations of their handler", digests.len());
        ensure!(effects == writes.len(), "as many effects as writes were promised");
        ensure!(self.vector.ledger.effects().values().all(|times| *times == 1), "an effect was asked for twice");
        ensure!(digests.len() == 2, "two generations of the handler were promised");
        Ok(writes.len())
    }

    /// Writes, replaces the handler, writes until the new one is live, and then writes some more.
    async fn write_across_a_replacement(&self) -> Result<Vec<Value>> {
        let old = self.live_digest().await;
        let mut writes = Vec::new();
        for _ in 0..10 {
            writes.push(self.post_memory(writes.len()).await?);
        }
        replace(&self.dir.join("plugins.d/vector-upsert.wasm"))?;
        println!("   a new vector-upsert.wasm is moved into place after {} writes", writes.len());
        let start = Instant::now();
        while self.live_digest().await == old {
            ensure!(start.elapsed() < STEP_TIMEOUT, "the new handler does not become live");
            writes.push(self.post_memory(writes.len()).await?);
        }
        println!("   it is live after {} writes, {} ms later", writes.len(), start.elapsed().as_millis());
        for _ in 0..10 {
            writes.push(self.post_memory(writes.len()).await?);
        }
        Ok(writes)
    }

    /// The digest of the component that serves vector items now.
    async fn live_digest(&self) -> Value {
        let cockpit = self.host.send("GET", "/status/cockpit", &[], "").await.json();
        let plugins = cockpit["plugins"].as_array().cloned().unwrap_or_default();
        let vector =
            plugins.into_iter().find(|plugin| plugin["name"] == "vector-upsert" && plugin["state"] == "active");
        vector.unwrap_or_default()["digest"].clone()
    }

    async fn show_the_cockpit(&self, writes: usize) -> Result<()> {
        step("The cockpit shows the saga's steps");
        let cockpit = self.host.send("GET", "/status/cockpit", &[], "").await.json();
        let saga = &cockpit["governor"]["sagas"]["WriteMemorySaga"];
        println!("{}", indent(&format!("{saga:#}")));
        // There were two writes and a replay before, and one of the writes ended in the DLQ.
        ensure!(saga["began"] == writes + 3, "{} runs should have begun", writes + 3);
        ensure!(saga["ended_err"] == 1, "one run should have ended with an error");
        ensure!(saga["ended_ok"] == writes + 2, "the others should have ended well");
        Ok(())
    }

    async fn post_memory(&self, number: usize) -> Result<Value> {
        let key = format!("flow-{number}");
        let headers = [("Idempotency-Key", key.as_str()), ("Content-Type", "application/json")];
        let answer = self.host.send("POST", "/memory", &headers, &memory(&key).to_string()).await;
        ensure!(answer.status == 202, "202 was expected, {} came", answer.status);
        Ok(answer.json())
    }

    async fn all_become(&self, write: &Value, status: &str) -> Result<()> {
        for id in ids(write)? {
            becomes(&self.host, id, status).await?;
        }
        Ok(())
    }

    /// Prints commands to try, and keeps everything running until Ctrl-C.
    async fn stay(self) -> Result<()> {
        let (url, binary) = (&self.host.url, binary()?);
        let db = self.dir.join("outbox.sqlite");
        println!("\nThe host stays up until Ctrl-C. Try, in another terminal:\n");
        println!("  export OUTBOX_DB={} PATH={}:$PATH", db.display(), binary.parent().unwrap_or(&binary).display());
        println!("  outbox list            outbox show 3          outbox stats");
        println!("  outbox plugin list     outbox signals         outbox doctor");
        println!("  curl -s {url}/status/cockpit");
        println!("  curl -s {url}/metrics/store");
        println!("  curl -si {url}/memory -H 'Content-Type: application/json' -d '{{\"text\":\"hello\"}}'");
        tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")?;
        let code = self.host.terminate();
        println!("\nThe host drained and ended with status {code:?}.");
        Ok(())
    }
}

/// Writes to memory, and prints the request and the answer.
async fn write(host: &HostProcess, key: &str) -> Result<Value> {
    let headers = [("Idempotency-Key", key), ("X-Correlation-ID", "demo")];
    show(host, "POST", "/memory", &headers, &memory(key)).await
}

/// Prints the effects that a pod has performed, by idempotency key.
fn effects(name: &str, pod: &Downstream, expected: usize) -> Result<()> {
    let effects = pod.ledger.effects();
    println!("   {name} has performed {} effect(s):", effects.len());
    for (key, times) in &effects {
        println!("     {key}  ({times} request(s))");
    }
    ensure!(effects.len() == expected, "{expected} effects were expected");
    Ok(())
}

fn memory(key: &str) -> Value {
    json!({ "text": format!("what {key} remembers") })
}

/// Sends a request and prints it with its answer.
async fn show(host: &HostProcess, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Result<Value> {
    let mut headers = headers.to_vec();
    headers.push(("Content-Type", "application/json"));
    println!("   > {method} {path}");
    for (name, value) in &headers {
        println!("   > {name}: {value}");
    }
    println!("   > {body}");
    let answer = host.send(method, path, &headers, &body.to_string()).await;
    println!("   < {}", answer.status);
    if answer.headers.contains_key("idempotent-replayed") {
        println!("   < Idempotent-Replayed: true");
    }
    println!("   < {}", answer.json());
    ensure!(answer.status.is_success(), "{method} {path} failed");
    Ok(answer.json())
}

fn ids(write: &Value) -> Result<Vec<i64>> {
    let ids = write["outbox_ids"].as_array().context("the answer has outbox_ids")?;
    ids.iter().map(|id| id.as_i64().context("an id is a number")).collect()
}

async fn becomes(host: &HostProcess, id: i64, status: &str) -> Result<()> {
    let item = settled(host, id, status).await?;
    println!("   item {id} ({}) is {status}", item["type"].as_str().unwrap_or_default());
    Ok(())
}

/// Waits until an item has a status, and returns it.
async fn settled(host: &HostProcess, id: i64, status: &str) -> Result<Value> {
    let start = Instant::now();
    loop {
        let item = host.send("GET", &format!("/items/{id}"), &[], "").await.json();
        if item["status"] == status {
            return Ok(item);
        }
        if start.elapsed() > STEP_TIMEOUT {
            bail!("item {id} should be {status} and is {}", item["status"]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes an empty folder with a copy of the handlers.
fn prepare(dir: &Path, plugins: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("clearing {}", dir.display()))?;
    }
    let copies = dir.join("plugins.d");
    std::fs::create_dir_all(&copies).with_context(|| format!("creating {}", copies.display()))?;
    let entries = std::fs::read_dir(plugins)
        .with_context(|| format!("reading {}: build the handlers with `make plugins`", plugins.display()))?;
    for entry in entries {
        let entry = entry.context("reading the handlers' folder")?;
        std::fs::copy(entry.path(), copies.join(entry.file_name())).context("copying a handler")?;
    }
    Ok(())
}

/// Replaces a component with one of the same behaviour and another digest: the same bytes and one more custom section.
fn replace(component: &Path) -> Result<()> {
    let mut bytes = std::fs::read(component).context("reading the handler")?;
    // A custom section: id 0, its length in bytes, the length of its name, its name.
    bytes.extend_from_slice(b"\x00\x05\x04demo");
    let fresh = component.with_extension("new");
    std::fs::write(&fresh, &bytes).context("writing the new handler")?;
    std::fs::rename(&fresh, component).context("moving the new handler into place")
}

/// The binary `outbox`, which was built beside this example.
fn binary() -> Result<PathBuf> {
    let example = std::env::current_exe().context("finding the demo's own path")?;
    let folder = example.parent().and_then(Path::parent).context("finding the build folder")?;
    Ok(folder.join("outbox"))
}

fn step(title: &str) {
    println!("\n── {title}");
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}
