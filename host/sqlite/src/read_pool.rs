//! Short reads on read-only connections, off the async threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction};
use tokio::sync::Semaphore;

use crate::{connect_read_only, unavailable};
use outbox_store::StoreError;

/// So many reads run at a time; more would only compete for two or four cores.
const MAX_READS: usize = 4;

/// A few read-only connections that are opened when needed and kept.
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

    /// Runs `read` in a read transaction: everything that it reads is of one moment.
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
