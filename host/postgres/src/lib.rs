//! The outbox in a PostgreSQL database, in the schema `outbox`, shared by pods on many machines.
//!
//! # Writing
//! Each request is a transaction of its own on a connection of the pool (`pool`, `step`); settlements of
//! this process are committed in groups (`settler`). A transaction that lost a race or its connection before
//! the commit is made again, a bounded number of times (`caller`).
//!
//! # Locks
//! Always in this order: limits of types, fronts of ordering keys, items, states, alerts, sagas, signals, totals.
//! The fronts are waited for by whoever holds no item; a claim, which holds items, only tries.
//!
//! # Other pods
//! Every insert notifies (`listen`), unless the migration left that out; then the snapshot of the database
//! is looked at every 50 ms.
//!
//! # Time
//! The database's clock, read once per transaction, because hosts disagree. Tests give one of their own.

#[macro_use]
mod context;
mod alerts;
mod audit;
pub mod bench_support;
mod claim;
mod claim_end;
mod claim_limits;
mod control;
mod diagnostics;
mod enqueue;
mod error;
mod expire;
mod failures;
mod fair_share;
mod health;
mod jobs;
mod listen;
mod maintain;
mod migrate;
mod operate;
mod ordering;
mod plugin_state;
mod pods;
mod pool;
mod quarantine;
mod queries;
mod rows;
mod saga_signals;
mod settle;
mod settlement_queue;
mod signals;
mod state_queries;
mod store_impl;
mod stuck;
mod transfer;
mod tx;

use std::sync::Arc;
use std::time::Duration;

use crate::context::PgContext;
use crate::listen::ChangeListener;
use crate::pool::Pool;
use crate::settlement_queue::SettlementQueue;
use outbox_store::engine::alerts::AlertSettings;
use outbox_store::{Clock, StoreError};

pub use crate::diagnostics::{LongTransaction, ServerDiagnostics};
pub use crate::enqueue::enqueue_in;
pub use crate::migrate::{Notify, migrate};

/// How a store is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// The instance id of this process, written into claims and signals.
    pub instance: String,
    /// A clock instead of the database's, for tests.
    pub clock: Option<Clock>,
    /// What operators are told by items of their own; `None` tells them nothing.
    pub alerts: Option<AlertSettings>,
    /// At most so many connections, besides one that listens.
    pub connections: usize,
    /// A statement takes no longer, and a wait for a lock or a connection half of it.
    pub statement_timeout: Duration,
    /// Certificates in PEM of those who may vouch for the server, instead of the public ones.
    pub root_certificates: Option<Vec<u8>>,
}

impl Default for PostgresOptions {
    /// The database's clock, eight connections, ten seconds and an instance id that is new every time.
    fn default() -> Self {
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let (connections, statement_timeout) = (8, Duration::from_secs(10));
        Self { instance, clock: None, alerts: None, connections, statement_timeout, root_certificates: None }
    }
}

/// A durable outbox in a PostgreSQL database.
pub struct PostgresStore {
    pg: Arc<PgContext>,
    settlements: SettlementQueue,
    _change_listener: ChangeListener,
}

impl PostgresStore {
    /// Opens the database at the URL, creating and migrating the outbox's schema where that is needed.
    pub async fn open(url: &str, options: PostgresOptions) -> Result<Arc<Self>, StoreError> {
        migrate(url, &options, Notify::Keep).await?;
        Self::open_existing(url, options).await
    }

    /// Opens a database that has the outbox's schema already; creates and migrates nothing.
    pub async fn open_existing(url: &str, options: PostgresOptions) -> Result<Arc<Self>, StoreError> {
        let pool = Pool::new(url, &options)?;
        let notifies = migrate::check(&pool).await?;
        let pg = Arc::new(PgContext::new(pool, options, notifies));
        let settlements = SettlementQueue::start(&pg);
        let listener = ChangeListener::start(&pg);
        Ok(Arc::new(Self { pg, settlements, _change_listener: listener }))
    }
}
