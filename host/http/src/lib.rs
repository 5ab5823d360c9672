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
//!         trials: None,
//!         stop: stop.clone(),
//!     });
//!     run(TcpListener::bind("127.0.0.1:7070").await?, routes, ServeLimits::default(), stop).await;
//!     Ok(())
//! }
//! ```

#![deny(missing_docs)]

mod access;
mod actions;
mod answers;
mod body;
mod cockpit;
mod confirm;
mod connections;
mod description;
mod glance;
mod health;
mod history;
mod inline;
mod items;
mod metrics;
mod newest_signal;
mod operate;
mod operations;
mod page;
mod pending;
mod problem;
mod query;
mod serve;
mod server_state;
mod signals;
mod state;
mod trial;
mod write;
mod write_headers;

use std::sync::{Arc, LazyLock};

use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::Response;
use axum::{Extension, Router, middleware};
use utoipa_axum::routes;

use crate::description::{BODY, Document, Routes, SEARCH, STORE, begin, echoes, needs, open};
use crate::server_state::ServerState;

pub use crate::access::{
    AccessSettings, InvalidTokenDigest, NamedToken, PeerAddress, ProxyUsers, Right, Rights, Role, SessionKey,
    TokenDigest, UnknownWord, is_name,
};
pub use crate::metrics::{METRICS, Metric, MetricKind, MetricScope};
pub use crate::page::{Flow, HourFigures, Need, OverviewReport, PluginRow, PodRow, SagaRow, Since, TypeRow, TypeState};
pub use crate::serve::{ServeLimits, listen, run};
pub use crate::state::{EnvironmentColour, HostStatus, HttpSettings, HttpState};
pub use crate::trial::{TrialEnd, TrialOrder, TrialReport, TrialRequest, Trials};

/// All routes, as `outbox serve` answers them.
pub fn router(state: HttpState) -> Router {
    /// The same for all servers of a process.
    static TEXT: LazyLock<Arc<str>> = LazyLock::new(|| openapi().into());
    served(all_routes(), page::routes(), &TEXT, state)
}

/// Probes, metrics and their description only, as `outbox worker` answers them.
pub fn worker_router(state: HttpState) -> Router {
    static TEXT: LazyLock<Arc<str>> = LazyLock::new(|| described(common_routes()).into());
    served(common_routes(), page::no_routes(), &TEXT, state)
}

/// The description of the routes of [`router`], an OpenAPI document. It is also served at `/openapi.json`.
pub fn openapi() -> String {
    described(all_routes())
}

fn described(routes: Routes) -> String {
    description::text(&description::finish(routes.into_openapi()))
}

/// The routes that every process has.
fn common_routes() -> Routes {
    begin()
        .routes(needs(Right::Scrape, &[STORE], routes!(metrics::of_process)))
        .routes(needs(Right::Scrape, &[STORE], routes!(metrics::of_store)))
        .routes(open(&[], routes!(health::healthz)))
        .routes(open(&[&["not-ready"]], routes!(health::readyz)))
        .routes(open(&[], routes!(description::openapi_json)))
}

/// The routes of a process that takes writes.
fn all_routes() -> Routes {
    common_routes().merge(writes()).merge(reads()).merge(actions()).merge(controls()).merge(sessions())
}

fn writes() -> Routes {
    const WRITE: &[&str] = &[
        "missing-headers",
        "malformed-header",
        "invalid-item",
        "conflict",
        "too-many-pending",
        "unserved",
        "inline-failed",
        "invalid-request",
    ];
    Routes::default()
        .routes(echoes(needs(Right::Enqueue, &[STORE, BODY, WRITE], routes!(write::memory))))
        .routes(echoes(needs(Right::Enqueue, &[STORE, BODY, WRITE, &["unknown-saga"]], routes!(write::saga))))
        .routes(echoes(needs(Right::Enqueue, &[STORE, BODY, WRITE], routes!(write::items))))
}

fn reads() -> Routes {
    let read = |problems: &[&[&'static str]], methods| needs(Right::Read, &[&[STORE], problems].concat(), methods);
    Routes::default()
        .routes(read(&[SEARCH, &["invalid-item"]], routes!(items::list)))
        .routes(read(&[&["no-item", "invalid-request"]], routes!(items::show)))
        .routes(read(&[SEARCH], routes!(operations::jobs)))
        .routes(read(&[SEARCH, &["no-job"]], routes!(operations::job)))
        .routes(read(&[], routes!(operations::pauses)))
        .routes(read(&[SEARCH], routes!(operations::key_totals)))
        .routes(read(&[SEARCH, &["invalid-item"]], routes!(operations::failures)))
        .routes(read(&[SEARCH], routes!(operations::stuck)))
        .routes(read(&[SEARCH], routes!(operations::audit)))
        .routes(read(&[SEARCH, &["too-many-streams"]], routes!(signals::signals)))
        .routes(read(&[SEARCH], routes!(history::history)))
        .routes(read(&[SEARCH], routes!(cockpit::cockpit)))
}

fn actions() -> Routes {
    const ONE: &[&str] = &["invalid-request", "no-item", "refused"];
    const ALL: &[&str] = &["invalid-request", "invalid-item", "unknown-name"];
    const ASKED: &[&str] = &["confirmation-needed"];
    let one = |methods| needs(Right::Operate, &[STORE, BODY, ONE], methods);
    let all = |asked, methods| needs(Right::Operate, &[STORE, BODY, ALL, asked], methods);
    Routes::default()
        .routes(one(routes!(actions::replay_item)))
        .routes(one(routes!(actions::dead_item)))
        .routes(one(routes!(actions::restore_item)))
        .routes(one(routes!(actions::reschedule_item)))
        .routes(one(routes!(actions::release_item)))
        .routes(all(ASKED, routes!(actions::replay_items)))
        .routes(all(ASKED, routes!(actions::dead_items)))
        .routes(all(&[], routes!(actions::restore_items)))
        .routes(all(ASKED, routes!(actions::reschedule_items)))
        .routes(all(ASKED, routes!(actions::release_items)))
        .routes(needs(Right::Admin, &[STORE, BODY, ALL, ASKED], routes!(actions::purge_items)))
}

fn controls() -> Routes {
    let control = |problems, methods| needs(Right::Operate, &[STORE, BODY, problems], methods);
    Routes::default()
        .routes(control(&["invalid-request", "no-job"], routes!(operations::cancel)))
        .routes(control(&["invalid-request", "invalid-item", "unknown-name"], routes!(operations::pause)))
        .routes(control(&["invalid-request", "invalid-item", "unknown-name"], routes!(operations::resume)))
        .routes(control(&["invalid-request", "invalid-item", "unknown-name"], routes!(operations::pause_key)))
        .routes(control(&["invalid-request", "invalid-item", "unknown-name"], routes!(operations::resume_key)))
        .routes(control(&["invalid-request", "invalid-item", "unknown-name"], routes!(operations::unblock)))
}

fn sessions() -> Routes {
    const LOGIN: &[&str] = &["unauthorized", "too-many-attempts", "cross-site", "invalid-request"];
    let (schemas, paths, methods) = routes!(access::login::login);
    let login = (schemas, paths, methods.route_layer(DefaultBodyLimit::max(access::login::LOGIN_MAX)));
    Routes::default()
        .routes(open(&[STORE, BODY, LOGIN], login))
        .routes(open(&[STORE, &["cross-site"]], routes!(access::login::logout)))
}

/// No cache keeps an answer unless it says so: it is for the caller who has the rights for it now.
async fn not_stored(mut response: Response) -> Response {
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The server of these routes, with their description, and of the pages.
fn served(routes: Routes, pages: Router<Arc<ServerState>>, text: &Arc<str>, state: HttpState) -> Router {
    let state = ServerState::new(state);
    let (described, _) = routes.split_for_parts();
    described
        .merge(pages)
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer((
            middleware::from_fn_with_state(state.clone(), page::dress),
            middleware::map_response(not_stored),
            middleware::from_fn_with_state(state.clone(), access::identify),
            DefaultBodyLimit::max(state.settings().max_body),
            Extension(Document(Arc::clone(text))),
        ))
        .with_state(state)
}
