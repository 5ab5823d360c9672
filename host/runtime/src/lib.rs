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
mod load;
mod outgoing;
mod reload;
mod sandbox;
pub mod simulation;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::load::code_cache::CodeCache;
pub use crate::load::contract_diff::WIT;
use crate::load::folder::Folder;
pub use crate::load::inspect::{Inspection, check_manifest, components, inspect, load_time};
use crate::load::loader::Loader;
pub use crate::load::manifest::limits::Limits;
pub use crate::load::manifest::{CanaryPolicy, EnvLookup};
use crate::load::private_dir::PrivateDir;
use crate::load::signature::TrustedKeys;
pub use crate::outgoing::resolve::{Resolver, SystemResolver};
use crate::reload::last_good::LastGoodStore;
use crate::reload::quarantine_cache::QuarantineCache;
use crate::reload::registry::Registry;
pub use crate::reload::registry::{PluginState, PluginStatus, RefusedType};
use crate::reload::reloader::Reloader;
use crate::sandbox::engine::SharedEngine;
use outbox_core::{
    Attempt, AttemptReport, Failure, FailureClass, Handler, Outcome, QuarantineStore, RetryPolicy, ServedType,
    StateReader,
};

/// What the plugins of a process need to know.
#[derive(Clone)]
pub struct PluginSettings {
    /// The folder; it need not exist yet.
    pub dir: PathBuf,
    /// The role, whose sub-folder is loaded beside the root.
    pub role: Option<String>,
    /// Where compiled code and the last good components are kept; private to the user.
    pub cache_dir: PathBuf,
    /// How long a claim holds where a manifest says nothing.
    pub lease: Duration,
    /// How items are retried where a manifest says nothing.
    pub retry: RetryPolicy,
    /// Attempts in flight, of this process.
    pub slots: usize,
    /// The environment that manifests may name.
    pub environment: EnvLookup,
    /// The keys whose holders' components may run: in base64, or the names of files. None: all may.
    pub keys: Vec<String>,
    /// How attempts read the state of their plugin.
    pub state: Arc<dyn StateReader>,
    /// Where it is remembered which components have failed.
    pub quarantine: Arc<dyn QuarantineStore>,
    /// How the names of hosts become addresses.
    pub resolver: Arc<dyn Resolver>,
}

/// The plugins of a process. Dropping them ends the watch on the folder.
pub struct Plugins {
    registry: Arc<Registry>,
    slots: Semaphore,
    state: Arc<dyn StateReader>,
    _watching: DropGuard,
}

impl Plugins {
    /// Starts the engine and begins to follow the folder. Returns at once: what lies in the folder is
    /// served as it is found. Errors when no plugin could ever run.
    pub fn start(settings: PluginSettings, stop: &CancellationToken) -> anyhow::Result<Arc<Self>> {
        let cache = PrivateDir::open(&settings.cache_dir)?;
        let good = LastGoodStore::new(cache.subfolder("good")?);
        let keys = TrustedKeys::read(&settings.keys)?;
        let engine = SharedEngine::new(settings.slots, settings.resolver)?;
        let loader = Arc::new(Loader::new(engine, Some(CodeCache::new(cache)), settings.environment, keys));
        let registry = Arc::new(Registry::new(settings.retry));
        let folder = Folder::new(settings.dir, settings.role);
        let quarantine = QuarantineCache::new(settings.quarantine);
        let reloader = Reloader::new(folder, loader, Arc::clone(&registry), good, quarantine);
        let watching = stop.child_token();
        tokio::spawn(reloader.run(watching.clone()));
        let slots = Semaphore::new(settings.slots);
        Ok(Arc::new(Self { registry, slots, state: settings.state, _watching: watching.drop_guard() }))
    }

    /// Every plugin in the folder, and old generations that still finish attempts.
    pub fn status(&self) -> Vec<PluginStatus> {
        self.registry.status()
    }

    /// Whether the first scan has finished.
    pub fn is_scanned(&self) -> bool {
        self.registry.is_scanned()
    }

    /// Returns when the first scan has finished, whatever it found.
    pub async fn scanned(&self) {
        let mut changes = self.changes();
        while !self.is_scanned() && changes.changed().await.is_ok() {}
    }

    /// A slot for one attempt. The pool of instances is at least as large, so that it is never empty.
    async fn slot(&self, attempt: &Attempt) -> Result<SemaphorePermit<'_>, Outcome> {
        tokio::select! {
            biased;
            permit = self.slots.acquire() => permit.map_err(|_| Outcome::Interrupted),
            () = attempt.stop.cancelled() => Err(Outcome::Interrupted),
            () = tokio::time::sleep_until(attempt.deadline) => Err(Outcome::Failed(Failure::new(
                FailureClass::Host,
                "host.busy",
                "every slot for attempts was taken until the deadline: raise OUTBOX_CONCURRENCY",
            ))),
        }
    }
}

#[async_trait]
impl Handler for Plugins {
    fn served_types(&self) -> Vec<ServedType> {
        self.registry.served_types()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.registry.changes()
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        let Some(generation) = self.registry.route(&attempt.item.item_type) else {
            return AttemptReport::without_component(Outcome::NoHandler);
        };
        let _slot = match self.slot(&attempt).await {
            Ok(slot) => slot,
            Err(outcome) => return AttemptReport::without_component(outcome),
        };
        let _busy = Arc::clone(&generation.busy);
        let report = generation.plugin.attempt(&attempt, Arc::clone(&self.state)).await;
        let report = AttemptReport { digest: Some(generation.digest.clone()), ..report };
        self.registry.record_attempt(&generation, &attempt.item.idem_key, report)
    }
}
