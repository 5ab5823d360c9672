//! Stores in SQLite files, on the disk of the bench's folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tempfile::TempDir;

use super::millis;
use super::report::{ON_DISK, Promise};
use super::site::{Bed, Engine};
use crate::item::{NewItem, Status};
use crate::store::sqlite::limit::{Bare, ByHand, Totals};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{ClaimRequest, Store, StoreError};

const PAGE: [u8; 4096] = [7; 4096];

/// A folder on the disk that is measured.
pub(super) struct Disk {
    path: PathBuf,
}

impl Disk {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

#[async_trait(?Send)]
impl Engine for Disk {
    async fn bed(&self) -> anyhow::Result<Box<dyn Bed>> {
        let folder = tempfile::tempdir_in(&self.path)?;
        let path = folder.path().join("outbox.sqlite");
        let store: Arc<dyn Store> = SqliteStore::open(&path, SqliteOptions::default())?;
        let (totals, by_hand) = (Totals::open(&path)?, ByHand::open(&path)?);
        Ok(Box::new(InFile { store, totals, by_hand, path, _folder: folder }))
    }

    async fn bare(&self, items: &[NewItem], at_a_time: usize) -> anyhow::Result<Duration> {
        let folder = tempfile::tempdir_in(&self.path)?;
        let bare = Bare::create(&folder.path().join("bare.sqlite"))?;
        let begun = Instant::now();
        bare.enqueue(items, at_a_time)?;
        Ok(begun.elapsed())
    }

    async fn fsync(&self, times: u32) -> anyhow::Result<Vec<f64>> {
        let mut file = tempfile::tempfile_in(&self.path)?;
        let mut taken = Vec::new();
        for _ in 0..times {
            let begun = Instant::now();
            file.write_all(&PAGE)?;
            file.sync_data()?;
            taken.push(millis(begun.elapsed()));
        }
        Ok(taken)
    }

    fn promises(&self) -> &'static [Promise] {
        ON_DISK
    }

    async fn end(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

struct InFile {
    store: Arc<dyn Store>,
    totals: Totals,
    by_hand: ByHand,
    path: PathBuf,
    _folder: TempDir,
}

#[async_trait(?Send)]
impl Bed for InFile {
    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn other(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(SqliteStore::open_existing(&self.path, SqliteOptions::default())?)
    }

    async fn done(&self, item_type: &str) -> Result<u64, StoreError> {
        self.totals.done(item_type)
    }

    async fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError> {
        self.by_hand.enqueue(items)
    }

    async fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError> {
        let mut count = 0;
        loop {
            match self.by_hand.drain(request)? {
                0 => return Ok(count),
                drained => count += drained,
            }
        }
    }

    async fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError> {
        self.by_hand.fill(items, status)
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
