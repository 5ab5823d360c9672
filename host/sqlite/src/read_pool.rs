//! Short reads on read-only connections, on blocking threads.
//!
//! It does not know what is read. It reads nothing from a file that its path does not lead to any more.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction};
use tokio::sync::Semaphore;

use outbox_store::StoreError;

use crate::connection::connect_read_only;
use crate::database_file::DatabaseFile;
use crate::error::unavailable;

/// Read-only connections, opened on demand and kept open.
pub(crate) struct ReadPool {
    file: Arc<DatabaseFile>,
    idle: Mutex<Vec<PooledConnection>>,
    permits: Semaphore,
}

/// A connection, and the generation of the file that it has opened.
struct PooledConnection {
    connection: Connection,
    generation: u64,
}

impl ReadPool {
    /// A pool of at most this many connections.
    pub(crate) fn new(file: Arc<DatabaseFile>, connections: usize) -> Self {
        Self { file, idle: Mutex::default(), permits: Semaphore::new(connections) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
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
        let result = tokio::task::spawn_blocking(move || {
            let generation = read_pool.file.check().map_err(|changed| failed(changed.into()))?;
            read_pool.read(generation, read).map_err(unavailable(tried))
        });
        result.await.map_err(|err| failed(err.into()))?
    }

    fn read<T>(
        &self,
        generation: u64,
        read: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut pooled = match self.take_idle(generation) {
            Some(pooled) => pooled,
            None => PooledConnection { connection: connect_read_only(self.path())?, generation },
        };
        let transaction = pooled.connection.transaction()?;
        let value = read(&transaction)?;
        transaction.finish()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(pooled);
        Ok(value)
    }

    /// A connection that is not in use. Closes those to a former file.
    fn take_idle(&self, generation: u64) -> Option<PooledConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|pooled| pooled.generation == generation);
        idle.pop()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_store::Inspect as _;

    use crate::{READS_MAX, SqliteOptions, SqliteStore};

    #[tokio::test]
    async fn a_probe_waits_for_no_other_reader() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("outbox.sqlite"), SqliteOptions::default()).unwrap();
        let readers = u32::try_from(READS_MAX).unwrap();
        let _busy = store.read_pool.permits.acquire_many(readers).await.unwrap();
        let probing = tokio::time::timeout(Duration::from_secs(30), store.probe());
        probing.await.expect("the probe waits for the readers").unwrap();
    }
}
