//! Loads that run beside each other, so that a component that is slow to compile or to describe itself delays no other.
//!
//! It does not know why a file is loaded, nor what becomes of the result.

use std::future::pending;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::load::loader::{Generation, Loader};
use crate::load::source::{LoadError, PluginPath, PluginSource};

/// A load that has ended.
pub(crate) struct EndedLoad {
    /// Where the files are.
    pub path: PluginPath,
    /// What was loaded.
    pub source: PluginSource,
    /// What came of it.
    pub result: Result<Generation, LoadError>,
}

/// The loads that are under way. They end with this value.
#[derive(Default)]
pub(crate) struct BackgroundLoads {
    tasks: JoinSet<EndedLoad>,
}

impl BackgroundLoads {
    /// Begins a load.
    pub(crate) fn start(&mut self, loader: &Arc<Loader>, path: PluginPath, source: PluginSource) {
        let load = loader.load(source.clone());
        self.tasks.spawn(async move { EndedLoad { path, source, result: load.await } });
    }

    /// Whether none is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The next load that ends; `None` when none is under way.
    ///
    /// # Panics
    /// When the load panicked.
    pub(crate) async fn next(&mut self) -> Option<EndedLoad> {
        match self.tasks.join_next().await? {
            Ok(ended) => Some(ended),
            Err(err) => std::panic::resume_unwind(err.into_panic()),
        }
    }

    /// The next load that ends. Waits for ever when none is under way, until the caller stops waiting and begins one.
    pub(crate) async fn next_or_wait(&mut self) -> EndedLoad {
        match self.next().await {
            Some(ended) => ended,
            None => pending().await,
        }
    }
}
