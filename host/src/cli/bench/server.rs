//! Stores on a PostgreSQL server, each in a database of its own beside the one that was named.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::millis;
use super::report::{ON_A_SERVER, Promise};
use super::site::{Bed, Engine};
use crate::item::{NewItem, Status};
use crate::store::postgres::by_hand::{Bare, ByHand, Spares};
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::{ClaimRequest, Store, StoreError};

/// A server, and the databases on it that the bench is done with or will be.
pub(super) struct Server {
    spares: Spares,
    options: PostgresOptions,
    unused: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn new(url: &str, options: PostgresOptions) -> Self {
        Self { spares: Spares::beside(url, options.clone()), options, unused: Arc::default() }
    }

    /// A new database, which is removed some time after the lease is dropped.
    async fn database(&self) -> anyhow::Result<(Lease, String)> {
        self.end().await?;
        let name = format!("outbox_bench_{}", uuid::Uuid::new_v4().simple());
        let lease = Lease { name, unused: Arc::clone(&self.unused) };
        let url = self.spares.create(&lease.name).await?;
        Ok((lease, url))
    }
}

/// The use of a database.
struct Lease {
    name: String,
    unused: Arc<Mutex<Vec<String>>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }
}

#[async_trait(?Send)]
impl Engine for Server {
    async fn bed(&self) -> anyhow::Result<Box<dyn Bed>> {
        let (lease, url) = self.database().await?;
        let store: Arc<dyn Store> = PostgresStore::open(&url, self.options.clone()).await?;
        let by_hand = ByHand::open(&url, self.options.clone())?;
        Ok(Box::new(InDatabase { store, by_hand, url, options: self.options.clone(), _lease: lease }))
    }

    async fn bare(&self, items: &[NewItem], at_a_time: usize) -> anyhow::Result<Duration> {
        let (_lease, url) = self.database().await?;
        let bare = Bare::create(&url, &self.options).await?;
        let begun = Instant::now();
        bare.enqueue(items, at_a_time).await?;
        Ok(begun.elapsed())
    }

    async fn fsync(&self, times: u32) -> anyhow::Result<Vec<f64>> {
        let (_lease, url) = self.database().await?;
        let bare = Bare::create(&url, &self.options).await?;
        let mut taken = Vec::new();
        for _ in 0..times {
            taken.push(millis(bare.flush().await?));
        }
        Ok(taken)
    }

    fn promises(&self) -> &'static [Promise] {
        ON_A_SERVER
    }

    async fn end(&self) -> anyhow::Result<()> {
        let unused = std::mem::take(&mut *self.unused.lock().unwrap_or_else(PoisonError::into_inner));
        for name in unused {
            self.spares.remove(&name).await?;
        }
        Ok(())
    }
}

struct InDatabase {
    store: Arc<dyn Store>,
    by_hand: ByHand,
    url: String,
    options: PostgresOptions,
    _lease: Lease,
}

#[async_trait(?Send)]
impl Bed for InDatabase {
    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn other(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(PostgresStore::open_existing(&self.url, self.options.clone()).await?)
    }

    async fn done(&self, item_type: &str) -> Result<u64, StoreError> {
        self.by_hand.done(item_type).await
    }

    async fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError> {
        self.by_hand.enqueue(items).await
    }

    async fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError> {
        self.by_hand.drain(request).await
    }

    async fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError> {
        self.by_hand.fill(items, status).await
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        self.by_hand.vacuum().await
    }
}
