//! `GET /metrics` and `GET /metrics/store`, in the text format of Prometheus.
//!
//! The first is about this process alone, so that sums over processes are right. The second is about the whole outbox
//! and the same from every process: one scrape of it is enough for each store. `OUTBOX_METRICS_STORE` adds it to the
//! first, for an outbox with one process. The list of all metrics is in `catalog`.

mod catalog;
mod exposition;
mod label_values;
mod process;
mod whole_store;

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::prometheus_text;

use crate::metrics::exposition::Exposition;
use crate::problem::ApiError;
use crate::server_state::ServerState;

pub use crate::metrics::catalog::{METRICS, Metric, MetricKind, MetricScope};

/// Metrics of this process
///
/// In the text format of Prometheus. `OUTBOX_METRICS_STORE` adds those of the store.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "host",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
pub(crate) async fn of_process(State(state): State<Arc<ServerState>>) -> Result<Response, ApiError> {
    let mut exposition = Exposition::default();
    process::add(&mut exposition, &(state.status)());
    if state.settings().metrics_store {
        add_store(&mut exposition, &state).await?;
    }
    Ok(answer(exposition))
}

/// Metrics of the whole outbox
///
/// The same from every process: one scrape is enough for each store.
#[utoipa::path(get, path = "/metrics/store", operation_id = "store_metrics", tag = "host",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
pub(crate) async fn of_store(State(state): State<Arc<ServerState>>) -> Result<Response, ApiError> {
    let mut exposition = Exposition::default();
    add_store(&mut exposition, &state).await?;
    Ok(answer(exposition))
}

async fn add_store(exposition: &mut Exposition, state: &ServerState) -> Result<(), ApiError> {
    let overview = state.inspect.overview().await?;
    let pauses = (state.inspect.pauses().await?, state.inspect.key_pauses().await?.len());
    whole_store::add(exposition, &overview, &pauses, &(state.status)(), &state.settings().sagas);
    Ok(())
}

fn answer(exposition: Exposition) -> Response {
    ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], exposition.into_text()).into_response()
}
