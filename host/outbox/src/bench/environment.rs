//! Picks the engine of the bench and owns its temporary folder.
//!
//! The differences between engines are behind [`BenchEngine`] and [`BenchStore`].

use std::path::Path;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use outbox_item::Status;
use outbox_store::{Filter, Page, StoreError};

use crate::bench::engine::{BenchEngine, BenchStore, KeyOrder, TYPE, items};
use crate::bench::postgres::PostgresBench;
use crate::bench::sqlite::SqliteBench;
use crate::cli::output;
use crate::config::{Config, Database};
use crate::{filesystem, open_store};

/// The place of the stores of a bench.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BenchPlace {
    /// SQLite files in the folder for temporary files.
    #[default]
    Temporary,
    /// Beside the database that `--db` names: in its folder, or on its server.
    BesideDatabase,
}

/// Rows per call when a store is filled.
const FILL: u32 = 10_000;

/// The engine that is measured, and a folder for everything that is no database of a server. Dropping it removes the
/// folder.
pub(crate) struct BenchEnvironment {
    engine: Box<dyn BenchEngine>,
    folder: TempDir,
}

impl BenchEnvironment {
    /// An environment in a place. Errors when the database that was named holds items: the bench would not touch it,
    /// but a user who names a database in use probably means another one.
    pub(crate) async fn open(place: BenchPlace, config: &Config) -> anyhow::Result<Self> {
        if place == BenchPlace::BesideDatabase {
            refuse_in_use(config).await?;
        }
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("outbox-bench-");
        let folder = match (&config.database, place) {
            (Database::Sqlite(path), BenchPlace::BesideDatabase) => {
                builder.tempdir_in(std::path::absolute(path)?.parent().unwrap_or(Path::new("/")))
            }
            _ => builder.tempdir(),
        };
        let folder = folder.context("making a folder for the bench")?;
        let engine: Box<dyn BenchEngine> = match &config.database {
            Database::Postgres { url, root_certificates } if place == BenchPlace::BesideDatabase => {
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

    /// The temporary folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An empty store.
    pub(crate) async fn new_store(&self) -> anyhow::Result<Box<dyn BenchStore>> {
        self.engine.new_store().await
    }

    /// A store that holds `rows` rows of a status already.
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
            "{} is a file system in memory, where no write becomes durable: give a path on a disk with --db",
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
        // The database has no outbox yet.
        Err(StoreError::Unusable(_)) if matches!(place, Database::Postgres { .. }) => return Ok(()),
        Err(err) => return Err(err.into()),
    };
    if store.list(&Filter::default(), &Page { limit: 1, before: None }).await?.items.is_empty() {
        return Ok(());
    }
    bail!("{place} holds items: the bench works beside an empty database only, so name another with --db")
}
