//! One moment of the database, for an export: a transaction that reads one snapshot and stays open.
//!
//! It does not know what is exported.

use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Client;
use tokio_postgres::error::SqlState;

use outbox_store::{ExportPage, ExportPosition, ExportSnapshot, StoreError};

use crate::error::PgError;
use crate::pool::{Pool, Purpose};
use crate::transfer;

/// How often the lock of the items is tried. A lock that is waited for makes every later insert wait, so each try is
/// short, with a pause behind it.
const LOCK_TRIES: u32 = 60;
const LOCK_PAUSE: Duration = Duration::from_millis(500);
const LOCK: &str = "BEGIN; SET LOCAL lock_timeout = '500ms'; LOCK TABLE outbox.items IN SHARE MODE";

/// The snapshot is taken by the first statement that reads. It may stay open for as long as an export takes.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '60s';
    SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL jit = off; SELECT 1 FROM outbox.jobs LIMIT 1";

/// A connection in a transaction. It leaves its pool and is closed with this, which ends the transaction.
pub(crate) struct PgSnapshot(Option<Client>);

impl PgSnapshot {
    /// Begins while no transaction that has inserted items is open, so that all that they committed is in the snapshot.
    /// Inserts wait for it no longer than for one try.
    pub(crate) async fn begin(pool: &Pool) -> Result<Self, PgError> {
        let locking = lock_items(pool).await?;
        let snapshot = Self(Some(pool.connection(Purpose::Call).await?));
        snapshot.client()?.batch_execute(BEGIN).await?;
        locking.batch_execute("ROLLBACK").await?;
        Ok(snapshot)
    }

    fn client(&self) -> Result<&Client, PgError> {
        self.0.as_ref().ok_or(PgError::TimedOut)
    }
}

impl Drop for PgSnapshot {
    fn drop(&mut self) {
        drop(self.0.take().map(Client::take));
    }
}

/// A connection in a transaction that keeps others from inserting items.
async fn lock_items(pool: &Pool) -> Result<Client, PgError> {
    for _ in 0..LOCK_TRIES {
        let client = pool.connection(Purpose::Call).await?;
        match client.batch_execute(LOCK).await {
            Ok(()) => return Ok(client),
            Err(err) if err.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => client.batch_execute("ROLLBACK").await?,
            Err(err) => return Err(err.into()),
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Err(StoreError::Unusable(format!(
        "transactions have inserted into outbox.items without a pause in {LOCK_TRIES} tries to export what they commit: \
         stop the applications, or end the transactions that `outbox doctor` names, and export again"
    ))
    .into())
}

#[async_trait]
impl ExportSnapshot for PgSnapshot {
    async fn page(&mut self, after: ExportPosition, limit: u32) -> Result<ExportPage, StoreError> {
        let read = async { transfer::export(self.client()?, after, limit).await };
        read.await.map_err(|err: PgError| err.into_store_error("exporting records"))
    }
}
