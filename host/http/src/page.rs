//! The cockpit: pages for operators, rendered by the host, whose every view is useful without scripts.
//!
//! This folder turns what the store tells into words and tables, and forms into the orders of the JSON interface. Who
//! may see what, and who may do what, is decided by the code that decides it for that interface.

mod act;
mod actions;
mod anew;
mod assets;
mod charts;
mod compression;
mod content;
mod controls;
mod dress;
mod expired;
mod failures;
mod filters;
mod form;
mod frame;
mod hour;
mod item;
mod items;
mod jobs;
mod kept;
mod line;
mod live;
mod login;
mod needs;
mod operations;
mod options;
mod overview;
mod plugins;
mod pods;
mod reason;
mod report;
mod sagas;
mod search;
mod targets;
mod timeline;
mod trials;
mod troubles;
mod types;
mod visit;
mod why;
mod words;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};

use crate::access::{Right, require};
use crate::page::actions::DEEDS;
use crate::server_state::ServerState;

pub(crate) use crate::page::dress::dress;
pub use crate::page::hour::HourFigures;
pub use crate::page::needs::{Need, Since};
pub use crate::page::overview::Flow;
pub use crate::page::pods::{PluginRow, PodRow};
pub use crate::page::report::{OverviewReport, SagaRow};
pub use crate::page::types::{TypeRow, TypeState};

/// The routes of the pages. Programs use those of the JSON interface, so these are not described.
pub(crate) fn routes() -> Router<Arc<ServerState>> {
    let view = |methods| with_right(Right::Read, methods);
    Router::new()
        .route("/", get(login::to_cockpit))
        .route("/cockpit", view(get(overview::overview)))
        .route("/cockpit/items", view(get(items::items)))
        .route("/cockpit/items/{id}", view(get(item::item)))
        .route("/cockpit/items/{id}/anew", with_right(Right::Enqueue, get(anew::ask).post(anew::enqueue)))
        .route("/cockpit/items/{id}/try", with_right(Right::Operate, post(trials::try_one)))
        .route("/cockpit/failures", view(get(failures::failures)))
        .route("/cockpit/failures/{fingerprint}", view(get(failures::failure)))
        .route("/cockpit/plugins", view(get(plugins::plugins)))
        .route("/cockpit/sagas", view(get(sagas::sagas)))
        .route("/cockpit/operations", view(get(operations::operations)))
        .route("/cockpit/jobs/{id}", view(get(jobs::job)))
        .route("/cockpit/search", view(get(search::search)))
        .route("/cockpit/live", view(get(live::live)))
        .merge(acts())
        .route("/cockpit/control/{word}", with_right(Right::Operate, get(controls::ask).post(controls::carry)))
        .route(
            "/cockpit/login",
            post(login::log_in).layer(DefaultBodyLimit::max(login::LOGIN_MAX)).get(login::to_cockpit),
        )
        .route("/cockpit/logout", post(login::log_out))
        .route("/cockpit/assets/{name}", get(assets::asset))
        .layer(middleware::map_response(expired::show_again))
}

/// Those of a process without pages.
pub(crate) fn no_routes() -> Router<Arc<ServerState>> {
    Router::new()
}

/// A route for each action on items, with the right that it needs.
fn acts() -> Router<Arc<ServerState>> {
    DEEDS.iter().fold(Router::new(), |routes, deed| {
        routes.route(&format!("/cockpit/act/{}", deed.word), with_right(deed.right, get(act::ask).post(act::act)))
    })
}

/// Routes for callers with the right, as those of the JSON interface.
fn with_right(right: Right, methods: MethodRouter<Arc<ServerState>>) -> MethodRouter<Arc<ServerState>> {
    methods.route_layer(middleware::from_fn_with_state(right, require))
}
