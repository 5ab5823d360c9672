//! The outbox in a PostgreSQL database, in the schema `outbox`, which pods on many machines share.
//!
//! # Connections
//! Workers, calls and probes have connections of their own (`pool`). When the server becomes read-only or shuts down,
//! the store uses none of them again, and connects to the server that takes writes.
//!
//! # Writing
//! Each request is a transaction of its own on a connection of the pool (`pool`, `tx`). Settlements and claims of one
//! process are committed in groups (`group_queue`, `group`). The store repeats a transaction that lost a race, or lost
//! its connection before the commit, a bounded number of times (`context`).
//!
//! # Round trips
//! Statements that are polled together are sent together. A transaction sends its first statements with BEGIN and its
//! last with COMMIT; a group that settles and claims takes three round trips and one flush of the log, and an enqueue of
//! one item takes one.
//!
//! # Places
//! An item is in one of four tables: the queue, a lease, the DONE items or the DLQ. A transition deletes it from one
//! and inserts it into another (`places`, `leases`). What applications inserted never changes. Statements that are run
//! often are functions of the schema, whose plans the server keeps; no statement is prepared by a name, and no setting
//! belongs to a session. So connections work through a pooler that gives each transaction another session.
//!
//! # Locks
//! Every transaction waits for locks in this order: items that it deletes, lines of ordering keys, leases and other
//! places, states, sagas, alerts, signals. A transaction waits for a line only while it holds no lease and no place. The
//! deletion of an item by an application does the same (`outbox.after_delete`). A claim tries the locks of limits and lines, skips rows
//! that others hold (`ordering`), and waits for sagas only. So it follows settlements in one transaction unless those
//! hold the lock of a saga or of an alert (`group`).
//!
//! # Other pods
//! Every insert sends a notification (`listen`). Where none arrives, each pod looks for work instead, less and less often
//! while there is none (`poller`).
//!
//! # Time
//! The database's clock, read once per transaction, because the clocks of hosts differ. Tests use a clock of their own.

#![deny(missing_docs)]

mod content;
#[macro_use]
mod context;
mod abandon;
mod alerts;
mod audit;
mod backlog;
#[cfg(feature = "bench-support")]
pub mod bench_support;
mod claim;
mod claim_end;
mod claim_limits;
mod claim_lines;
mod column_type;
mod complete;
mod control;
mod descendants;
mod diagnostics;
mod enqueue;
mod error;
mod expire;
mod export_snapshot;
mod fair_keys;
mod fair_share;
mod gather;
mod group;
mod group_queue;
mod group_size;
mod health;
mod history;
mod item_query;
mod jobs;
mod key_totals;
mod known_digests;
mod late_settlements;
mod leased_rows;
mod leases;
mod listen;
mod looks;
mod maintain;
mod migrate;
mod moved_rows;
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
mod poller;
mod pool;
mod quarantine;
mod queries;
mod rates;
mod record_columns;
mod refused_types;
mod renew;
mod retrying;
mod rows;
mod saga_signals;
mod sequences;
mod settle;
mod sql_value;
mod store_impl;
mod streaks;
mod stuck;
mod transfer;
mod tx;

use std::sync::Arc;

use outbox_store::StoreError;
use outbox_store::engine::retention_look::RetentionLook;

use crate::context::PgContext;
use crate::group_queue::GroupQueue;
use crate::listen::ChangeListener;
use crate::pool::{Pool, Purpose};

pub use crate::diagnostics::{LongTransaction, ServerDiagnostics};
pub use crate::migrate::{Notify, migrate, plan_migration, schema_sql};
pub use crate::options::PostgresOptions;
pub use crate::sequences::SequenceBehind;

/// A durable outbox in a PostgreSQL database.
pub struct PostgresStore {
    pg: Arc<PgContext>,
    groups: GroupQueue,
    done_look: RetentionLook,
    dead_look: RetentionLook,
    _change_listener: ChangeListener,
}

impl PostgresStore {
    /// Opens the database at the URL, after creating or migrating the outbox's schema where needed, and advances
    /// sequences that a restore left behind. Errors as [`migrate()`] does.
    pub async fn open(url: &str, options: PostgresOptions) -> Result<Arc<Self>, StoreError> {
        migrate(url, &options, Notify::Keep).await?;
        let store = Self::open_existing(url, options).await?;
        let pg = &store.pg;
        let compare = async || sequences::advance_if_behind(&pg.pool.connection(Purpose::Call).await?).await;
        pg.with_retries("comparing sequences with the numbers in use", compare).await?;
        Ok(store)
    }

    /// Opens a database that has the present schema; creates and migrates nothing. Errors with [`StoreError::Unusable`]
    /// when the database has no outbox or another schema.
    pub async fn open_existing(url: &str, options: PostgresOptions) -> Result<Arc<Self>, StoreError> {
        let pool = Pool::new(url, &options)?;
        let notifies = migrate::check(&pool).await?;
        let pg = Arc::new(PgContext::new(pool, options, notifies));
        let groups = GroupQueue::start(&pg);
        let listener = ChangeListener::start(&pg);
        let (done_look, dead_look) = (RetentionLook::default(), RetentionLook::default());
        Ok(Arc::new(Self { pg, groups, done_look, dead_look, _change_listener: listener }))
    }
}
