//! Simulation: one component, run as the host runs it, in a world that the caller makes up.
//!
//! Promises: grants, limits, keys and denials are those of the host; nothing reaches a network; clocks
//! and random numbers are given; time passes only when a guest waits, and then at once. The world
//! hears of every call of the host before and after it, and may end the attempt there as a
//! crash of the process would. It settles nothing and stores nothing.

pub(crate) mod backend;
pub(crate) mod call;
pub(crate) mod recorded_world;
pub(crate) mod virtual_clock;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Component;

use crate::load::folder::read_source;
use crate::load::loader::{Loader, PluginSource};
use crate::load::manifest::{EnvLookup, Manifest};
use crate::load::signature::TrustedKeys;
use crate::load::{compatibility, loader};
use crate::sandbox::engine::SharedEngine;
use crate::sandbox::failure_mapping;
use crate::sandbox::instance::LinkedPlugin;
use crate::simulation::backend::{EarlyEnd, SimulatedBackend};
pub use crate::simulation::call::{GuestCall, OutgoingRequest, WorldResponse};
pub use crate::simulation::recorded_world::{Divergence, RecordedWorld, ReplayedRequest};
pub(crate) use crate::simulation::virtual_clock::{VirtualClock, link};
use outbox_core::{Attempt, AttemptReport, DeliveryMode, OnDead, Outcome, RetryPolicy, StateReader};
use outbox_item::{Item, Millis};

/// Attempts that run at a time, of all threads that share a simulator.
const SLOTS: usize = 32;
/// How long an attempt may take in real time; its own deadline is in simulated time.
const REAL_TIME_MAX: Duration = Duration::from_mins(1);
/// How long an attempt may take, in simulated time, where the manifest says nothing.
const DEFAULT_ATTEMPT_TIME: Duration = Duration::from_secs(55);

/// What an attempt finds outside its sandbox.
pub trait SimulatedWorld: Send + Sync + 'static {
    /// A call begins and has had no effect yet. A break ends the attempt here, without a trace.
    fn before_call(&self, call: &GuestCall) -> ControlFlow<()>;

    /// A request arrives: its effect happens now, and this is the answer to it.
    fn respond(&self, request: &OutgoingRequest) -> WorldResponse;

    /// A call has had its effect, and the guest does not know. A break ends the attempt here.
    fn after_call(&self, call: &GuestCall) -> ControlFlow<()>;
}

/// A compiled component with the manifest beside it.
pub struct Simulator {
    loader: Arc<Loader>,
    source: PluginSource,
    component: Component,
}

/// A component on the terms of its manifest, ready to attempt items.
pub struct SimulatedPlugin {
    name: String,
    digest: String,
    types: Vec<String>,
    manifest: Manifest,
    plugin: LinkedPlugin,
}

/// What one attempt is made with.
pub struct SimulatedAttempt {
    /// The item as its claim left it.
    pub item: Item,
    /// What answers its requests.
    pub world: Arc<dyn SimulatedWorld>,
    /// What is stored for the plugin.
    pub state: Arc<dyn StateReader>,
    /// When the attempt begins.
    pub now: Millis,
    /// What its random numbers follow from.
    pub seed: u64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptEnd {
    /// As in the host: by an answer, a fault or its deadline.
    Reported(AttemptReport),
    /// By the world, as when the process dies.
    Crashed,
}

impl Simulator {
    /// Reads and compiles a component. Errors when it is none, or made for another world.
    pub async fn open(file: &Path) -> anyhow::Result<Self> {
        let source = read_source(file).with_context(|| format!("reading {}", file.display()))?;
        let engine = SharedEngine::for_simulation(SLOTS)?;
        let loader = Arc::new(Loader::new(engine, None, Arc::new(|_| None), TrustedKeys::default()));
        let refused = || format!("{} cannot be loaded", file.display());
        let component = loader.compile(&source).await.with_context(refused)?;
        compatibility::check_world(&component).with_context(refused)?;
        Ok(Self { loader, source, component })
    }

    /// The component's file.
    pub fn file(&self) -> &PathBuf {
        &self.source.file
    }

    /// The component on its manifest's terms, where `environment` says what `${NAME}` stands for and
    /// `config` replaces what the manifest has under `[config]`. Errors as loading it would.
    pub async fn plugin(
        &self,
        environment: &EnvLookup,
        config: BTreeMap<String, String>,
    ) -> anyhow::Result<SimulatedPlugin> {
        let PluginSource { name, digest, .. } = &self.source;
        let mut manifest = loader::read_manifest(&self.source, environment)?;
        manifest.config.extend(config);
        compatibility::check_bytes(&self.source.wasm, &manifest.limits)?;
        loader::check_grants(name, &self.component, &manifest)?;
        let plugin = self.loader.link(name, &self.component, &manifest)?;
        let description = plugin.describe().await.map_err(|failure| loader::describe_error(&failure))?;
        let types = loader::select_types(&description, manifest.types.as_deref())?;
        Ok(SimulatedPlugin { name: name.clone(), digest: digest.clone(), types, manifest, plugin })
    }
}

impl SimulatedPlugin {
    /// The plugin's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of item that it handles.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// How its failures are retried, where the host's policy fills the gaps.
    pub fn retry(&self, host: RetryPolicy) -> RetryPolicy {
        self.manifest.retry.applied_to(host)
    }

    /// What its dead-lettered items mean for those behind them.
    pub fn on_dead(&self) -> OnDead {
        self.manifest.on_dead
    }

    /// How long one attempt may take, in simulated time.
    pub fn attempt_time(&self) -> Duration {
        self.manifest.timeout.unwrap_or(DEFAULT_ATTEMPT_TIME)
    }

    /// Makes one attempt.
    pub async fn run(&self, simulated: SimulatedAttempt) -> AttemptEnd {
        let attempt_time = self.attempt_time();
        let deadline_at =
            simulated.now.saturating_add(Millis::try_from(attempt_time.as_millis()).unwrap_or(Millis::MAX));
        let attempt = Attempt {
            item: Arc::new(simulated.item),
            deadline: Instant::now() + REAL_TIME_MAX,
            deadline_at,
            mode: DeliveryMode::Durable,
            stop: CancellationToken::new(),
            locks: Arc::default(),
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
            EarlyEnd::OutOfTime => AttemptEnd::Reported(self.timed_out_report(backend.has_sent(), attempt_time)),
        }
    }

    fn timed_out_report(&self, maybe_executed: bool, attempt_time: Duration) -> AttemptReport {
        let failure = failure_mapping::timed_out(self.manifest.timeout, attempt_time, maybe_executed);
        let digest = Some(self.digest.clone());
        AttemptReport { maybe_executed, digest, ..AttemptReport::without_component(Outcome::Failed(failure)) }
    }
}
