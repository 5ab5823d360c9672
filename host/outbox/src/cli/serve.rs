//! `serve` and `worker`: the composition root, the only place that knows every part of the host.
//!
//! Parts are started from the store outwards and end in the opposite order: a signal stops the claims
//! and the listener, attempts under way are drained, then the background work ends and the process exits
//! in bounded time.

pub(crate) mod background;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::serve::background::Heartbeat;
use crate::cli::{filesystem, instance, plugin, shown};
use crate::config::{Config, Database};
use crate::open_store;
use outbox_core::{Handler, MeteredHandler};
use outbox_http::{HttpSettings, HttpState};
use outbox_runtime::Plugins;
use outbox_store::{Retention, Store};
use outbox_worker::{Worker, WorkerSettings, expire_leases};

pub(crate) use crate::cli::serve::background::{StoreQuarantine, StoreStateReader};

/// What the parts may take to end, beyond what attempts under way are given.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

/// The flags of a process that hosts plugins.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Where to answer HTTP; overrides `OUTBOX_LISTEN`
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The role of this process; overrides `OUTBOX_ROLE`
    #[arg(long)]
    role: Option<String>,
    /// The folder of plugins; overrides `OUTBOX_PLUGINS`
    #[arg(long, value_name = "FOLDER")]
    plugins: Option<String>,
    /// Attempts in flight, of this process; overrides `OUTBOX_CONCURRENCY`
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<String>,
    /// Listen beyond this machine without a token: something in front of the outbox checks who calls
    #[arg(long)]
    allow_unauthenticated: bool,
}

impl HostArgs {
    /// The settings that the flags make, under the names of their variables.
    pub(crate) fn flags(&self) -> impl Iterator<Item = (&'static str, String)> {
        let flags = [
            ("OUTBOX_LISTEN", &self.listen),
            ("OUTBOX_ROLE", &self.role),
            ("OUTBOX_PLUGINS", &self.plugins),
            ("OUTBOX_CONCURRENCY", &self.concurrency),
        ];
        flags.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value)))
    }
}

/// What a process does with items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostMode {
    /// Takes writes and performs their effects durably.
    ServeDurable,
    /// Takes writes and performs their effects while the caller waits.
    ServeInline,
    /// Performs effects; takes no writes.
    Work,
}

impl HostMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::ServeDurable => "durable",
            Self::ServeInline => "inline",
            Self::Work => "worker",
        }
    }
}

pub(crate) async fn serve(args: ServeArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let mode = if config.enabled { HostMode::ServeDurable } else { HostMode::ServeInline };
    run_host(&args.host, mode, config).await
}

pub(crate) async fn worker(args: WorkerArgs, config: &Config) -> anyhow::Result<ExitCode> {
    run_host(&args.host, HostMode::Work, config).await
}

async fn run_host(args: &HostArgs, mode: HostMode, config: &Config) -> anyhow::Result<ExitCode> {
    if !args.allow_unauthenticated {
        config.require_authentication()?;
    }
    warn(mode, config);
    let stop = stop_on_signals()?;
    let started = tokio::select! {
        started = start(mode, config, stop.clone()) => Some(started?),
        () = stop.cancelled() => None,
    };
    if let Some((running, listener)) = started {
        running.run(listener).await?;
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn warn(mode: HostMode, config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Database::Sqlite(path) = &config.database
        && let Some(mount) = filesystem::in_memory(path)
    {
        tracing::warn!(
            store.path = %config.database, store.mount = %mount.display(),
            "THE DATABASE LIES IN MEMORY and is lost when the machine restarts: set OUTBOX_DB to a path on a disk"
        );
    }
    if mode == HostMode::ServeInline {
        tracing::warn!(
            "NOTHING IS DURABLE: OUTBOX_ENABLED is false, so writes run inline and their failures are the callers': \
             set OUTBOX_ENABLED=true to have an outbox"
        );
    }
}

/// A token that is cancelled by SIGTERM and by SIGINT.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping: no more claims, attempts under way are drained");
        cancelled.cancel();
    });
    Ok(stop)
}

/// Starts what must be there before the first request: store, listener, plugins.
async fn start(
    mode: HostMode,
    config: &Config,
    stop: CancellationToken,
) -> anyhow::Result<(RunningHost<'_>, TcpListener)> {
    let instance = instance(config);
    let store = open_store::open(config, &instance).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {}, the value of OUTBOX_LISTEN", config.listen))?;
    let end = CancellationToken::new();
    let state = Arc::new(StoreStateReader(Arc::clone(&store)));
    let quarantine = Arc::new(StoreQuarantine(Arc::clone(&store)));
    let plugins = plugin::start(config, state, quarantine, &end)?;
    let metered = Arc::new(MeteredHandler::new(Arc::clone(&plugins) as Arc<dyn Handler>));
    let is_read_only = Arc::default();
    Ok((RunningHost { mode, config, instance, store, plugins, metered, is_read_only, stop, end }, listener))
}

/// A host that has started.
struct RunningHost<'a> {
    mode: HostMode,
    config: &'a Config,
    instance: String,
    store: Arc<dyn Store>,
    plugins: Arc<Plugins>,
    /// The plugins, and how long they take.
    metered: Arc<MeteredHandler>,
    /// Whether the store refuses to be written.
    is_read_only: Arc<AtomicBool>,
    /// Cancelled when the host shall stop.
    stop: CancellationToken,
    /// Cancelled when nothing is under way any more.
    end: CancellationToken,
}

impl RunningHost<'_> {
    /// Works until the host is stopped, or until a part fails, which stops the others.
    async fn run(self, listener: TcpListener) -> anyhow::Result<()> {
        let mut foreground = JoinSet::new();
        self.log_start(&listener)?;
        let routes = if self.mode == HostMode::Work { outbox_http::worker_router } else { outbox_http::router }(
            self.http_state(),
        );
        let stop = self.stop.clone();
        foreground.spawn(async move { outbox_http::run(listener, routes, stop).await.context("answering HTTP") });
        if self.mode != HostMode::ServeInline {
            let (worker, stop) = (self.worker(), self.stop.clone());
            foreground.spawn(async move {
                worker.run(stop).await;
                Ok(())
            });
        }
        let mut background = self.background();

        let outcome = self.until_stopped(&mut foreground).await;
        self.end.cancel();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, async { while background.join_next().await.is_some() {} })
            .await
            .is_err()
        {
            tracing::warn!("background work did not end in time and is abandoned");
        }
        outcome
    }

    fn log_start(&self, listener: &TcpListener) -> anyhow::Result<()> {
        let address = listener.local_addr().context("asking for the address that is listened on")?;
        tracing::info!(
            edge.url = %format!("http://{address}"),
            store.path = %self.config.database,
            mode = self.mode.as_str(),
            role = self.config.role.as_deref().unwrap_or("(none)"),
            pod = %self.instance,
            plugin.folder = %shown(&self.config.plugins),
            "started"
        );
        Ok(())
    }

    fn http_state(&self) -> HttpState {
        let (plugins, metered) = (Arc::clone(&self.plugins), Arc::clone(&self.metered));
        let is_read_only = Arc::clone(&self.is_read_only);
        HttpState {
            store: Arc::clone(&self.store),
            handler: Arc::clone(&self.metered) as Arc<dyn Handler>,
            settings: self.http_settings(),
            status: Arc::new(move || background::status(&plugins, &metered, &is_read_only)),
            stop: self.stop.clone(),
        }
    }

    fn http_settings(&self) -> HttpSettings {
        HttpSettings {
            enabled: self.config.enabled,
            strict: self.config.strict,
            sagas: self.config.sagas.clone(),
            token: self.config.token.as_ref().map(|token| token.expose().to_owned()),
            hosts: self.config.hosts.clone(),
            pod: self.instance.clone(),
            ..HttpSettings::default()
        }
    }

    fn worker(&self) -> Worker {
        let settings = WorkerSettings {
            instance: self.instance.clone(),
            concurrency: self.config.concurrency,
            prefetch: self.config.prefetch,
            lease: self.config.lease,
            drain: self.config.drain,
        };
        Worker::new(Arc::clone(&self.store), Arc::clone(&self.metered) as Arc<dyn Handler>, settings)
    }

    fn background(&self) -> JoinSet<()> {
        let mut background = JoinSet::new();
        background.spawn(expire_leases(Arc::clone(&self.store), self.end.clone()));
        let beat = Heartbeat {
            store: Arc::clone(&self.store),
            plugins: Arc::clone(&self.plugins),
            instance: self.instance.clone(),
            role: self.config.role.clone(),
            is_read_only: Arc::clone(&self.is_read_only),
        };
        background.spawn(beat.run(self.end.clone()));
        let retention = Retention { done: self.config.retain_done, signals: self.config.retain_signals };
        background.spawn(background::maintenance_loop(Arc::clone(&self.store), retention, self.end.clone()));
        background
    }

    /// Returns once every part of the front has ended, or has had its time to.
    async fn until_stopped(&self, foreground: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        let time_is_up = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.config.drain + SHUTDOWN_TIMEOUT).await;
        };
        tokio::pin!(time_is_up);
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                ended = foreground.join_next() => match ended {
                    Some(ended) => outcome = outcome.and(ended.context("a part of the host crashed").flatten()),
                    None => return outcome,
                },
                () = &mut time_is_up => {
                    tracing::warn!("a part of the host did not end in time and is abandoned");
                    return outcome;
                }
            }
            self.stop.cancel();
        }
    }
}
