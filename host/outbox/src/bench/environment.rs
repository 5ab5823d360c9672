//! Where the stores of a bench are, and the items that are put into them. What differs from engine to engine
//! is behind [`BenchEngine`] and [`BenchStore`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use tempfile::TempDir;

use crate::bench::postgres::PostgresBench;
use crate::bench::report::Target;
use crate::bench::sqlite::SqliteBench;
use crate::cli::{filesystem, output};
use crate::config::{Config, Database};
use crate::open_store;
use outbox_item::{NewItem, Status};
use outbox_store::{ClaimRequest, Filter, Page, Store, StoreError};

/// The type of the items that native and built-in handlers serve.
pub(crate) const TYPE: &str = "noop";
/// About 200 bytes of JSON, what a small event takes.
pub(crate) const PAYLOAD: &str = r#"{"user":"8f14e45f-ceea-4c1b-9b7e-0d3a3f5a1c77","memory":"likes small, sharp tools and long walks","tags":["a","b","c"],"weight":0.7310585786300049,"source":"bench","note":"about two hundred bytes"}"#;
/// So many rows are put in place at a time.
const FILL: u32 = 10_000;

/// How the keys of items follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    /// In the order of time, as the host makes them.
    Timed,
    /// At random, as callers may choose them.
    Random,
}

impl KeyOrder {
    /// A key that has not been before.
    pub(crate) fn next(self) -> String {
        match self {
            Self::Timed => uuid::Uuid::now_v7().to_string(),
            Self::Random => uuid::Uuid::new_v4().to_string(),
        }
    }
}

/// What a store holds before anything is measured: a million rows, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preload {
    Nothing,
    Done,
    /// DONE rows with random keys.
    Random,
    Pending,
}

/// New items of a type, each with a key of its own.
pub(crate) fn items(item_type: &str, keys: KeyOrder, count: u32) -> Vec<NewItem> {
    (0..count).map(|_| NewItem::new(item_type, &keys.next(), PAYLOAD)).collect()
}

/// One item of these.
pub(crate) fn item(keys: KeyOrder) -> NewItem {
    NewItem::new(TYPE, &keys.next(), PAYLOAD)
}

/// What the stores of a bench are made on.
#[async_trait(?Send)]
pub(crate) trait BenchEngine {
    /// An empty store.
    async fn new_store(&self) -> anyhow::Result<Box<dyn BenchStore>>;

    /// How long it takes to insert the items into an empty table of the barest kind, so many in a commit.
    async fn bare_inserts(&self, items: &[NewItem], at_a_time: usize) -> anyhow::Result<Duration>;

    /// How long it takes to make the least durable, so many times, in milliseconds.
    async fn fsync(&self, times: u32) -> anyhow::Result<Vec<f64>>;

    /// What is promised of such stores.
    fn targets(&self) -> &'static [Target];

    /// Removes what is left of the stores.
    async fn clean_up(&self) -> anyhow::Result<()>;
}

/// A store of its own, removed at the end, and what is done to it beside the store's own calls.
#[async_trait(?Send)]
pub(crate) trait BenchStore {
    fn store(&self) -> &Arc<dyn Store>;

    /// The same store, as another process opens it.
    async fn other(&self) -> anyhow::Result<Arc<dyn Store>>;

    /// How many items of the type are DONE, at a cost that disturbs nobody.
    async fn done(&self, item_type: &str) -> Result<u64, StoreError>;

    /// Enqueues the items in one transaction, driven by hand.
    async fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError>;

    /// Claims and settles in batches until nothing is left, driven by hand. Returns how many items there were.
    async fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError>;

    /// Puts rows in place that are there beside what is measured.
    async fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError>;

    /// Leaves nothing that others would have to tidy away.
    async fn tidy(&self) -> Result<(), StoreError>;
}

/// What is measured: an engine, and a folder for everything that is no store. Both are empty at the end.
pub(crate) struct BenchEnvironment {
    engine: Box<dyn BenchEngine>,
    folder: TempDir,
}

impl BenchEnvironment {
    /// An environment beside the database that was named, or where temporary files lie. Errors when the database
    /// holds anything: it is left alone even so, but whoever names one that is in use means another.
    pub(crate) async fn open(named: bool, config: &Config) -> anyhow::Result<Self> {
        if named {
            refuse_in_use(config).await?;
        }
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("outbox-bench-");
        let folder = match (&config.database, named) {
            (Database::Sqlite(path), true) => {
                builder.tempdir_in(std::path::absolute(path)?.parent().unwrap_or(Path::new("/")))
            }
            _ => builder.tempdir(),
        };
        let folder = folder.context("making a folder for the bench")?;
        let engine: Box<dyn BenchEngine> = match &config.database {
            Database::Postgres { url, root_certificates } if named => {
                let options = open_store::postgres_options(config, "bench", root_certificates.as_deref())?;
                Box::new(PostgresBench::new(url.expose(), options))
            }
            _ => {
                warn_of_memory(folder.path());
                Box::new(SqliteBench::new(folder.path()))
            }
        };
        Ok(Self { engine, folder })
    }

    /// The folder that everything of the bench lies in which is no database of a server.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An empty store.
    pub(crate) async fn new_store(&self) -> anyhow::Result<Box<dyn BenchStore>> {
        self.engine.new_store().await
    }

    /// A store that holds so many rows already.
    pub(crate) async fn preloaded_store(
        &self,
        status: Status,
        keys: KeyOrder,
        rows: u32,
    ) -> anyhow::Result<Box<dyn BenchStore>> {
        let bench_store = self.new_store().await?;
        for begun in (0..rows).step_by(FILL as usize) {
            bench_store.fill(&items(TYPE, keys, FILL.min(rows - begun)), status).await?;
        }
        bench_store.tidy().await?;
        Ok(bench_store)
    }

    pub(crate) fn engine(&self) -> &dyn BenchEngine {
        &*self.engine
    }
}

fn warn_of_memory(folder: &Path) {
    if let Some(mount) = filesystem::in_memory(&folder.join("store")) {
        output::to_stderr(&format!(
            "{} lies in memory, where nothing is ever made durable: name a path on a disk with --db",
            mount.display()
        ));
    }
}

async fn refuse_in_use(config: &Config) -> anyhow::Result<()> {
    let place = &config.database;
    if let Database::Sqlite(path) = place
        && !path.metadata().is_ok_and(|meta| meta.len() > 0)
    {
        return Ok(());
    }
    let store = match open_store::open_existing(config, "bench").await {
        Ok(store) => store,
        // A database that has no outbox yet.
        Err(StoreError::Unusable(_)) if matches!(place, Database::Postgres { .. }) => return Ok(()),
        Err(err) => return Err(err.into()),
    };
    if store.list(&Filter::default(), &Page { limit: 1, before: None }).await?.is_empty() {
        return Ok(());
    }
    bail!("{place} holds items: the bench works beside an empty database only, so name another with --db")
}
