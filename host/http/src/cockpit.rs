//! `GET /status/cockpit`: the state of the outbox, its sagas and its pods, from one reading of the store.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::access::Caller;
use crate::answers::{CockpitView, Sight};
use crate::problem::ApiError;
use crate::server_state::ServerState;

/// The state of the outbox, its sagas and its processes
#[utoipa::path(get, path = "/status/cockpit", operation_id = "cockpit", tag = "host",
    responses((status = 200, description = "One reading of the store", body = CockpitView)))]
pub(crate) async fn cockpit(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
) -> Result<Json<CockpitView>, ApiError> {
    let overview = state.inspect.overview().await?;
    let settings = state.settings();
    let sight = Sight::of(&caller, &settings);
    Ok(Json(CockpitView::of(overview, (state.status)(), &settings.sagas, &sight)))
}
