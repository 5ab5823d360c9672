//! The outbox in a SQLite file: the application's own file, or one for the outbox alone.
//!
//! # Writing
//! One thread per process owns the writing connection (`writer`). It runs the queued requests in one transaction and
//! replies after the commit, so that many requests share one fsync. The group of requests runs without savepoints. When
//! a request fails after a change, the group is rolled back and rerun with a savepoint for each request (`group`).
//!
//! # Reading
//! Short reads run on read-only connections (`read_pool`). They create and migrate nothing.
//!
//! # The file
//! The store compares device and inode of the file at its path with those that it opened, before each read and after
//! each commit (`database_file`). So nothing is acknowledged that was written into a removed or replaced file. The
//! writer opens a file that takes the place of another.
//!
//! # Several processes
//! The file is in WAL mode, and every write begins with `BEGIN IMMEDIATE`. A process notices the commits of others by
//! SQLite's `data_version` (`commit_watcher`).
//!
//! # Time
//! The clock is an option. Each write transaction reads it once, while it holds the write lock.
//!
//! # Places
//! An item is in one of four tables: the queue, a lease, the DONE or the dead ones (`places`, `leases`). The table of
//! items holds what the caller said, and is written once. The view `outbox_status` joins them for readers.
//!
//! # Rules in the schema
//! Triggers put a new item into the queue, implement the ordering of items with an ordering key (`ordering`), and parts
//! of the totals (`overview`, `plugin_state`), the saga runs (`saga_signals`) and the audit trail (`audit`). So these
//! rules also hold for items that an application inserts or deletes with SQL.

#![deny(missing_docs)]

mod abandon;
mod alerts;
mod audit;
mod backlog;
mod backup;
mod bad_rows;
mod batch;
#[cfg(feature = "bench-support")]
pub mod bench_support;
mod claim;
mod claim_items;
mod claim_limits;
mod claim_progress;
mod commit_watcher;
mod complete;
mod connection;
mod content;
mod control;
mod database_copy;
mod database_file;
mod descendants;
mod enqueue;
mod error;
mod expire;
mod export_snapshot;
mod fair_keys;
mod group;
mod history;
mod id_list;
mod id_search;
mod jobs;
mod key_totals;
mod leases;
mod long_poll;
mod maintain;
mod migrate;
mod moved_rows;
mod nearest;
mod operate;
mod options;
mod ordering;
mod overview;
mod owners;
mod page_look;
mod past;
mod places;
mod plugin_state;
mod pods;
mod quarantine;
mod queries;
mod rates;
mod read_pool;
mod record_columns;
mod renew;
mod retrying;
mod rows;
mod saga_signals;
mod sequences;
mod settle;
mod store_impl;
mod streaks;
mod stuck;
mod suspects;
mod transfer;
mod write_op;
mod write_tx;
mod writer;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use outbox_store::engine::retention_look::RetentionLook;
use outbox_store::{Clock, StoreError};

use crate::commit_watcher::CommitWatcher;
use crate::database_file::DatabaseFile;
use crate::error::unavailable;
use crate::read_pool::ReadPool;
use crate::write_tx::WriteConnection;
use crate::writer::Writer;

pub use crate::backup::{BackupReport, backup};
pub use crate::migrate::{Backup, migrate, migrate_with, plan_migration, schema_sql};
pub use crate::options::SqliteOptions;

/// Reads that run at a time. More would compete for the few cores of a small host.
const READS_MAX: usize = 4;

/// A durable outbox in a SQLite file. Dropping it waits until the queued writes are committed.
pub struct SqliteStore {
    writer: Writer,
    read_pool: Arc<ReadPool>,
    /// The connection of [`probe`](outbox_store::Inspect::probe), which waits for no other read.
    probe_pool: Arc<ReadPool>,
    done_look: RetentionLook,
    dead_look: RetentionLook,
    clock: Clock,
    changes: Arc<watch::Sender<u64>>,
    _watcher: CommitWatcher,
}

impl SqliteStore {
    /// Opens the file, after creating it, or copying and migrating it, where needed. Errors as [`migrate()`] does.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Arc<Self>, StoreError> {
        migrate(path)?;
        Self::open_existing(path, options)
    }

    /// Opens a file that has the present schema; creates and migrates nothing. Errors with [`StoreError::Unusable`]
    /// when the file does not exist or has another schema.
    pub fn open_existing(path: &Path, options: SqliteOptions) -> Result<Arc<Self>, StoreError> {
        migrate::check(path)?;
        let opened = WriteConnection::open(path, options.clone());
        let connection = opened.map_err(unavailable("opening the database for writing"))?;
        let file = Arc::new(DatabaseFile::opened(path));
        let changes = Arc::new(watch::Sender::new(0));
        let watcher = CommitWatcher::start(Arc::clone(&file), Arc::clone(&changes))?;
        let clock = Arc::clone(&options.clock);
        let writer = Writer::start(connection, Arc::clone(&file), options, Arc::clone(&changes))?;
        let probe_pool = Arc::new(ReadPool::new(Arc::clone(&file), 1));
        let read_pool = Arc::new(ReadPool::new(file, READS_MAX));
        let (done_look, dead_look) = (RetentionLook::default(), RetentionLook::default());
        Ok(Arc::new(Self { writer, read_pool, probe_pool, done_look, dead_look, clock, changes, _watcher: watcher }))
    }
}
