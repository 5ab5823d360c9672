//! `serve` and `worker`: the composition root, the only place that knows every part of the host.
//!
//! Parts are started from the store outwards and end in the opposite order: a signal stops the claims
//! and the listener, attempts under way are drained, then the background work ends and the process exits
//! in bounded time.

mod background;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{alerts, filesystem, instance, plugin, shown};
use crate::config::Config;
use crate::edge::{self, Edge, EdgeSettings};
use crate::handler::{Handler, Timed};
use crate::plugin::Plugins;
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Retention, Store};
use crate::worker::{Worker as ClaimLoop, WorkerSettings, maintain};
use background::Heartbeat;

pub(super) use background::{StoredQuarantine, StoredState};

/// What the parts may take to end, beyond what attempts under way are given.
const END: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) host: Host,
}

#[derive(Debug, Args)]
pub(super) struct Worker {
    #[command(flatten)]
    pub(super) host: Host,
}

/// The flags of a process that hosts plugins.
#[derive(Debug, Args)]
pub(super) struct Host {
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

impl Host {
    /// The settings that the flags make, under the names of their variables.
    pub(super) fn flags(&self) -> impl Iterator<Item = (&'static str, String)> {
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
enum Duty {
    /// Takes writes and performs their effects durably.
    ServeDurable,
    /// Takes writes and performs their effects while the caller waits.
    ServeInline,
    /// Performs effects; takes no writes.
    Work,
}

impl Duty {
    fn as_str(self) -> &'static str {
        match self {
            Self::ServeDurable => "durable",
            Self::ServeInline => "inline",
            Self::Work => "worker",
        }
    }
}

pub(super) async fn serve(args: Serve, config: &Config) -> anyhow::Result<ExitCode> {
    let duty = if config.enabled { Duty::ServeDurable } else { Duty::ServeInline };
    host(&args.host, duty, config).await
}

pub(super) async fn worker(args: Worker, config: &Config) -> anyhow::Result<ExitCode> {
    host(&args.host, Duty::Work, config).await
}

async fn host(args: &Host, duty: Duty, config: &Config) -> anyhow::Result<ExitCode> {
    if !args.allow_unauthenticated {
        config.require_authentication()?;
    }
    warn(duty, config);
    let stop = stop_on_signals()?;
    let started = tokio::select! {
        started = start(duty, config, stop.clone()) => Some(started?),
        () = stop.cancelled() => None,
    };
    if let Some((parts, listener)) = started {
        parts.run(listener).await?;
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn warn(duty: Duty, config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(mount) = filesystem::in_memory(&config.database) {
        tracing::warn!(
            store.path = %shown(&config.database), store.mount = %mount.display(),
            "THE DATABASE LIES IN MEMORY and is lost when the machine restarts: set OUTBOX_DB to a path on a disk"
        );
    }
    if duty == Duty::ServeInline {
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
async fn start(duty: Duty, config: &Config, stop: CancellationToken) -> anyhow::Result<(Parts<'_>, TcpListener)> {
    let instance = instance(config);
    let options = SqliteOptions { instance: instance.clone(), alerts: alerts(config), ..SqliteOptions::default() };
    let store: Arc<dyn Store> = SqliteStore::open(&config.database, options)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {}, the value of OUTBOX_LISTEN", config.listen))?;
    let end = CancellationToken::new();
    let state = Arc::new(StoredState(Arc::clone(&store)));
    let quarantine = Arc::new(StoredQuarantine(Arc::clone(&store)));
    let plugins = plugin::start(config, state, quarantine, &end)?;
    let timed = Arc::new(Timed::new(Arc::clone(&plugins) as Arc<dyn Handler>));
    Ok((Parts { duty, config, instance, store, plugins, timed, stop, end }, listener))
}

/// A host that has started.
struct Parts<'a> {
    duty: Duty,
    config: &'a Config,
    instance: String,
    store: Arc<dyn Store>,
    plugins: Arc<Plugins>,
    /// The plugins, and how long they take.
    timed: Arc<Timed>,
    /// Cancelled when the host shall stop.
    stop: CancellationToken,
    /// Cancelled when nothing is under way any more.
    end: CancellationToken,
}

impl Parts<'_> {
    /// Works until the host is stopped, or until a part fails, which stops the others.
    async fn run(self, listener: TcpListener) -> anyhow::Result<()> {
        let mut front = JoinSet::new();
        self.announce(&listener)?;
        let routes = if self.duty == Duty::Work { edge::worker_router } else { edge::router }(self.edge());
        let stop = self.stop.clone();
        front.spawn(async move { edge::run(listener, routes, stop).await.context("answering HTTP") });
        if self.duty != Duty::ServeInline {
            let (claims, stop) = (self.claim_loop(), self.stop.clone());
            front.spawn(async move {
                claims.run(stop).await;
                Ok(())
            });
        }
        let mut behind = self.background();

        let outcome = self.until_stopped(&mut front).await;
        self.end.cancel();
        if tokio::time::timeout(END, async { while behind.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("background work did not end in time and is abandoned");
        }
        outcome
    }

    fn announce(&self, listener: &TcpListener) -> anyhow::Result<()> {
        let address = listener.local_addr().context("asking for the address that is listened on")?;
        tracing::info!(
            edge.url = %format!("http://{address}"),
            store.path = %shown(&self.config.database),
            mode = self.duty.as_str(),
            role = self.config.role.as_deref().unwrap_or("(none)"),
            pod = %self.instance,
            plugin.folder = %shown(&self.config.plugins),
            "started"
        );
        Ok(())
    }

    fn edge(&self) -> Edge {
        let (plugins, timed) = (Arc::clone(&self.plugins), Arc::clone(&self.timed));
        Edge {
            store: Arc::clone(&self.store),
            handler: Arc::clone(&self.timed) as Arc<dyn Handler>,
            settings: self.edge_settings(),
            status: Arc::new(move || background::status(&plugins, &timed)),
            stop: self.stop.clone(),
        }
    }

    fn edge_settings(&self) -> EdgeSettings {
        EdgeSettings {
            enabled: self.config.enabled,
            strict: self.config.strict,
            sagas: self.config.sagas.clone(),
            token: self.config.token.as_ref().map(|token| token.expose().to_owned()),
            hosts: self.config.hosts.clone(),
            pod: self.instance.clone(),
            ..EdgeSettings::default()
        }
    }

    fn claim_loop(&self) -> ClaimLoop {
        let settings = WorkerSettings {
            instance: self.instance.clone(),
            concurrency: self.config.concurrency,
            prefetch: self.config.prefetch,
            lease: self.config.lease,
            drain: self.config.drain,
        };
        ClaimLoop::new(Arc::clone(&self.store), Arc::clone(&self.timed) as Arc<dyn Handler>, settings)
    }

    fn background(&self) -> JoinSet<()> {
        let mut behind = JoinSet::new();
        behind.spawn(maintain(Arc::clone(&self.store), self.end.clone()));
        let beat = Heartbeat {
            store: Arc::clone(&self.store),
            plugins: Arc::clone(&self.plugins),
            instance: self.instance.clone(),
            role: self.config.role.clone(),
        };
        behind.spawn(beat.run(self.end.clone()));
        let retention = Retention { done: self.config.retain_done, signals: self.config.retain_signals };
        behind.spawn(background::upkeep(Arc::clone(&self.store), retention, self.end.clone()));
        behind
    }

    /// Returns once every part of the front has ended, or has had its time to.
    async fn until_stopped(&self, front: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        let time_is_up = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.config.drain + END).await;
        };
        tokio::pin!(time_is_up);
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                ended = front.join_next() => match ended {
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
