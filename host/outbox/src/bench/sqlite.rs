//! The SQLite side of the bench: stores in files, on the disk of the folder of the bench.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tempfile::TempDir;

use outbox_item::{NewItem, Status};
use outbox_sqlite::bench_support::{BareTable, DirectStore, DoneCounter, WideTable};
use outbox_sqlite::{SqliteOptions, SqliteStore};
use outbox_store::{ClaimRequest, Store, StoreError};

use crate::bench::engine::{BenchEngine, BenchStore, TYPE};
use crate::bench::figures::{Drained, milliseconds};
use crate::bench::process;
use crate::bench::report::{SQLITE_TARGETS, Target};

/// One write that is made durable: as long as a page of SQLite.
const PAGE: [u8; 4096] = [7; 4096];

/// Makes each store in a folder of its own below one folder, on the disk that is measured.
pub(crate) struct SqliteBench {
    path: PathBuf,
}

impl SqliteBench {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

#[async_trait(?Send)]
impl BenchEngine for SqliteBench {
    async fn new_store(&self) -> anyhow::Result<Box<dyn BenchStore>> {
        let folder = tempfile::tempdir_in(&self.path)?;
        let path = folder.path().join("outbox.sqlite");
        let store: Arc<dyn Store> = SqliteStore::open(&path, SqliteOptions::default())?;
        let (done_counter, direct) = (DoneCounter::open(&path)?, DirectStore::open(&path)?);
        Ok(Box::new(SqliteBenchStore { store, done_counter, direct, path, _folder: folder }))
    }

    async fn bare_inserts(&self, items: &[NewItem], at_a_time: usize) -> anyhow::Result<Duration> {
        let folder = tempfile::tempdir_in(&self.path)?;
        let bare = BareTable::create(&folder.path().join("bare.sqlite"))?;
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
            taken.push(milliseconds(begun.elapsed()));
        }
        Ok(taken)
    }

    async fn drain_old_schema(&self, items: &[NewItem], batch: usize) -> anyhow::Result<Option<Drained>> {
        let folder = tempfile::tempdir_in(&self.path)?;
        let wide = WideTable::create(&folder.path().join("wide.sqlite"), items)?;
        Drained::measure(items.len(), || self.written(), async || Ok(wide.drain(TYPE, batch)?)).await.map(Some)
    }

    fn written(&self) -> Option<u64> {
        process::written()
    }

    fn targets(&self) -> &'static [Target] {
        SQLITE_TARGETS
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

struct SqliteBenchStore {
    store: Arc<dyn Store>,
    done_counter: DoneCounter,
    direct: DirectStore,
    path: PathBuf,
    _folder: TempDir,
}

#[async_trait(?Send)]
impl BenchStore for SqliteBenchStore {
    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn other(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(SqliteStore::open_existing(&self.path, SqliteOptions::default())?)
    }

    async fn done(&self, item_type: &str) -> Result<u64, StoreError> {
        self.done_counter.done(item_type)
    }

    async fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError> {
        self.direct.enqueue(items)
    }

    async fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError> {
        let mut count = 0;
        loop {
            match self.direct.drain(request)? {
                0 => return Ok(count),
                drained => count += drained,
            }
        }
    }

    async fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError> {
        self.direct.fill(items, status)
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
