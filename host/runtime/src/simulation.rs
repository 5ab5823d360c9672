//! Simulation: runs one component as the host runs it, in a world that the caller makes up.
//!
//! Grants, limits, idempotency keys and denials are those of the host. Nothing reaches a network. The caller sets the
//! clock and the seed of random numbers; time passes only while a guest waits, and then at once. The world is called
//! before and after every [`GuestCall`] and may end the attempt there, as a crash of the process would. A simulation
//! settles nothing and stores nothing.

pub(crate) mod backend;
pub(crate) mod call;
pub(crate) mod recorded_world;
pub(crate) mod virtual_clock;
pub(crate) mod virtual_timers;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Component;

use outbox_core::{Attempt, AttemptReport, ComponentDigest, DeliveryMode, OnDead, Outcome, RetryPolicy, StateReader};
use outbox_item::{Item, Millis};

use crate::load::code_cache::CodeCache;
use crate::load::folder::read_source;
use crate::load::loader::Loader;
use crate::load::manifest::Manifest;
use crate::load::manifest::environment::EnvLookup;
use crate::load::private_dir::PrivateDir;
use crate::load::signature::TrustedKeys;
use crate::load::source::{LoadError, PluginSource};
use crate::load::{compatibility, loader};
use crate::outgoing::authorities::TlsConfig;
use crate::outgoing::resolve::SystemResolver;
use crate::sandbox::engine::{EngineStartError, SharedEngine};
use crate::sandbox::failure_mapping;
use crate::sandbox::instance::LinkedPlugin;
use crate::sandbox::observations::SideEffects;
use crate::simulation::backend::{EarlyEnd, SimulatedBackend};
pub use crate::simulation::call::{GuestCall, OutgoingRequest, WorldResponse};
pub use crate::simulation::recorded_world::{Divergence, RecordedWorld, ReplayedRequest};
use crate::simulation::virtual_clock::VirtualClock;
pub use crate::simulation::world::SimulatedWorld;

/// Attempts at a time, of all threads that share a simulator.
const SLOTS: usize = 32;
/// The longest real time of an attempt. Its own deadline is in simulated time.
const REAL_TIME_MAX: Duration = Duration::from_mins(1);
/// The simulated time of an attempt without a `timeout` in the manifest: a common lease, less the time to settle.
const DEFAULT_ATTEMPT_TIME: Duration = Duration::from_secs(55);

/// Why a component cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The component, its manifest or its signature cannot be read.
    #[error("reading {file}")]
    Read {
        /// The component's path.
        file: String,
        /// The error of the file system.
        source: io::Error,
    },
    /// The WebAssembly engine does not start.
    #[error(transparent)]
    Engine(#[from] EngineStartError),
    /// The component is refused.
    #[error("{file} cannot be loaded")]
    Refused {
        /// The component's path.
        file: String,
        /// The reason.
        source: LoadError,
    },
}

/// A compiled component with the manifest beside it.
pub struct Simulator {
    loader: Arc<Loader>,
    source: PluginSource,
    component: Component,
}

/// A component with its manifest, ready to attempt items.
pub struct SimulatedPlugin {
    name: String,
    digest: ComponentDigest,
    types: Vec<String>,
    manifest: Manifest,
    plugin: LinkedPlugin,
}

/// The input of one attempt.
pub struct SimulatedAttempt {
    /// The claimed item.
    pub item: Item,
    /// The world that receives its requests.
    pub world: Arc<dyn SimulatedWorld>,
    /// The stored state of the plugin.
    pub state: Arc<dyn StateReader>,
    /// The time at which the attempt begins.
    pub now: Millis,
    /// The seed of its random numbers.
    pub seed: u64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptEnd {
    /// As in the host: the guest returned or trapped, or its deadline passed.
    Reported(AttemptReport),
    /// The world ended the attempt, as a crash of the process would.
    Crashed,
}

impl Simulator {
    /// Reads and compiles a component, or takes its code from the folder `cache`. A cache that cannot be used is left
    /// alone. Errors if the file is no component or was built for another world.
    pub async fn open(file: &Path, cache: Option<&Path>) -> Result<Self, SimulatorError> {
        Self::compile(read(file)?, cache).await
    }

    /// As [`Self::open`], if the file has the component with this digest. `None`, and nothing is compiled, if it has
    /// another one.
    pub async fn open_version(file: &Path, cache: Option<&Path>, digest: &str) -> Result<Option<Self>, SimulatorError> {
        let source = read(file)?;
        if source.digest.to_string() != digest {
            return Ok(None);
        }
        Self::compile(source, cache).await.map(Some)
    }

    async fn compile(source: PluginSource, cache: Option<&Path>) -> Result<Self, SimulatorError> {
        let refused = |reason| SimulatorError::Refused { file: source.file.display().to_string(), source: reason };
        let loader = Arc::new(Loader::new(engine()?, code_cache(cache), Arc::new(|_| None), TrustedKeys::default()));
        let component = loader.compile(&source).await.map_err(refused)?;
        compatibility::check_world(&component).map_err(refused)?;
        Ok(Self { loader, source, component })
    }

    /// The component's file.
    pub fn file(&self) -> &PathBuf {
        &self.source.file
    }

    /// The component's SHA-256.
    pub fn digest(&self) -> &ComponentDigest {
        &self.source.digest
    }

    /// The component with its manifest. `environment` looks up the variables of the manifest, and `config` replaces
    /// single values of `[config]`. Errors as a load would.
    pub async fn plugin(
        &self,
        environment: &EnvLookup,
        config: BTreeMap<String, String>,
    ) -> Result<SimulatedPlugin, LoadError> {
        let PluginSource { name, digest, .. } = &self.source;
        let mut manifest = loader::read_manifest(&self.source, environment)?;
        manifest.config.extend(config);
        compatibility::check_bytes(&self.source.wasm, &manifest.limits)?;
        loader::check_grants(&self.source, &self.component, &manifest)?;
        let plugin = self.loader.link(name, &self.component, &manifest)?;
        let description = plugin.describe().await.map_err(|failure| loader::describe_error(&failure))?;
        let types = loader::select_types(&description, manifest.types.as_ref())?;
        Ok(SimulatedPlugin { name: name.clone(), digest: digest.clone(), types, manifest, plugin })
    }
}

fn read(file: &Path) -> Result<PluginSource, SimulatorError> {
    read_source(file).map_err(|source| SimulatorError::Read { file: file.display().to_string(), source })
}

fn code_cache(dir: Option<&Path>) -> Option<CodeCache> {
    let opened = PrivateDir::open(dir?);
    let opened = opened.inspect_err(|reason| tracing::warn!(%reason, "compiled code is not kept"));
    opened.ok().map(CodeCache::new)
}

/// An engine whose guests wait by the virtual clock of their backend.
fn engine() -> Result<SharedEngine, EngineStartError> {
    let mut engine = SharedEngine::new(SLOTS, Arc::new(SystemResolver), TlsConfig::public())?;
    virtual_timers::link(&mut engine.linker).map_err(|reason| EngineStartError::Engine(reason.into()))?;
    Ok(engine)
}

impl SimulatedPlugin {
    /// The plugin's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of item that the plugin handles.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// The retry policy of the plugin: the host's, with the overrides of the manifest.
    pub fn retry(&self, host: RetryPolicy) -> RetryPolicy {
        self.manifest.retry.applied_to(host)
    }

    /// Whether a dead-lettered item blocks its ordering key.
    pub fn on_dead(&self) -> OnDead {
        self.manifest.on_dead
    }

    /// The simulated time that one attempt may take.
    pub fn attempt_time(&self) -> Duration {
        self.manifest.timeout.unwrap_or(DEFAULT_ATTEMPT_TIME)
    }

    /// Makes one attempt.
    pub async fn run(&self, simulated: SimulatedAttempt) -> AttemptEnd {
        let attempt_time = self.attempt_time();
        let deadline_at = simulated.now.saturating_add(attempt_time);
        let attempt = Attempt {
            item: Arc::new(simulated.item),
            deadline: Instant::now() + REAL_TIME_MAX,
            deadline_at,
            mode: DeliveryMode::Durable,
            stop: CancellationToken::new(),
            locks: Arc::default(),
            trace: None,
        };
        let backend =
            SimulatedBackend::new(simulated.world, VirtualClock::new(simulated.now, simulated.seed), attempt_time);
        let attempting = self.plugin.attempt_with(Arc::new(backend.clone()), &attempt, simulated.state);
        let end = tokio::select! {
            biased;
            end = backend.ended_early() => end,
            report = attempting => match backend.early_end() {
                Some(end) => end,
                None => return AttemptEnd::Reported(AttemptReport { digest: Some(self.digest.clone()), ..report }),
            },
        };
        match end {
            EarlyEnd::Crashed => AttemptEnd::Crashed,
            EarlyEnd::OutOfTime => AttemptEnd::Reported(self.timed_out_report(backend.side_effects(), attempt_time)),
        }
    }

    fn timed_out_report(&self, effects: SideEffects, attempt_time: Duration) -> AttemptReport {
        let failure = failure_mapping::timed_out(self.manifest.timeout, attempt_time, effects);
        let maybe_executed = effects == SideEffects::Possible;
        let digest = Some(self.digest.clone());
        AttemptReport { maybe_executed, digest, ..AttemptReport::without_component(Outcome::Failed(failure)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_version_than_the_expected_one_is_not_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cache) = (dir.path().join("p.wasm"), dir.path().join("cache"));
        let component = wat::parse_str("(component)").unwrap();
        std::fs::write(&file, &component).unwrap();
        let other = ComponentDigest::of(b"other").to_string();
        let opened = Simulator::open_version(&file, Some(&cache), &other).await;
        assert!(matches!(opened, Ok(None)));
        assert!(!cache.exists(), "no code is cached");
        let own = ComponentDigest::of(&component).to_string();
        let opened = Simulator::open_version(&file, Some(&cache), &own).await;
        assert!(!matches!(opened, Ok(None)));
        assert!(cache.exists());
    }
}
