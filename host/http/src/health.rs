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
use crate::state::{HostStatus, HttpState};

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
/// The store answers and takes writes, the first scan of the plugin folder has finished, and a version of every image has
/// been loaded.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "host",
    responses((status = 200, description = "It can", body = ProbeAnswer)))]
pub(crate) async fn readyz(State(state): State<Arc<ServerState>>) -> Result<Json<ProbeAnswer>, ApiError> {
    let status = (state.status)();
    let of_store = missing_of_store(&state, status.is_read_only).await.into_iter().map(str::to_owned);
    let missing: Vec<_> = of_store.chain(missing_of_plugins(&status)).collect();
    if missing.is_empty() { Ok(healthz().await) } else { Err(ApiError::NotReady(missing)) }
}

/// What the plugins lack. A file in the folder that is refused is none of it: the others serve. A pod whose image is
/// refused would replace one that runs.
fn missing_of_plugins(status: &HostStatus) -> impl Iterator<Item = String> {
    let of_image = |image: &String| format!("no version of {image} is loaded: `outbox plugin list` says why");
    let scan = (!status.is_scanned).then(|| "the first scan of the plugin folder has not finished".to_owned());
    scan.into_iter().chain(status.images_without_version.iter().map(of_image))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_that_no_version_of_is_loaded_is_named() {
        let missing = |is_scanned: bool, images: &[&str]| {
            let images_without_version = images.iter().map(|image| (*image).to_owned()).collect();
            let status = HostStatus { is_scanned, images_without_version, ..HostStatus::default() };
            missing_of_plugins(&status).collect::<Vec<_>>()
        };
        assert_eq!(missing(true, &[]).len(), 0);
        assert!(missing(false, &[])[0].contains("the first scan"));
        let named = missing(true, &["oci://r.example/p:1", "oci://r.example/q:1"]);
        assert!(named.len() == 2 && named[1].contains("oci://r.example/q:1"), "{named:?}");
    }
}
