//! The laboratory: one component, run as the host runs it, in a world that somebody else makes up.
//!
//! Promises: grants, limits, keys and denials are those of the host; nothing reaches a network; clocks
//! and random numbers are given; time passes only when a guest waits, and then at once. Whoever makes up
//! the world hears of every call of the host before and after it, and may end the attempt there as a
//! crash of the process would. It settles nothing and stores nothing.

mod call;
mod clock;
mod recorded;
mod scene;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Component;

use super::engine::Runtime;
use super::folder::read_source;
use super::instance::Program;
use super::load::{self, Loader, Source};
use super::manifest::{Environment, Manifest};
use super::signature::TrustedKeys;
use super::{verdict, world};
use crate::handler::{Attempt, Mode, Outcome, Report, StateReader};
use crate::item::{Item, Millis, OnDead};
use crate::retry::RetryPolicy;
pub use call::{Answer, Call, Request};
pub(super) use clock::{Staged, Timers, link};
pub use recorded::{Divergence, Recorded, Sent};
use scene::{Over, Scene};

/// Attempts that run at a time, of all threads that share a lab.
const SLOTS: usize = 32;
/// How long a guest may keep a lab waiting, in real time; its own deadline is reckoned in the lab's time.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long an attempt may take, in the lab's time, where the manifest says nothing.
const ATTEMPT_TIME: Duration = Duration::from_secs(55);

/// What an attempt finds outside its sandbox.
pub trait World: Send + Sync + 'static {
    /// A call begins and has had no effect yet. A break ends the attempt here, without a trace.
    fn enter(&self, call: &Call) -> ControlFlow<()>;

    /// A request arrives: its effect happens now, and this is the answer to it.
    fn answer(&self, request: &Request) -> Answer;

    /// A call has had its effect, and the guest does not know. A break ends the attempt here.
    fn leave(&self, call: &Call) -> ControlFlow<()>;
}

/// A compiled component with the manifest beside it.
pub struct Lab {
    loader: Arc<Loader>,
    source: Source,
    component: Component,
}

/// A component on the terms of its manifest, ready to attempt items.
pub struct Subject {
    name: String,
    digest: String,
    types: Vec<String>,
    manifest: Manifest,
    program: Program,
}

/// What one attempt is made with.
pub struct Take {
    /// The item as its claim left it.
    pub item: Item,
    /// What is outside.
    pub world: Arc<dyn World>,
    /// What is stored for the plugin.
    pub state: Arc<dyn StateReader>,
    /// When the attempt begins.
    pub now: Millis,
    /// What its random numbers follow from.
    pub seed: u64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// As in the host: by an answer, a fault or its deadline.
    Reported(Report),
    /// By the world, as when the process dies.
    Crashed,
}

impl Lab {
    /// Reads and compiles a component. Errors when it is none, or made for another world.
    pub async fn open(file: &Path) -> anyhow::Result<Self> {
        let source = read_source(file).with_context(|| format!("reading {}", file.display()))?;
        let runtime = Runtime::in_the_lab(SLOTS)?;
        let loader = Arc::new(Loader::new(runtime, None, Arc::new(|_| None), TrustedKeys::default()));
        let refused = || format!("{} cannot be loaded", file.display());
        let component = loader.compile(&source).await.with_context(refused)?;
        world::check_world(&component).with_context(refused)?;
        Ok(Self { loader, source, component })
    }

    /// The component's file.
    pub fn file(&self) -> &PathBuf {
        &self.source.file
    }

    /// The component on its manifest's terms, where `environment` says what `${NAME}` stands for and
    /// `config` replaces what the manifest has under `[config]`. Errors as loading it would.
    pub async fn subject(
        &self,
        environment: &Environment,
        config: BTreeMap<String, String>,
    ) -> anyhow::Result<Subject> {
        let Source { name, digest, .. } = &self.source;
        let mut manifest = load::read_manifest(&self.source, environment)?;
        manifest.config.extend(config);
        world::check_bytes(&self.source.wasm, &manifest.limits)?;
        load::check_grants(name, &self.component, &manifest)?;
        let program = self.loader.program(name, &self.component, &manifest)?;
        let description = program.describe().await.map_err(|failure| load::undescribed(&failure))?;
        let types = load::narrow(&description, manifest.types.as_deref())?;
        Ok(Subject { name: name.clone(), digest: digest.clone(), types, manifest, program })
    }
}

impl Subject {
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
        self.manifest.retry.over(host)
    }

    /// What its dead-lettered items mean for those behind them.
    pub fn on_dead(&self) -> OnDead {
        self.manifest.on_dead
    }

    /// How long one attempt may take, in the lab's time.
    pub fn attempt_time(&self) -> Duration {
        self.manifest.timeout.unwrap_or(ATTEMPT_TIME)
    }

    /// Makes one attempt.
    pub async fn run(&self, take: Take) -> Ending {
        let attempt_time = self.attempt_time();
        let deadline_at = take.now.saturating_add(Millis::try_from(attempt_time.as_millis()).unwrap_or(Millis::MAX));
        let attempt = Attempt {
            item: Arc::new(take.item),
            deadline: Instant::now() + PATIENCE,
            deadline_at,
            mode: Mode::Durable,
            stop: CancellationToken::new(),
            turn: Arc::default(),
        };
        let scene = Scene::new(take.world, Staged::new(take.now, take.seed), attempt_time);
        let outside = Arc::new(scene.clone());
        let over = tokio::select! {
            biased;
            over = scene.over() => over,
            report = self.program.attempt_in(outside, &attempt, take.state) => match scene.is_over() {
                Some(over) => over,
                None => return Ending::Reported(Report { digest: Some(self.digest.clone()), ..report }),
            },
        };
        match over {
            Over::Crashed => Ending::Crashed,
            Over::OutOfTime => Ending::Reported(self.cut_off(scene.has_sent(), attempt_time)),
        }
    }

    fn cut_off(&self, maybe_executed: bool, attempt_time: Duration) -> Report {
        let failure = verdict::timed_out(self.manifest.timeout, attempt_time, maybe_executed);
        let digest = Some(self.digest.clone());
        Report { maybe_executed, digest, ..Report::bare(Outcome::Failed(failure)) }
    }
}
