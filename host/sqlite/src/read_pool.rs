//! Short reads on read-only connections, on blocking threads.
//!
//! It does not know what is read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction};
use tokio::sync::Semaphore;

use outbox_store::StoreError;

use crate::connection::connect_read_only;
use crate::error::unavailable;

/// Reads that run at a time. More would compete for the few cores of a small host.
const MAX_READS: usize = 4;

/// Read-only connections, opened on demand and kept open.
pub(crate) struct ReadPool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl ReadPool {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::default(), permits: Semaphore::new(MAX_READS) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `read` in a read transaction: everything that it reads is one snapshot. `tried` says in an error what the
    /// caller was doing.
    pub(crate) async fn run<T, F>(self: &Arc<Self>, tried: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Unavailable { tried, source };
        let _permit = self.permits.acquire().await.map_err(|err| failed(err.into()))?;
        let read_pool = Arc::clone(self);
        let result = tokio::task::spawn_blocking(move || read_pool.read(read)).await;
        result.map_err(|err| failed(err.into()))?.map_err(unavailable(tried))
    }

    fn read<T>(&self, read: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => connect_read_only(&self.path)?,
        };
        let transaction = connection.transaction()?;
        let value = read(&transaction)?;
        transaction.finish()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(value)
    }
}
