//! The composition root of `serve` and `worker`: starts every part of a host, runs it and stops it.
//!
//! The store starts first, then the listener, the plugins and the parts that use them. A signal stops claims and the
//! HTTP listener, attempts in flight are drained, the background work ends, and the process exits in bounded time. A
//! part that the host cannot do without stops it with an error when it ends. This file does not know the command line.

mod background;
mod joined_work;
mod parts;
mod reload;
mod service_manager;
mod shutdown;
pub(crate) mod store_adapters;
mod trials;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use outbox_core::{Handler, MeteredHandler, Outage, SpanSink};
use outbox_http::{HostStatus, HttpState, ServeLimits};
use outbox_runtime::Plugins;
use outbox_store::Store;
use outbox_worker::{LeaseExpiry, Worker, WorkerSettings};

use crate::config::{Config, Database, Flags};
use crate::filesystem;
use crate::host::background::Heartbeat;
use crate::host::parts::{keep_running, spawn_part};
use crate::host::reload::LiveSettings;
use crate::host::shutdown::{BACKGROUND_MAX, Shutdown, follow_signals};
use crate::host::store_adapters::{StoreQuarantine, StoreStateReader, StoreTypeOwners};
use crate::images::Images;
use crate::telemetry::Log;
use crate::{open_plugins, open_store, plugin_folders};

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
    /// Whether the process claims items.
    fn has_worker(self) -> bool {
        self != Self::ServeInline
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::ServeDurable => "durable",
            Self::ServeInline => "inline",
            Self::Work => "worker",
        }
    }
}

/// How long a stop waits until the store has taken the last figures of the history.
const HISTORY_MAX: Duration = Duration::from_secs(1);

/// How a host was started.
#[derive(Clone, Copy)]
pub(crate) struct HostStart<'a> {
    pub(crate) mode: HostMode,
    pub(crate) config: &'a Config,
    /// The flags, for reading the settings again.
    pub(crate) flags: &'a Flags,
    pub(crate) log: &'a Log,
}

/// Runs a host until SIGTERM or SIGINT, or until a part fails.
pub(crate) async fn run(host: HostStart<'_>) -> anyhow::Result<()> {
    Log::log_panics();
    warn(host.mode, host.config);
    // Before the start, so that a collector learns of one that fails.
    let sending = host.log.send_telemetry(&host.config.ca_files);
    let outcome = start_and_run(host, sending.spans()).await;
    sending.end(outcome.as_ref().err().map(|err| format!("the host ends: {err:#}"))).await;
    outcome
}

async fn start_and_run(host: HostStart<'_>, spans: Option<Arc<dyn SpanSink>>) -> anyhow::Result<()> {
    let shutdown = Arc::new(Shutdown::new(host.config.drain));
    let hangups = follow_signals(Arc::clone(&shutdown))?;
    let started = tokio::select! {
        started = start(host, Arc::clone(&shutdown)) => Some(started?),
        () = shutdown.stop.cancelled() => None,
    };
    if let Some((running, listener)) = started {
        running.run(listener, hangups, spans).await?;
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
    if let Some(missing) = plugin_folders::missing(config) {
        tracing::warn!(plugin.folder = %config.plugins, "{missing}");
    }
    if mode == HostMode::ServeInline {
        tracing::warn!(
            "NOTHING IS DURABLE: OUTBOX_ENABLED is false, so writes run inline and their failures are the callers': \
             set OUTBOX_ENABLED=true to have an outbox"
        );
    }
}

/// Starts the parts that the first request needs: store, listener and plugins.
async fn start(host: HostStart<'_>, shutdown: Arc<Shutdown>) -> anyhow::Result<(RunningHost<'_>, TcpListener)> {
    let config = host.config;
    let instance = config.new_instance_name();
    let store = open_store::open(config, &instance).await?;
    let listener = outbox_http::listen(config.listen)
        .with_context(|| format!("listening on {}, the value of OUTBOX_LISTEN", config.listen))?;
    let end = CancellationToken::new();
    let state = Arc::new(StoreStateReader(store.clone()));
    let quarantine = Arc::new(StoreQuarantine(store.clone()));
    let owners = StoreTypeOwners { store: store.clone(), role: config.role.clone(), is_host: true };
    let images = Arc::new(Images::new(config)?);
    images.link_manifests();
    let plugins = open_plugins::start(config, state, quarantine, Arc::new(owners), &end)?;
    let metered = Arc::new(MeteredHandler::new(Arc::clone(&plugins) as Arc<dyn Handler>));
    let settings = LiveSettings::new(config, host.flags.clone(), &instance);
    let write_outage = Arc::default();
    let running =
        RunningHost { host, instance, settings, store, plugins, images, metered, write_outage, shutdown, end };
    Ok((running, listener))
}

/// A host that has started.
struct RunningHost<'a> {
    host: HostStart<'a>,
    instance: String,
    settings: Arc<LiveSettings>,
    store: Arc<dyn Store>,
    plugins: Arc<Plugins>,
    /// The images that some of the plugins are from.
    images: Arc<Images>,
    /// The plugins, with their durations measured.
    metered: Arc<MeteredHandler>,
    /// Whether the store rejects writes. The heartbeat sets it, and the HTTP server reads it.
    write_outage: Arc<Outage>,
    shutdown: Arc<Shutdown>,
    /// Cancelled when nothing is in flight any more, so that the background work can end.
    end: CancellationToken,
}

impl RunningHost<'_> {
    /// Runs until the host is stopped, or until a part fails, which stops the other parts.
    async fn run(
        self,
        listener: TcpListener,
        hangups: watch::Receiver<u64>,
        spans: Option<Arc<dyn SpanSink>>,
    ) -> anyhow::Result<()> {
        self.log_start(&listener)?;
        self.settings.warn_of_expired_tokens(&*self.store).await;
        let stop = &self.shutdown.stop;
        let mut foreground = JoinSet::new();
        spawn_part(&mut foreground, "the HTTP server", stop, self.http(listener));
        let worker = self.host.mode.has_worker().then(|| self.worker(spans));
        let mut background = self.background(worker.as_ref(), hangups);
        let tally = worker.as_ref().map(Worker::tally).unwrap_or_default();
        if let Some(worker) = worker {
            spawn_part(&mut foreground, "the worker", stop, worker.run(stop.clone()));
        }
        service_manager::tell_ready();

        let outcome = self.until_stopped(&mut foreground, &mut background).await;
        // Before the background ends, which has less time.
        let told = background::add_history(&*self.store, &tally);
        if tokio::time::timeout(HISTORY_MAX, told).await.is_err() {
            tracing::warn!("the store did not take the last figures of the history in time");
        }
        self.end.cancel();
        let ended = async { while background.join_next().await.is_some() {} };
        if tokio::time::timeout(BACKGROUND_MAX, ended).await.is_err() {
            tracing::warn!("background work did not end in time and is abandoned");
        }
        outcome
    }

    fn http(&self, listener: TcpListener) -> impl Future<Output = ()> + Send + 'static {
        let is_worker = self.host.mode == HostMode::Work;
        let routes = if is_worker { outbox_http::worker_router } else { outbox_http::router };
        let limits =
            ServeLimits { max_connections: max_connections(), drain: self.host.config.drain, ..ServeLimits::default() };
        outbox_http::run(listener, routes(self.http_state()), limits, self.shutdown.stop.clone())
    }

    fn log_start(&self, listener: &TcpListener) -> anyhow::Result<()> {
        let address = listener.local_addr().context("asking for the address that is listened on")?;
        tracing::info!(
            http.url = %format!("http://{address}"),
            store.path = %self.host.config.database,
            mode = self.host.mode.as_str(),
            role = self.host.config.role.as_deref().unwrap_or("(none)"),
            pod = %self.instance,
            plugin.folder = %self.host.config.plugins,
            "started"
        );
        tracing::info!("{}", self.host.config.breaker.sentence());
        Ok(())
    }

    fn http_state(&self) -> HttpState {
        let (plugins, metered) = (Arc::clone(&self.plugins), Arc::clone(&self.metered));
        let images = Arc::clone(&self.images);
        let write_outage = Arc::clone(&self.write_outage);
        let (dropped_lines, has_worker) = (self.host.log.dropped_lines(), self.host.mode.has_worker());
        let attempts_limit = self.host.config.concurrency as u64;
        HttpState {
            enqueue: self.store.clone(),
            inspect: self.store.clone(),
            operate: self.store.clone(),
            handler: Arc::clone(&self.metered) as Arc<dyn Handler>,
            settings: self.settings.http(),
            status: Arc::new(move || HostStatus {
                dropped_log_lines: dropped_lines(),
                attempts_limit,
                ..background::status(&plugins, &images, &metered, &write_outage, has_worker)
            }),
            trials: Some(trials::trials(self.host.config, Arc::clone(&self.plugins), self.store.clone())),
            stop: self.shutdown.stop.clone(),
        }
    }

    fn worker(&self, spans: Option<Arc<dyn SpanSink>>) -> Worker {
        let settings = WorkerSettings {
            instance: self.instance.clone(),
            concurrency: self.host.config.concurrency,
            prefetch: self.host.config.prefetch,
            payload_bytes: self.host.config.payload_bytes,
            lease: self.host.config.lease,
            drain: self.host.config.drain,
            crash_budget: self.host.config.crash_budget,
        };
        Worker::new(self.store.clone(), Arc::clone(&self.metered) as Arc<dyn Handler>, settings)
            .with_breakers(self.plugins.breakers())
            .with_spans(spans)
    }

    fn background(&self, worker: Option<&Worker>, hangups: watch::Receiver<u64>) -> JoinSet<anyhow::Result<()>> {
        let mut background = JoinSet::new();
        let (store, end) = (&self.store, &self.end);
        let in_hand = worker.map(Worker::leases_in_hand);
        let expiry = LeaseExpiry { queue: store.clone(), clock: store.clone(), in_hand, lease: self.host.config.lease };
        let beat = Heartbeat {
            store: store.clone(),
            plugins: Arc::clone(&self.plugins),
            images: Arc::clone(&self.images),
            instance: self.instance.clone(),
            role: self.host.config.role.clone(),
            has_worker: self.host.mode.has_worker(),
            tally: worker.map(Worker::tally).unwrap_or_default(),
            write_outage: Arc::clone(&self.write_outage),
        };
        let mut spawn = |name, part| spawn_part(&mut background, name, end, part);
        spawn("the end of leases", restarted("the end of leases", end, move |end| expiry.clone().run(end)));
        spawn("the heartbeat", restarted("the heartbeat", end, move |end| beat.clone().run(end)));
        let (kept, retention) = (store.clone(), self.settings.retention());
        let maintain = move |end| background::maintenance_loop(kept.clone(), retention.clone(), end);
        spawn("the maintenance", restarted("the maintenance", end, maintain));
        let (images, plugins, heard) = (Arc::clone(&self.images), Arc::clone(&self.plugins), hangups.clone());
        let pull = move |end| {
            let plugins = Arc::clone(&plugins);
            Arc::clone(&images).follow(Arc::new(move || plugins.rescan()), heard.clone(), end)
        };
        spawn("the images", restarted("the images", end, pull));
        let (settings, plugins, inspect) = (Arc::clone(&self.settings), Arc::clone(&self.plugins), store.clone());
        let follow = move |end: CancellationToken| {
            let reloading = Arc::clone(&settings).follow(hangups.clone(), Arc::clone(&plugins), inspect.clone());
            async move { end.run_until_cancelled(reloading).await.unwrap_or_default() }
        };
        spawn("the reload", restarted("the reload", end, follow));
        let watched = |end: CancellationToken| async move {
            end.run_until_cancelled(service_manager::tell_alive()).await;
        };
        spawn("the watchdog", restarted("the watchdog", end, watched));
        background
    }

    /// Returns when every part of the foreground has ended, or when the time for it is over. Stops the host when a part
    /// ends before.
    async fn until_stopped(
        &self,
        foreground: &mut JoinSet<anyhow::Result<()>>,
        background: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let time_is_up = self.shutdown.time_is_up();
        tokio::pin!(time_is_up);
        let mut outcome = Ok(());
        loop {
            let ended = tokio::select! {
                ended = foreground.join_next() => match ended {
                    Some(ended) => ended.context("a part of the host crashed").flatten(),
                    None => return outcome,
                },
                Some(ended) = background.join_next() => ended.context("a part of the host crashed").flatten(),
                () = self.plugins.reload_ended(), if outcome.is_ok() => {
                    Err(anyhow!("the task that loads plugins panicked; the log says where"))
                }
                () = &mut time_is_up => {
                    tracing::warn!("a part of the host did not end in time and is abandoned");
                    return outcome;
                }
            };
            if let Err(err) = &ended {
                tracing::error!(error = %err, "a part of the host failed: stopping");
                self.shutdown.begin(1);
            }
            outcome = outcome.and(ended);
        }
    }
}

/// A part of the background, which begins again after a panic.
fn restarted<F>(
    name: &'static str,
    end: &CancellationToken,
    part: impl Fn(CancellationToken) -> F + Send + 'static,
) -> Pin<Box<dyn Future<Output = ()> + Send>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (end, until) = (end.clone(), end.clone());
    Box::pin(keep_running(name, end, move || part(until.clone())))
}

fn max_connections() -> usize {
    connections_within(rustix::process::getrlimit(rustix::process::Resource::Nofile).current)
}

/// At most half of the descriptors that the process may open: the others are for the store and for attempts. `None` is
/// no limit.
fn connections_within(limit: Option<u64>) -> usize {
    let half = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX));
    half.min(ServeLimits::default().max_connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_half_of_the_descriptors_to_the_store_and_to_attempts() {
        let usual = ServeLimits::default().max_connections;
        assert_eq!([Some(200), Some(1 << 20), None].map(connections_within), [100, usual, usual]);
    }
}
