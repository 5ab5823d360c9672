//! The outbox in a SQLite file.
//!
//! # Writing
//! One thread per process owns the writing connection (`writer`). It commits whatever has queued in one
//! transaction, each request in its own savepoint, and answers after the commit: one fsync for many.
//!
//! # Reading
//! Short reads on read-only connections (`reader`); they neither create nor migrate anything.
//!
//! # Several processes
//! WAL and `BEGIN IMMEDIATE`. A commit by another process is noticed by its `data_version` (`watch`).
//!
//! # Time
//! The clock is an argument. It is read once per transaction, while the write lock is held.

mod alerts;
mod audit;
mod batch;
pub mod bench_support;
mod claim;
mod commit_watcher;
mod complete;
mod control;
mod enqueue;
mod failures;
mod group;
mod jobs;
mod long_poll;
mod maintain;
mod migrate;
mod operate;
mod plugin_state;
mod pods;
mod quarantine;
mod queries;
mod read_pool;
mod rows;
mod saga_signals;
mod settle;
mod stuck;
mod transfer;
mod write_tx;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch as channel;

use crate::complete::CompletionRow;
use crate::read_pool::ReadPool;
use crate::writer::Writer;
use outbox_core::saga::Signal;
use outbox_core::{Settlement, StateVersion};
use outbox_item::{Item, ItemId, Millis, NewItem};
use outbox_store::engine::alerts::AlertSettings;
use outbox_store::engine::validate;
use outbox_store::{
    Alert, AuditEntry, AuditQuery, BatchMode, ClaimBatch, ClaimRef, ClaimRequest, ClearStateRequest, Clock,
    ControlReport, ControlRequest, EnqueueReport, Execution, ExportPage, ExportPosition, FailureGroup, Filter,
    ImportReport, ItemDetails, Job, JobId, LongPoll, MaintenanceReport, OperateReport, OperateRequest, Operations,
    Overview, Page, Pause, Pod, QuarantineRecord, Record, Retention, SettleRequest, StateEntry, StateQuery, StateTotal,
    Store, StoreError, StuckEntry, StuckQuery, Violation,
};

pub use crate::enqueue::enqueue_in;
pub use crate::migrate::migrate;

/// How a store is opened.
#[derive(Clone)]
pub struct SqliteOptions {
    /// The instance id of this process, written into claims and signals.
    pub instance: String,
    /// The store's clock.
    pub clock: Clock,
    /// What operators are told by items of their own; `None` tells them nothing.
    pub alerts: Option<AlertSettings>,
}

impl Default for SqliteOptions {
    /// The system's clock and an instance id that is new every time.
    fn default() -> Self {
        Self { instance: uuid::Uuid::new_v4().simple().to_string(), clock: Arc::new(system_clock), alerts: None }
    }
}

fn system_clock() -> Millis {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since_epoch.as_millis()).unwrap_or(Millis::MAX)
}

/// A durable outbox in a SQLite file. Dropping it waits for what has been queued to be written.
pub struct SqliteStore {
    writer: Writer,
    read_pool: Arc<ReadPool>,
    clock: Clock,
    changes: Arc<channel::Sender<u64>>,
    _watcher: commit_watcher::CommitWatcher,
}

impl SqliteStore {
    /// Opens the file, creating and migrating it where that is needed.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Arc<Self>, StoreError> {
        migrate(path)?;
        Self::open_existing(path, options)
    }

    /// Opens a file that has the outbox's schema already; creates and migrates nothing.
    pub fn open_existing(path: &Path, options: SqliteOptions) -> Result<Arc<Self>, StoreError> {
        migrate::check(path)?;
        let changes = Arc::new(channel::Sender::new(0));
        let watcher = commit_watcher::CommitWatcher::start(path, Arc::clone(&changes))?;
        let writer = Writer::start(path, options.clone(), Arc::clone(&changes))?;
        let read_pool = Arc::new(ReadPool::new(path));
        Ok(Arc::new(Self { writer, read_pool, clock: options.clock, changes, _watcher: watcher }))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn now(&self) -> Result<Millis, StoreError> {
        Ok((self.clock)())
    }

    async fn enqueue(&self, mut items: Vec<NewItem>, mode: BatchMode) -> Result<EnqueueReport, StoreError> {
        if items.len() == 1
            && let Some(item) = items.pop()
        {
            validate(std::slice::from_ref(&item))?;
            let created = self.writer.enqueue(item).await?;
            return Ok(EnqueueReport { ids: vec![Some(created.id)], created: usize::from(created.is_new) });
        }
        self.writer.run("enqueueing items", move |tx| enqueue::enqueue(tx, &items, mode)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
        let request = request.clone();
        self.writer.run("claiming items", move |tx| claim::claim(tx, &request)).await
    }

    async fn claim_long_poll(&self, request: &ClaimRequest) -> Result<(ClaimBatch, Option<LongPoll>), StoreError> {
        self.writer.claim(request.clone()).await
    }

    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError> {
        let claim = claim.clone();
        match request.settlement {
            Settlement::Done { result, writes } if writes.is_empty() => {
                self.writer.complete(CompletionRow::new(claim, result, request.handler_digest)).await
            }
            _ => self.writer.run("settling a claim", move |tx| settle::settle(tx, &claim, &request)).await,
        }
    }

    async fn expire_leases(&self) -> Result<u32, StoreError> {
        self.writer.run("ending expired leases", claim::expire_leases).await
    }

    async fn list(&self, filter: &Filter, page: &Page) -> Result<Vec<Item>, StoreError> {
        let (filter, page) = (filter.clone(), *page);
        self.read_pool.run("listing items", move |tx| queries::list(tx, &filter, page)).await
    }

    async fn get(&self, id: ItemId) -> Result<Option<ItemDetails>, StoreError> {
        self.read_pool.run("reading an item", move |tx| queries::get(tx, id)).await
    }

    async fn operate(&self, request: &OperateRequest) -> Result<OperateReport, StoreError> {
        operate::operate(self, request).await
    }

    async fn signals(&self, after: i64, limit: u32) -> Result<Vec<Signal>, StoreError> {
        self.read_pool.run("reading signals", move |tx| queries::signals(tx, after, limit)).await
    }

    async fn overview(&self) -> Result<Overview, StoreError> {
        let now = (self.clock)();
        let mut overview = self.read_pool.run("counting items", move |tx| queries::overview(tx, now)).await?;
        overview.database_bytes = file_bytes(self.read_pool.path());
        overview.wal_bytes = file_bytes(&path_with_suffix(self.read_pool.path(), "-wal"));
        Ok(overview)
    }

    async fn run_maintenance(&self, retention: &Retention) -> Result<MaintenanceReport, StoreError> {
        maintain::run_maintenance(self, *retention).await
    }

    async fn heartbeat(&self, pod: &Pod) -> Result<(), StoreError> {
        let pod = pod.clone();
        self.writer.run("writing a heartbeat", move |tx| pods::heartbeat(tx, &pod)).await
    }

    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError> {
        let count = move |tx: &mut write_tx::WriteTx<'_>| {
            tx.count("violation", "", "", violation.as_str(), 1);
            Ok(())
        };
        self.writer.run("counting a contract violation", count).await
    }

    async fn read_state(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StoreError> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        self.read_pool.run("reading a plugin's state", move |tx| plugin_state::read(tx, &plugin, &key)).await
    }

    async fn quarantine(&self, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError> {
        let [digest, plugin, reason] = [digest, plugin, reason].map(str::to_owned);
        let add = move |tx: &mut write_tx::WriteTx<'_>| quarantine::add(tx, &digest, &plugin, &reason);
        self.writer.run("quarantining a component", add).await
    }

    async fn list_quarantine(&self) -> Result<Vec<QuarantineRecord>, StoreError> {
        self.read_pool.run("reading the quarantine", |tx| quarantine::list(tx)).await
    }

    async fn lift_quarantine(&self, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, StoreError> {
        let (digest, actor, reason) = (digest.to_owned(), actor.to_owned(), reason.map(str::to_owned));
        let release = move |tx: &mut write_tx::WriteTx<'_>| quarantine::release(tx, &digest, &actor, reason.as_deref());
        self.writer.run("lifting a quarantine", release).await
    }

    async fn state_totals(&self) -> Result<Vec<StateTotal>, StoreError> {
        self.read_pool.run("reading how much state there is", plugin_state::totals).await
    }

    async fn list_state(&self, query: &StateQuery) -> Result<Vec<StateEntry>, StoreError> {
        let query = query.clone();
        self.read_pool.run("listing a plugin's state", move |tx| plugin_state::list(tx, &query)).await
    }

    async fn clear_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
        let request = request.clone();
        self.writer.run("clearing a plugin's state", move |tx| plugin_state::clear(tx, &request)).await
    }

    fn subscribe(&self) -> channel::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[async_trait]
impl Operations for SqliteStore {
    async fn start_job(&self, request: &OperateRequest, per_second: Option<u32>) -> Result<Job, StoreError> {
        jobs::start(self, request, per_second).await
    }

    async fn run_job_batch(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        jobs::run_batch(self, id).await
    }

    async fn jobs(&self, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.read_pool.run("reading jobs", move |tx| jobs::list(tx, id, limit)).await
    }

    async fn control(&self, request: &ControlRequest) -> Result<ControlReport, StoreError> {
        let request = request.clone();
        self.writer.run("carrying out a command", move |tx| control::control(tx, &request)).await
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        self.read_pool.run("reading what is paused", control::pauses).await
    }

    async fn failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError> {
        let filter = filter.clone();
        self.read_pool.run("grouping failures", move |tx| failures::groups(tx, &filter, limit)).await
    }

    async fn stuck(&self, query: &StuckQuery) -> Result<Vec<StuckEntry>, StoreError> {
        let (query, now) = (query.clone(), (self.clock)());
        self.read_pool.run("looking for what is stuck", move |tx| stuck::stuck(tx, &query, now)).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let query = query.clone();
        self.read_pool.run("reading the audit trail", move |tx| audit::list(tx, &query)).await
    }

    async fn export(&self, after: ExportPosition, limit: u32) -> Result<ExportPage, StoreError> {
        self.read_pool.run("exporting records", move |tx| transfer::export(tx, after, limit)).await
    }

    async fn send_alert(&self, alert: &Alert) -> Result<(), StoreError> {
        let alert = alert.clone();
        self.writer.run("announcing an alert", move |tx| alerts::send_alert(tx, &alert)).await
    }

    async fn import(&self, records: Vec<Record>, execution: Execution) -> Result<ImportReport, StoreError> {
        self.writer.run("importing records", move |tx| transfer::import(tx, &records, execution)).await
    }
}

/// A busy database is waited for so long; then the request fails as unavailable.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Else the planner looks at the values that are bound, and a claim is compiled anew each time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

fn connect_read_only(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn unavailable(tried: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Unavailable { tried, source: Box::new(source) }
}

fn path_with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn file_bytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |meta| meta.len())
}
