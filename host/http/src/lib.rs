//! The HTTP server of the outbox: writes, reads and actions of operators, signals, probes and metrics.
//!
//! This crate owns the routes, the checks of who may use them, and the shape of every refusal (problem+json, RFC 9457).
//! It sends 202 only after the store's commit, and never turns a durable write into an inline one. It reaches the store
//! and the handlers through their traits, and learns the status of plugins from a closure; it knows neither workers nor
//! WebAssembly.
//!
//! [`router`] serves writes and everything else; [`worker_router`] serves only probes and metrics. Both take an
//! [`HttpState`]; [`run`] serves a router on a listener until it is stopped.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use outbox_core::Handler;
//! use outbox_http::{HostStatus, HttpSettings, HttpState, ServeLimits, router, run};
//! use outbox_sqlite::{SqliteOptions, SqliteStore};
//! use tokio::net::TcpListener;
//! use tokio_util::sync::CancellationToken;
//!
//! async fn serve(handler: Arc<dyn Handler>, stop: CancellationToken) -> Result<(), Box<dyn std::error::Error>> {
//!     let store = SqliteStore::open(Path::new("outbox.sqlite"), SqliteOptions::default())?;
//!     let routes = router(HttpState {
//!         enqueue: store.clone(),
//!         inspect: store.clone(),
//!         operate: store,
//!         handler,
//!         settings: HttpSettings { is_durable: true, ..HttpSettings::default() }.fixed(),
//!         status: Arc::new(|| HostStatus { is_scanned: true, ..HostStatus::default() }),
//!         stop: stop.clone(),
//!     });
//!     run(TcpListener::bind("127.0.0.1:7070").await?, routes, ServeLimits::default(), stop).await;
//!     Ok(())
//! }
//! ```

#![deny(missing_docs)]

mod auth;
mod body;
mod cockpit;
mod confirm;
mod connections;
mod health;
mod history;
mod inline;
mod items;
mod metrics;
mod newest_signal;
mod operate;
mod operations;
mod pending;
mod problem;
mod query;
mod serve;
mod server_state;
mod signals;
mod state;
mod write;
mod write_headers;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::server_state::ServerState;

pub use crate::metrics::{METRICS, Metric, MetricKind, MetricScope};
pub use crate::serve::{ServeLimits, run};
pub use crate::state::{HostStatus, HttpSettings, HttpState};

/// All routes, as `outbox serve` answers them.
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
        .route("/fairness-keys", get(operations::key_totals))
        .route("/fairness-keys/{key}/{word}", post(operations::pause_or_resume_key))
        .route("/failures", get(operations::failures))
        .route("/stuck", get(operations::stuck))
        .route("/audit", get(operations::audit))
        .route("/history", get(history::history))
        .route("/signals", get(signals::signals))
        .route("/status/cockpit", get(cockpit::cockpit));
    with_common_routes(routes, state)
}

/// Probes and metrics only, as `outbox worker` answers them.
pub fn worker_router(state: HttpState) -> Router {
    with_common_routes(Router::new(), state)
}

fn with_common_routes(routes: Router<Arc<ServerState>>, state: HttpState) -> Router {
    let state = ServerState::new(state);
    routes
        .route("/metrics", get(metrics::of_process))
        .route("/metrics/store", get(metrics::of_store))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer((
            middleware::from_fn_with_state(state.clone(), auth::authorize),
            DefaultBodyLimit::max(state.settings().max_body),
        ))
        .with_state(state)
}
