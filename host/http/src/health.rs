//! The probes of an orchestrator: whether the process is alive, and whether it can work.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::state::HttpState;

/// How long the readiness probe waits for the store. Probes usually give up after a few seconds, and a store that
/// needs longer for one indexed read is too slow for clients too.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a probe is told.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProbeAnswer {
    /// Always `ok`.
    #[schema(value_type = String)]
    status: &'static str,
}

/// Whether the process answers
#[utoipa::path(get, path = "/healthz", operation_id = "healthz", tag = "host",
    responses((status = 200, description = "It does", body = ProbeAnswer)))]
pub(crate) async fn healthz() -> Json<ProbeAnswer> {
    Json(ProbeAnswer { status: "ok" })
}

/// Whether the process can work
///
/// The store answers and takes writes, the first scan of the plugin folder has finished, and every image has given
/// a component.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "host",
    responses((status = 200, description = "It can", body = ProbeAnswer)))]
pub(crate) async fn readyz(State(state): State<Arc<ServerState>>) -> Result<Json<ProbeAnswer>, ApiError> {
    let status = (state.status)();
    let mut missing = missing_of_store(&state, status.is_read_only).await;
    if !status.is_scanned {
        missing.push("the first scan of the plugin folder, or the first pull of an image, has not finished");
    }
    if missing.is_empty() { Ok(healthz().await) } else { Err(ApiError::NotReady(missing)) }
}

/// What the store lacks.
async fn missing_of_store(state: &HttpState, is_read_only: bool) -> Vec<&'static str> {
    let answer = match timeout(READY_TIMEOUT, state.inspect.probe()).await {
        Ok(Err(err)) if err.is_disk_full() => return vec!["the disk of the store is full, so it takes no writes"],
        Ok(Ok(())) => None,
        _ => Some("the store does not answer"),
    };
    answer.into_iter().chain(is_read_only.then_some("the store takes no writes")).collect()
}
