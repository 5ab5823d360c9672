//! The number of instructions that one item costs; `make bench-counts` runs this program under callgrind.
//!
//! `counts fill FOLDER ITEMS` enqueues items into a new store, `counts native FOLDER ITEMS` and
//! `counts sandbox FOLDER ITEMS` handle them to their end, and `counts enqueue FOLDER ITEMS` enqueues them one by one.
//! The program uses as few threads as the host can have, so that two runs execute the same instructions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use outbox::core::{
    Attempt, AttemptReport, BreakerMode, CrashBudget, Handler, HostWrites, Outcome, OwnersError, PresentPlugin,
    QuarantineEntry, QuarantineError, QuarantineStore, RetryPolicy, ServedType, StateReadError, StateReader,
    StateVersion, TypeOwner, TypeOwners,
};
use outbox::item::NewItem;
use outbox::runtime::{PluginSettings, Plugins, SystemResolver};
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::{BatchMode, Enqueue as _};
use outbox::worker::{Worker, WorkerSettings};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The path of the component from `outbox bench`.
const NOOP: &str = include_str!("../src/bench/noop.wat");
/// The type that the component serves.
const TYPE: &str = "noop";
/// Attempts in flight, and so items that are claimed and settled together.
const CONCURRENCY: usize = 100;
/// Longer than every run under callgrind.
const LEASE: Duration = Duration::from_mins(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let [what, folder, items] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| usage())?;
    let (folder, items) = (PathBuf::from(folder), items.parse().context("reading ITEMS")?);
    let store = SqliteStore::open(&folder.join("outbox.db"), SqliteOptions::default())?;
    match what.as_str() {
        "fill" => fill(&store, items).await,
        "enqueue" => enqueue(&store, items).await,
        "native" => drain(store, Arc::new(NativeHandler(watch::Sender::new(0))), items).await,
        "sandbox" => drain(store, sandbox(&folder).await?, items).await,
        _ => Err(usage()),
    }
}

fn usage() -> anyhow::Error {
    anyhow::anyhow!("counts fill|enqueue|native|sandbox FOLDER ITEMS")
}

fn item(number: usize) -> NewItem {
    let payload = format!(r#"{{"number":{number:>6},"text":"{}"}}"#, "x".repeat(170));
    NewItem::new(TYPE, &format!("key-{number:08}"), payload)
}

async fn fill(store: &SqliteStore, items: usize) -> Result<()> {
    store.enqueue((0..items).map(item).collect(), BatchMode::PerItem).await?;
    Ok(())
}

async fn enqueue(store: &SqliteStore, items: usize) -> Result<()> {
    for number in 0..items {
        store.enqueue(vec![item(number)], BatchMode::PerItem).await?;
    }
    Ok(())
}

/// Handles the items of the store. Returns when `items` attempts have been settled.
async fn drain(store: Arc<SqliteStore>, handler: Arc<dyn Handler>, items: usize) -> Result<()> {
    let stop = CancellationToken::new();
    let counted = Counted { handler, left: AtomicUsize::new(items), stop: stop.clone() };
    let settings = WorkerSettings {
        instance: "counts".to_owned(),
        concurrency: CONCURRENCY,
        prefetch: CONCURRENCY,
        payload_bytes: 64 << 20,
        lease: LEASE,
        drain: LEASE,
        crash_budget: CrashBudget::default(),
    };
    // The last attempt stops the worker, which then still settles all attempts.
    Worker::new(store, Arc::new(counted), settings).run(stop).await;
    Ok(())
}

/// Passes attempts on to a handler, and stops the worker after the last of them.
struct Counted {
    handler: Arc<dyn Handler>,
    left: AtomicUsize,
    stop: CancellationToken,
}

#[async_trait]
impl Handler for Counted {
    fn served_types(&self) -> Vec<ServedType> {
        self.handler.served_types()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.handler.changes()
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        let report = self.handler.handle(attempt).await;
        assert!(matches!(report.outcome, Outcome::Done { .. }), "{report:?}");
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.cancel();
        }
        report
    }
}

/// A handler without a sandbox that does nothing.
struct NativeHandler(watch::Sender<u64>);

#[async_trait]
impl Handler for NativeHandler {
    fn served_types(&self) -> Vec<ServedType> {
        vec![ServedType::new(TYPE)]
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    async fn handle(&self, _: Attempt) -> AttemptReport {
        AttemptReport::without_component(Outcome::Done { result: None, writes: HostWrites::default() })
    }
}

/// A component that does nothing, in the sandbox of the host.
async fn sandbox(folder: &Path) -> Result<Arc<dyn Handler>> {
    let settings = PluginSettings {
        dirs: vec![folder.join("plugins.d")],
        image_dirs: Vec::new(),
        role: None,
        cache_dir: folder.join("cache"),
        keeps_in_cache: true,
        attempt_time: outbox_worker::attempt_time_without_timeout(LEASE),
        retry: RetryPolicy::default(),
        breaker: BreakerMode::Off,
        slots: CONCURRENCY,
        environment: Arc::new(|_| None),
        keys: Vec::new(),
        ca_files: Vec::new(),
        state: Arc::new(WithoutStore),
        quarantine: Arc::new(WithoutStore),
        owners: Arc::new(WithoutStore),
        resolver: Arc::new(SystemResolver),
    };
    std::fs::create_dir_all(&settings.dirs[0])?;
    std::fs::write(settings.dirs[0].join("noop.wasm"), wat::parse_str(NOOP)?)?;
    let plugins = Plugins::start(settings, &CancellationToken::new())?;
    plugins.scanned().await;
    if plugins.served_types().is_empty() {
        bail!("the component is not served: {:?}", plugins.status());
    }
    Ok(plugins)
}

/// State and quarantine for a component that uses no state and never fails.
struct WithoutStore;

#[async_trait]
impl StateReader for WithoutStore {
    async fn read(&self, _: &str, _: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        Ok((None, None))
    }
}

#[async_trait]
impl QuarantineStore for WithoutStore {
    async fn add(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        Err(QuarantineError::new(format!("{} faulted: {}", entry.plugin, entry.reason)))
    }

    async fn pause(&self, _: &str, _: &str) -> Result<(), QuarantineError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        Ok(Vec::new())
    }
}

#[async_trait::async_trait]
impl TypeOwners for WithoutStore {
    async fn exchange(&self, _: &[PresentPlugin]) -> Result<Vec<TypeOwner>, OwnersError> {
        Ok(Vec::new())
    }
}
