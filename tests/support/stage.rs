//! A whole deployment: the real binary, the repository's handlers, and two pods that the handlers call.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::downstream::Downstream;
use super::host::{HostConfig, HostProcess};
use super::warm::WarmCache;
use super::{Backend, TestDb, eventually, guests};

/// The limit for everything that a test expects of a host; a minute allows for busy machines.
const SOON: Duration = Duration::from_mins(1);

/// A host's folder with the repository's handlers in it, and two pods that the handlers call.
pub(crate) struct Deployment {
    pub(crate) plan: HostConfig,
    pub(crate) vector: Downstream,
    pub(crate) belief: Downstream,
    // Dropped before the folder: it keeps the code that the hosts of this deployment compiled.
    pub(crate) _cache: WarmCache,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) test_db: TestDb,
}

impl Deployment {
    /// A deployment on SQLite.
    pub(crate) async fn new() -> Self {
        Self::on(TestDb::new(Backend::Sqlite)).await
    }

    pub(crate) async fn on(test_db: TestDb) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["vector-upsert", "belief-recompute", "webhook"] {
            install(name, &dir.path().join("plugins.d"));
        }
        let cache = WarmCache::fill(dir.path().join("cache"));
        let (vector, belief) = (Downstream::start().await, Downstream::start().await);
        let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path())
            .set("OUTBOX_DB", &test_db.address())
            .set("VECTOR_URL", &vector.url())
            .set("BELIEF_URL", &belief.url())
            .set("WEBHOOK_URL", &format!("{}/hook", vector.url()))
            .set("OUTBOX_BACKOFF_BASE_MS", "50");
        Self { plan, vector, belief, _cache: cache, dir, test_db }
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins.d")
    }
}

/// Copies one of the repository's handlers with its manifest.
pub(crate) fn install(name: &str, folder: &Path) {
    let built = guests::plugins();
    let manifest = std::fs::read_to_string(built.join(format!("{name}.toml"))).unwrap();
    guests::install(&built.join(format!("{name}.wasm")), &manifest, folder, name);
}

const JSON: (&str, &str) = ("content-type", "application/json");

pub(crate) async fn write_memory(host: &HostProcess, key: &str) -> Value {
    let headers = [JSON, ("idempotency-key", key), ("x-correlation-id", "cid-1")];
    let answer = host.send("POST", "/memory", &headers, &json!({ "text": key }).to_string()).await;
    assert_eq!(answer.status, 202, "{:?}", answer.body);
    assert_eq!((&answer.json()["idem_key"], &answer.json()["cid"]), (&json!(key), &json!("cid-1")));
    answer.json()
}

pub(crate) fn ids(write: &Value) -> Vec<i64> {
    write["outbox_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

pub(crate) async fn becomes(host: &HostProcess, id: i64, status: &str) -> Value {
    let mut item = Value::Null;
    eventually(&format!("item {id} is {status}"), SOON, async || {
        item = host.send("GET", &format!("/items/{id}"), &[], "").await.json();
        item["status"] == status
    })
    .await;
    item
}
