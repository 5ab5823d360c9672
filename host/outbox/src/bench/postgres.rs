//! The PostgreSQL side of the bench: each store has its own database, on the server of the database that was named.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use outbox_item::{NewItem, Status};
use outbox_postgres::bench_support::{BareTable, DirectStore, TemporaryDatabases};
use outbox_postgres::{PostgresOptions, PostgresStore};
use outbox_store::{ClaimRequest, Store, StoreError};

use crate::bench::engine::{BenchEngine, BenchStore};
use crate::bench::figures::{Drained, milliseconds};
use crate::bench::report::{POSTGRES_TARGETS, Target};

/// Makes each store in a new database of one server. `unused` has the databases that nothing uses any more.
pub(crate) struct PostgresBench {
    databases: TemporaryDatabases,
    options: PostgresOptions,
    unused: Arc<Mutex<Vec<String>>>,
}

impl PostgresBench {
    pub(crate) fn new(url: &str, options: PostgresOptions) -> Self {
        Self { databases: TemporaryDatabases::on_server_of(url, options.clone()), options, unused: Arc::default() }
    }

    /// A new database and its URL. It is removed by a later `clean_up`, after the returned value is dropped.
    async fn temporary_database(&self) -> anyhow::Result<(TemporaryDatabase, String)> {
        self.clean_up().await?;
        let name = format!("outbox_bench_{}", uuid::Uuid::new_v4().simple());
        let database = TemporaryDatabase { name, unused: Arc::clone(&self.unused) };
        let url = self.databases.create(&database.name).await?;
        Ok((database, url))
    }
}

/// The use of a database. Dropping it marks the database as unused.
struct TemporaryDatabase {
    name: String,
    unused: Arc<Mutex<Vec<String>>>,
}

impl Drop for TemporaryDatabase {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }
}

#[async_trait(?Send)]
impl BenchEngine for PostgresBench {
    async fn new_store(&self) -> anyhow::Result<Box<dyn BenchStore>> {
        let (database, url) = self.temporary_database().await?;
        let store: Arc<dyn Store> = PostgresStore::open(&url, self.options.clone()).await?;
        let direct = DirectStore::open(&url, self.options.clone())?;
        Ok(Box::new(PostgresBenchStore { store, direct, url, options: self.options.clone(), _database: database }))
    }

    async fn bare_inserts(&self, items: &[NewItem], at_a_time: usize) -> anyhow::Result<Duration> {
        let (_database, url) = self.temporary_database().await?;
        let bare = BareTable::create(&url, &self.options).await?;
        let begun = Instant::now();
        bare.enqueue(items, at_a_time).await?;
        Ok(begun.elapsed())
    }

    async fn fsync(&self, times: u32) -> anyhow::Result<Vec<f64>> {
        let (_database, url) = self.temporary_database().await?;
        let bare = BareTable::create(&url, &self.options).await?;
        let mut taken = Vec::new();
        for _ in 0..times {
            taken.push(milliseconds(bare.flush().await?));
        }
        Ok(taken)
    }

    async fn drain_old_schema(&self, _items: &[NewItem], _batch: usize) -> anyhow::Result<Option<Drained>> {
        Ok(None)
    }

    fn written(&self) -> Option<u64> {
        None
    }

    fn targets(&self) -> &'static [Target] {
        POSTGRES_TARGETS
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let unused = std::mem::take(&mut *self.unused.lock().unwrap_or_else(PoisonError::into_inner));
        for name in unused {
            self.databases.remove(&name).await?;
        }
        Ok(())
    }
}

struct PostgresBenchStore {
    store: Arc<dyn Store>,
    direct: DirectStore,
    url: String,
    options: PostgresOptions,
    _database: TemporaryDatabase,
}

#[async_trait(?Send)]
impl BenchStore for PostgresBenchStore {
    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn other(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(PostgresStore::open_existing(&self.url, self.options.clone()).await?)
    }

    async fn done(&self, item_type: &str) -> Result<u64, StoreError> {
        self.direct.done(item_type).await
    }

    async fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError> {
        self.direct.enqueue(items).await
    }

    async fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError> {
        self.direct.drain(request).await
    }

    async fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError> {
        self.direct.fill(items, status).await
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        self.direct.vacuum().await
    }
}
