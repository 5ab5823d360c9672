//! The plugin runtime of an outbox: handlers as WebAssembly components in a folder.
//!
//! [`Plugins`] is the [`Handler`] of all components in a folder. It loads them, runs each item in a fresh sandbox, and
//! follows changes of the folder while it runs.
//!
//! - A component can do nothing that its manifest does not grant, and cannot outlive its attempt.
//! - A file that cannot be loaded never replaces a component that is loaded.
//! - A new version that keeps faulting is rolled back and quarantined.
//!
//! The runtime does not know the store. What an attempt wants to write is in its report, and what it reads comes
//! through [`StateReader`].
//!
//! Handlers can also be tried without a host: [`inspect`] says whether a component would be loaded, [`check_manifest`]
//! checks a manifest, and [`simulation`] runs a component in a simulated world.
//!
//! ```
//! use std::sync::Arc;
//!
//! use outbox_runtime::{EnvLookup, check_manifest};
//!
//! let environment: EnvLookup = Arc::new(|name| (name == "API").then(|| "https://api.example.com".to_owned()));
//! let manifest = r#"
//!     timeout = "30s"
//!     [[grant.http]]
//!     origin = "${API}"
//!     methods = ["POST"]
//! "#;
//! check_manifest(manifest, &environment).unwrap();
//!
//! let refusal = check_manifest("[limits]\nmemroy = '1MiB'", &environment).unwrap_err().to_string();
//! assert!(refusal.contains("unknown key `limits.memroy`: did you mean `limits.memory`?"));
//! ```
//!
//! A component goes through these modules: `reload` finds it, `load` checks and compiles it, `reload::routing` routes
//! items to it, `sandbox` runs it, and `outgoing` sends its requests.

#![deny(missing_docs)]

mod bindings;
mod load;
mod outgoing;
mod reload;
mod sandbox;
mod settings;
pub mod simulation;
mod start_error;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use outbox_core::{
    Attempt, AttemptOrigins, AttemptReport, Breakers, DeliveryMode, Failure, FailureClass, Handler, Outcome,
    PluginStatus, ServedType, StateReader,
};

use crate::load::code_cache::CodeCache;
pub use crate::load::compile::{Compiled, compile};
pub use crate::load::contract::WIT;
use crate::load::folder::Folder;
pub use crate::load::inspect::{InspectError, Inspection, check_manifest, components, inspect, load_time};
use crate::load::loader::{Generation, Loader};
pub use crate::load::manifest::canary_policy::CanaryPolicy;
pub use crate::load::manifest::environment::EnvLookup;
pub use crate::load::manifest::error::ManifestError;
pub use crate::load::manifest::limits::Limits;
use crate::load::private_dir::PrivateDir;
pub use crate::load::signature::{TrustedKeyError, TrustedKeys};
pub use crate::load::source::LoadError;
pub use crate::outgoing::authorities::{AuthorityError, TlsConfig};
pub use crate::outgoing::resolve::{Resolver, SystemResolver};
use crate::reload::last_good::LastGoodStore;
use crate::reload::owner_cache::OwnerCache;
use crate::reload::quarantine_cache::QuarantineCache;
use crate::reload::reloader::Reloader;
use crate::reload::routing::Routing;
pub use crate::sandbox::engine::EngineStartError;
pub use crate::settings::{ImageDir, PluginSettings};
pub use crate::start_error::StartError;

/// Tells what a cache folder cannot be used for. A folder that cannot be used, or that others can write, costs time at each
/// start and the safety of a last good version, but not the start.
fn tell_about_cache(dir: &Path) {
    match PrivateDir::open(dir) {
        Ok(cache) if cache.is_read_only() => {
            tracing::info!(path = %dir.display(), "the cache is on a read-only file system: no last good version is kept");
        }
        Ok(_) => {}
        Err(reason) => {
            let reason = with_causes(&reason);
            tracing::warn!(
                reason,
                "until this is corrected, components are compiled at each start, and no last good version is kept: set \
                 OUTBOX_CACHE_DIR to a folder that this user alone can write, or correct its rights"
            );
        }
    }
}

/// Creates a folder in which this user alone can write, or checks that it is one. Returns whether it can be written, which
/// it cannot on a read-only file system. Errors with the reason.
pub fn private_folder(dir: &Path) -> Result<bool, String> {
    let opened = PrivateDir::open(dir).map_err(|err| with_causes(&err))?;
    Ok(!opened.is_read_only())
}

/// An error with its causes, on one line.
fn with_causes(err: &dyn std::error::Error) -> String {
    std::iter::successors(Some(err), |err| err.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The plugins of a process. Dropping this value stops following the folder.
pub struct Plugins {
    routing: Arc<Routing>,
    slots: Semaphore,
    state: Arc<dyn StateReader>,
    breakers: Breakers,
    rescan: Arc<Notify>,
    reload_ended: CancellationToken,
    _watching: DropGuard,
}

impl Plugins {
    /// Starts the engine and follows the folder until `stop` is cancelled. Returns before the first scan; plugins serve
    /// items as soon as they are loaded. Must be called within a tokio runtime. Errors if no plugin could ever run.
    pub fn start(settings: PluginSettings, stop: &CancellationToken) -> Result<Arc<Self>, StartError> {
        let cache_dir = settings.cache();
        if settings.keeps_in_cache {
            tell_about_cache(&settings.cache_dir);
        }
        let good = LastGoodStore::new(cache_dir.folder("good"));
        let cache = CodeCache::new(cache_dir);
        let tls = TlsConfig::new(&settings.ca_files)?;
        let loader = Loader::start(&settings, settings.slots, tls, Some(cache))?;
        let routing = Arc::new(Routing::new(settings.retry, settings.breaker));
        let folder = Folder::of(&settings);
        let quarantine = QuarantineCache::new(settings.quarantine);
        let owners = OwnerCache::new(settings.owners);
        let rescan = Arc::<Notify>::default();
        let reloader =
            Reloader::new(folder, loader, Arc::clone(&routing), good, quarantine, owners, Arc::clone(&rescan));
        let watching = stop.child_token();
        let reload_ended = CancellationToken::new();
        let (reload, ended) = (tokio::spawn(reloader.run(watching.clone())), reload_ended.clone());
        tokio::spawn(async move {
            if reload.await.is_err() {
                ended.cancel();
            }
        });
        let slots = Semaphore::new(settings.slots);
        let (state, breakers) = (settings.state, Breakers::default());
        let watching = watching.drop_guard();
        Ok(Arc::new(Self { routing, slots, state, breakers, rescan, reload_ended, _watching: watching }))
    }

    /// Scans the folder now, also files whose last load failed for a reason that may have passed.
    pub fn rescan(&self) {
        self.rescan.notify_one();
    }

    /// The breakers that requests go through. A worker claims by them.
    pub fn breakers(&self) -> Breakers {
        self.breakers.clone()
    }

    /// The requests of an attempt as the breakers see them, if they apply to its plugin.
    fn origins(&self, attempt: &Attempt, generation: &Generation) -> Option<AttemptOrigins> {
        if attempt.mode != DeliveryMode::Durable {
            return None;
        }
        if !self.routing.uses_breakers(generation) {
            self.breakers.forget_origin(&attempt.item.item_type);
            return None;
        }
        Some(self.breakers.attempt(&attempt.item))
    }

    /// Returns when the folder is not followed any more because of a panic.
    pub async fn reload_ended(&self) {
        self.reload_ended.cancelled().await;
    }

    /// The status of every plugin in the folder, and of old generations that still finish attempts.
    pub fn status(&self) -> Vec<PluginStatus> {
        self.routing.status()
    }

    /// Whether the first scan has finished.
    pub fn is_scanned(&self) -> bool {
        self.routing.is_scanned()
    }

    /// Returns when the first scan has finished.
    pub async fn scanned(&self) {
        let mut changes = self.changes();
        while !self.is_scanned() && changes.changed().await.is_ok() {}
    }

    /// Waits for a slot for one attempt. The engine's pool has more instances than there are slots, so an attempt with
    /// a slot always gets an instance.
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
        self.routing.served_types()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.routing.changes()
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        let Some(generation) = self.routing.route(&attempt.item.item_type) else {
            return AttemptReport::without_component(Outcome::NoHandler);
        };
        let _slot = match self.slot(&attempt).await {
            Ok(slot) => slot,
            Err(outcome) => return AttemptReport::without_component(outcome),
        };
        let _busy = Arc::clone(&generation.busy);
        let origins = self.origins(&attempt, &generation);
        let report = generation.plugin.attempt(&attempt, Arc::clone(&self.state), origins).await;
        let report = AttemptReport { digest: Some(generation.digest.clone()), ..report };
        self.routing.record_attempt(&generation, &attempt.item.idem_key, report)
    }
}
