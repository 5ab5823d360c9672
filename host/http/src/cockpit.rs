//! `GET /status/cockpit`: the state of the outbox, its sagas and its pods, from one reading of the store.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;

use crate::access::Caller;
use crate::answers::{CockpitView, Sight};
use crate::description::CockpitParameters;
use crate::page::OverviewReport;
use crate::problem::ApiError;
use crate::query::{QueryParameters, wants_overview};
use crate::server_state::ServerState;

/// The state of the outbox, its sagas and its processes
#[utoipa::path(get, path = "/status/cockpit", operation_id = "cockpit", tag = "host", params(CockpitParameters),
    responses((status = 200, description = "One reading of the store", body = CockpitView)))]
pub(crate) async fn cockpit(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<CockpitView>, ApiError> {
    let wants_overview = wants_overview(query?.0)?;
    let (settings, status) = (state.settings(), (state.status)());
    let sight = Sight::of(&caller, &settings);
    let mut report = None;
    if wants_overview {
        let glance = state.glances.newest(&*state.inspect, &status.served_types).await?;
        report = Some(OverviewReport::of(&glance, &sight));
    }
    let overview = state.inspect.overview().await?;
    Ok(Json(CockpitView::of(overview, status, &settings.sagas, &sight).with_overview(report)))
}
