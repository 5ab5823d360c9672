//! The composition root of `serve` and `worker`: starts every part of a host, runs it and stops it.
//!
//! The store starts first, then the listener, the plugins and the parts that use them. A signal stops claims and the
//! HTTP listener, attempts in flight are drained, the background work ends, and the process exits in bounded time. This
//! file does not know the command line.

mod background;
pub(crate) mod store_adapters;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use outbox_core::{Handler, MeteredHandler, Outage};
use outbox_http::{HttpSettings, HttpState};
use outbox_runtime::Plugins;
use outbox_store::{Retention, Store};
use outbox_worker::{LeaseExpiry, LeasesInHand, Worker, WorkerSettings};

use crate::config::{Config, Database};
use crate::filesystem::{self, shown};
use crate::host::background::Heartbeat;
use crate::host::store_adapters::{StoreQuarantine, StoreStateReader};
use crate::{open_plugins, open_store};

/// How long the parts may take to end, in addition to the time for attempts in flight.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a process does with items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostMode {
    /// Stores writes and performs their effects later.
    ServeDurable,
    /// Performs the effects of writes while the caller waits; stores nothing.
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

/// Runs a host until SIGTERM or SIGINT, or until a part fails.
pub(crate) async fn run(mode: HostMode, config: &Config) -> anyhow::Result<()> {
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
    Ok(())
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
            "THE DATABASE IS IN MEMORY and is lost when the machine restarts: set OUTBOX_DB to a path on a disk"
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

/// Starts the parts that the first request needs: store, listener and plugins.
async fn start(
    mode: HostMode,
    config: &Config,
    stop: CancellationToken,
) -> anyhow::Result<(RunningHost<'_>, TcpListener)> {
    let instance = config.new_instance_name();
    let store = open_store::open(config, &instance).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {}, the value of OUTBOX_LISTEN", config.listen))?;
    let end = CancellationToken::new();
    let state = Arc::new(StoreStateReader(store.clone()));
    let quarantine = Arc::new(StoreQuarantine(store.clone()));
    let plugins = open_plugins::start(config, state, quarantine, &end)?;
    let metered = Arc::new(MeteredHandler::new(Arc::clone(&plugins) as Arc<dyn Handler>));
    let write_outage = Arc::default();
    Ok((RunningHost { mode, config, instance, store, plugins, metered, write_outage, stop, end }, listener))
}

/// A host that has started.
struct RunningHost<'a> {
    mode: HostMode,
    config: &'a Config,
    instance: String,
    store: Arc<dyn Store>,
    plugins: Arc<Plugins>,
    /// The plugins, with their durations measured.
    metered: Arc<MeteredHandler>,
    /// Whether the store rejects writes. The heartbeat sets it, and the HTTP server reads it.
    write_outage: Arc<Outage>,
    /// Cancelled when the host has to stop.
    stop: CancellationToken,
    /// Cancelled when nothing is in flight any more, so that the background work can end.
    end: CancellationToken,
}

impl RunningHost<'_> {
    /// Runs until the host is stopped, or until a part fails, which stops the other parts.
    async fn run(self, listener: TcpListener) -> anyhow::Result<()> {
        let mut foreground = JoinSet::new();
        self.log_start(&listener)?;
        let routes = if self.mode == HostMode::Work { outbox_http::worker_router } else { outbox_http::router }(
            self.http_state(),
        );
        let stop = self.stop.clone();
        foreground.spawn(async move { outbox_http::run(listener, routes, stop).await.context("answering HTTP") });
        let worker = (self.mode != HostMode::ServeInline).then(|| self.worker());
        let mut background = self.background(worker.as_ref().map(Worker::leases_in_hand));
        if let Some(worker) = worker {
            let stop = self.stop.clone();
            foreground.spawn(async move {
                worker.run(stop).await;
                Ok(())
            });
        }

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
            http.url = %format!("http://{address}"),
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
        let write_outage = Arc::clone(&self.write_outage);
        HttpState {
            enqueue: self.store.clone(),
            inspect: self.store.clone(),
            operate: self.store.clone(),
            handler: Arc::clone(&self.metered) as Arc<dyn Handler>,
            settings: self.http_settings(),
            status: Arc::new(move || background::status(&plugins, &metered, &write_outage)),
            stop: self.stop.clone(),
        }
    }

    fn http_settings(&self) -> HttpSettings {
        HttpSettings {
            is_durable: self.config.is_enabled,
            is_strict: self.config.is_strict,
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
            payload_bytes: self.config.payload_bytes,
            lease: self.config.lease,
            drain: self.config.drain,
            crash_budget: self.config.crash_budget,
        };
        Worker::new(self.store.clone(), Arc::clone(&self.metered) as Arc<dyn Handler>, settings)
    }

    fn background(&self, in_hand: Option<LeasesInHand>) -> JoinSet<()> {
        let mut background = JoinSet::new();
        let expiry =
            LeaseExpiry { queue: self.store.clone(), clock: self.store.clone(), in_hand, lease: self.config.lease };
        background.spawn(expiry.run(self.end.clone()));
        let beat = Heartbeat {
            store: self.store.clone(),
            plugins: Arc::clone(&self.plugins),
            instance: self.instance.clone(),
            role: self.config.role.clone(),
            write_outage: Arc::clone(&self.write_outage),
        };
        background.spawn(beat.run(self.end.clone()));
        let Config { retain_done: done, retain_dlq: dead, retain_signals: signals, .. } = *self.config;
        let retention = Retention { done, dead, signals, audit: self.config.retain_audit };
        background.spawn(background::maintenance_loop(self.store.clone(), retention, self.end.clone()));
        background
    }

    /// Returns when every part of the foreground has ended, or when the time for it is over.
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
