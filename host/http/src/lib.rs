//! The HTTP entry: writes come in, operators look and act, probes and scrapers ask.
//!
//! Owns the routes, who may use them, and how every refusal looks (RFC 9457). Promises that 202 is sent
//! after the commit only, and that a write is never turned silently from a durable one into an inline
//! one. It knows the store and the handlers through their traits; how plugins and workers fare is told
//! to it by a closure.

mod auth;
mod body;
mod cockpit;
mod health;
mod inline;
mod items;
mod metrics;
mod operate;
mod operations;
mod problem;
mod signals;
mod write;
mod write_headers;

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use outbox_core::saga::SagaDefinition;
use outbox_core::{AttemptDurations, Handler};
use outbox_store::Store;

/// What the HTTP server works with.
#[derive(Clone)]
pub struct HttpState {
    /// Where durable writes go, and what operators look at in either mode.
    pub store: Arc<dyn Store>,
    /// What performs the steps of inline writes.
    pub handler: Arc<dyn Handler>,
    /// The operator's choices.
    pub settings: HttpSettings,
    /// How this process fares; asked at each probe, scrape and look at the cockpit.
    pub status: Arc<dyn Fn() -> HostStatus + Send + Sync>,
    /// Ends the streams of signals, which a graceful shutdown would otherwise wait for.
    pub stop: CancellationToken,
}

/// The operator's choices about the HTTP server.
#[derive(Clone)]
pub struct HttpSettings {
    /// `OUTBOX_ENABLED`: whether writes are durable; otherwise their steps run inline.
    pub enabled: bool,
    /// `GOVERNOR_STRICT_MODE`: whether a write without both contract headers is refused.
    pub strict: bool,
    /// The sagas that writes may start, the playbook's own among them.
    pub sagas: Vec<SagaDefinition>,
    /// `OUTBOX_TOKEN`: what callers present as their bearer token.
    pub token: Option<String>,
    /// `OUTBOX_HOSTS`: the Host headers besides loopback that are accepted while there is no token.
    pub hosts: Vec<String>,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// The longest that one inline attempt may take, unless its type sets a timeout.
    pub timeout_inline: Duration,
    /// The instance id of this process.
    pub pod: String,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            strict: false,
            sagas: vec![SagaDefinition::write_memory()],
            token: None,
            hosts: Vec::new(),
            max_body: 1024 * 1024,
            timeout_inline: Duration::from_secs(30),
            pod: String::new(),
        }
    }
}

impl fmt::Debug for HttpSettings {
    /// Shows whether there is a token, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("enabled", &self.enabled)
            .field("strict", &self.strict)
            .field("sagas", &self.sagas)
            .field("has_token", &self.token.is_some())
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// How the process that the HTTP server belongs to fares.
#[derive(Clone, Debug, Default)]
pub struct HostStatus {
    /// Whether the first scan of the plugin folder has finished, whatever its result.
    pub is_scanned: bool,
    /// Whether the store refused the last heartbeat: it may answer and yet take no writes.
    pub is_read_only: bool,
    /// An array with an object for each generation of a plugin. Of its members the metrics read `name`,
    /// `version`, `digest`, `generation`, `state` and `error`, and the cockpit reads `types`.
    pub plugins: serde_json::Value,
    /// The types that handlers of this process serve.
    pub served_types: Vec<String>,
    /// How long the attempts of this process took.
    pub durations: AttemptDurations,
}

/// Every route: what `outbox serve` listens with.
pub fn router(state: HttpState) -> Router {
    let actions = ["replay", "dead", "restore", "reschedule", "release", "purge"];
    let actions = actions.into_iter().fold(Router::new(), |routes, action| {
        routes.route(&format!("/items:{action}"), post(operate::operate_matching))
    });
    let routes = actions
        .route("/memory", post(write::memory))
        .route("/sagas/{saga}", post(write::saga))
        .route("/items", get(items::list).post(write::items))
        .route("/items/{id}", get(items::show))
        .route("/items/{id}/{action}", post(operate::operate_one))
        .route("/jobs", get(operations::jobs))
        .route("/jobs/{id}", get(operations::job))
        .route("/jobs/{id}/cancel", post(operations::cancel))
        .route("/pauses", get(operations::pauses))
        .route("/types/{type}/{word}", post(operations::pause_or_resume))
        .route("/keys/{key}/unblock", post(operations::unblock))
        .route("/failures", get(operations::failures))
        .route("/stuck", get(operations::stuck))
        .route("/audit", get(operations::audit))
        .route("/signals", get(signals::signals))
        .route("/status/cockpit", get(cockpit::cockpit));
    with_common_routes(routes, state)
}

/// The routes of a process without an entry for writes: what `outbox worker` listens with.
pub fn worker_router(state: HttpState) -> Router {
    with_common_routes(Router::new(), state)
}

fn with_common_routes(routes: Router<Arc<HttpState>>, state: HttpState) -> Router {
    let state = Arc::new(state);
    routes
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer((
            middleware::from_fn_with_state(state.clone(), auth::authorize),
            DefaultBodyLimit::max(state.settings.max_body),
        ))
        .with_state(state)
}

/// Serves until `stop` is cancelled, then answers the requests that are under way and returns.
pub async fn run(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        if let Err(err) = stream.set_nodelay(true) {
            tracing::debug!(error = %err, "answering without TCP_NODELAY");
        }
    });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}
