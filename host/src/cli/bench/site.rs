//! Where the stores of a bench lie, and the items that are put into them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::cli::{filesystem, output, shown};
use crate::item::{NewItem, Status};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Filter, Page, Store as _};

/// The type of the items that native and built-in handlers serve.
pub(super) const TYPE: &str = "noop";
/// About 200 bytes of JSON, what a small event takes.
const PAYLOAD: &str = r#"{"user":"8f14e45f-ceea-4c1b-9b7e-0d3a3f5a1c77","memory":"likes small, sharp tools and long walks","tags":["a","b","c"],"weight":0.7310585786300049,"source":"bench","note":"about two hundred bytes"}"#;
/// So many rows are put in place at a time.
const FILL: u32 = 50_000;

/// How the keys of items follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// In the order of time, as the host makes them.
    Timed,
    /// At random, as callers may choose them.
    Random,
}

impl Keys {
    fn next(self) -> String {
        match self {
            Self::Timed => uuid::Uuid::now_v7().to_string(),
            Self::Random => uuid::Uuid::new_v4().to_string(),
        }
    }
}

/// New items of a type, each with a key of its own.
pub(super) fn items(item_type: &str, keys: Keys, count: u32) -> Vec<NewItem> {
    (0..count).map(|_| NewItem::new(item_type, &keys.next(), PAYLOAD)).collect()
}

/// One item of these.
pub(super) fn item(keys: Keys) -> NewItem {
    NewItem::new(TYPE, &keys.next(), PAYLOAD)
}

/// A folder on the disk that is measured, removed at the end.
pub(super) struct Site {
    folder: TempDir,
}

/// A store of its own, removed at the end.
pub(super) struct Bed {
    pub(super) store: Arc<SqliteStore>,
    pub(super) path: PathBuf,
    _folder: TempDir,
}

impl Site {
    /// A site beside the database that was named, or where temporary files lie. Errors when the database
    /// holds anything: it is left alone even so, but whoever names one that is in use means another.
    pub(super) async fn open(database: Option<&Path>) -> anyhow::Result<Self> {
        let folder = match database {
            Some(path) => {
                refuse_in_use(path).await?;
                let parent = std::path::absolute(path)?.parent().map(Path::to_owned).unwrap_or_default();
                tempfile::Builder::new().prefix("outbox-bench-").tempdir_in(parent)
            }
            None => tempfile::Builder::new().prefix("outbox-bench-").tempdir(),
        };
        let folder = folder.context("making a folder for the bench's stores")?;
        if let Some(mount) = filesystem::in_memory(&folder.path().join("store")) {
            output::to_stderr(&format!(
                "{} lies in memory, where nothing is ever made durable: name a path on a disk with --db",
                mount.display()
            ));
        }
        Ok(Self { folder })
    }

    /// The folder that everything of the bench lies in.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An empty store.
    pub(super) fn bed(&self) -> anyhow::Result<Bed> {
        let folder = tempfile::tempdir_in(self.path())?;
        let path = folder.path().join("outbox.sqlite");
        let store = SqliteStore::open(&path, SqliteOptions::default())?;
        Ok(Bed { store, path, _folder: folder })
    }
}

impl Bed {
    /// Puts rows in place that are there beside what is measured.
    pub(super) fn fill(&self, status: Status, rows: u32) -> anyhow::Result<()> {
        let by_hand = crate::store::sqlite::limit::ByHand::open(&self.path)?;
        for begun in (0..rows).step_by(FILL as usize) {
            by_hand.fill(&items(TYPE, Keys::Timed, FILL.min(rows - begun)), status)?;
        }
        Ok(())
    }
}

async fn refuse_in_use(path: &Path) -> anyhow::Result<()> {
    let is_there = path.metadata().is_ok_and(|meta| meta.len() > 0);
    if !is_there {
        return Ok(());
    }
    let store = SqliteStore::open_existing(path, SqliteOptions::default())?;
    if store.list(&Filter::default(), &Page { limit: 1, before: None }).await?.is_empty() {
        return Ok(());
    }
    bail!("{} holds items: the bench works beside an empty database only, so name another with --db", shown(path))
}
