//! Plugins: WebAssembly components in a folder, loaded, kept up to date, and run one item at a time.
//!
//! Promises: a component can do nothing that its manifest does not grant; it can neither stop nor
//! outlive its attempt; a file that cannot be loaded never replaces one that could. It does not know
//! the store: what an attempt wants stored is in its report, and what it reads comes through
//! [`StateReader`].
//!
//! The way of a component: [`reload`] sees it, [`load`] checks it, [`registry`] publishes it,
//! [`instance`] runs it.

mod bindings;
mod cache;
mod cpu;
mod engine;
mod evidence;
mod folder;
mod followups;
mod grant;
mod host;
mod inspect;
mod instance;
mod limiter;
mod load;
mod manifest;
mod outgoing;
mod output;
mod registry;
mod reload;
mod state;
mod verdict;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::handler::{Attempt, Handler, Outcome, Report, Service, StateReader};
use crate::item::{Class, Failure};
use crate::retry::RetryPolicy;
use cache::CodeCache;
use engine::Runtime;
use folder::Folder;
pub use inspect::{Inspection, inspect};
use load::{Loader, hex};
pub use manifest::{Environment, Limits, Reload};
pub use outgoing::{Resolver, SystemResolver};
use registry::Registry;
pub use registry::{PluginState, PluginStatus, RefusedType};
use reload::Reloader;

/// What the plugins of a process need to know.
#[derive(Clone)]
pub struct PluginSettings {
    /// The folder; it need not exist yet.
    pub dir: PathBuf,
    /// The role, whose sub-folder is loaded beside the root.
    pub role: Option<String>,
    /// Where compiled code is kept; private to the user.
    pub cache_dir: PathBuf,
    /// How long a claim holds where a manifest says nothing.
    pub lease: Duration,
    /// How items are retried where a manifest says nothing.
    pub retry: RetryPolicy,
    /// Attempts in flight, of this process.
    pub slots: usize,
    /// The environment that manifests may name.
    pub environment: Environment,
    /// How attempts read the state of their plugin.
    pub state: Arc<dyn StateReader>,
    /// How the names of hosts become addresses.
    pub resolver: Arc<dyn Resolver>,
}

/// The plugins of a process. Dropping them ends the watch on the folder.
pub struct Plugins {
    registry: Arc<Registry>,
    slots: Semaphore,
    state: Arc<dyn StateReader>,
    is_scanned: Arc<AtomicBool>,
    _watching: DropGuard,
}

impl Plugins {
    /// Starts the engine, loads what lies in the folder, and follows the folder from then on. Returns
    /// when the first scan is finished, whatever it found; errors when no plugin could ever run.
    pub async fn start(settings: PluginSettings, stop: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let cache = CodeCache::open(&settings.cache_dir)?;
        let loader = Loader::new(Runtime::new(settings.slots, settings.resolver)?, Some(cache), settings.environment);
        let registry = Arc::new(Registry::new(settings.retry));
        let folder = Folder::new(settings.dir, settings.role);
        let mut reloader = Reloader::new(folder, Arc::new(loader), Arc::clone(&registry));
        let watching = stop.child_token();
        let plugins = Self {
            registry,
            slots: Semaphore::new(settings.slots),
            state: settings.state,
            is_scanned: Arc::default(),
            _watching: watching.clone().drop_guard(),
        };
        reloader.scan_first().await;
        plugins.is_scanned.store(true, Ordering::Release);
        tokio::spawn(reloader.run(watching));
        Ok(Arc::new(plugins))
    }

    /// Every plugin in the folder, and old generations that still finish attempts.
    pub fn status(&self) -> Vec<PluginStatus> {
        self.registry.status()
    }

    /// Whether the first scan has finished.
    pub fn is_scanned(&self) -> bool {
        self.is_scanned.load(Ordering::Acquire)
    }

    /// A slot for one attempt. The pool of instances is at least as large, so that it is never empty.
    async fn slot(&self, attempt: &Attempt) -> Result<SemaphorePermit<'_>, Outcome> {
        tokio::select! {
            biased;
            permit = self.slots.acquire() => permit.map_err(|_| Outcome::Stopped),
            () = attempt.stop.cancelled() => Err(Outcome::Stopped),
            () = tokio::time::sleep_until(attempt.deadline) => Err(Outcome::Failed(Failure::new(
                Class::Host,
                "host.busy",
                "every slot for attempts was taken until the deadline: raise OUTBOX_CONCURRENCY",
            ))),
        }
    }
}

#[async_trait]
impl Handler for Plugins {
    fn services(&self) -> Vec<Service> {
        self.registry.services()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.registry.changes()
    }

    async fn handle(&self, attempt: Attempt) -> Report {
        let Some(generation) = self.registry.route(&attempt.item.item_type) else {
            return Report::bare(Outcome::Unserved);
        };
        let _slot = match self.slot(&attempt).await {
            Ok(slot) => slot,
            Err(outcome) => return Report::bare(outcome),
        };
        let report = generation.program.attempt(&attempt, Arc::clone(&self.state)).await;
        Report { digest: Some(generation.digest.clone()), ..report }
    }
}
