//! `GET /status/cockpit`: the state of the outbox, its sagas and its pods, as one JSON object.
//!
//! All figures come from one reading of the store. Operators' scripts rely on the shape: every declared saga, outcome
//! and violation is present from the start, with a zero.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use outbox_core::saga::StepOutcome;
use outbox_store::{Overview, Pod, SagaTotals, Violation};

use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::state::{HostStatus, HttpState};

/// `GET /status/cockpit`
pub(crate) async fn cockpit(State(state): State<Arc<ServerState>>) -> Result<Json<Value>, ApiError> {
    let overview = state.inspect.overview().await?;
    let status = (state.status)();
    Ok(Json(json!({
        "generated_at": overview.now,
        "pods": pods(&overview),
        "governor": {
            "sagas": sagas(&state, &overview),
            "contract_violations": violations(&overview.contract_violations),
        },
        "outbox": outbox(&overview, &status),
        "plugins": status.plugins,
    })))
}

fn pods(overview: &Overview) -> Map<String, Value> {
    let describe = |pod: &Pod| {
        json!({
            "role": pod.role, "ready": pod.ready, "live": pod.is_live(overview.now), "heartbeat_at": pod.heartbeat_at, "plugins": pod.plugins,
            "breakers": pod.breakers,
        })
    };
    overview.pods.iter().map(|pod| (pod.instance.clone(), describe(pod))).collect()
}

fn sagas(state: &HttpState, overview: &Overview) -> BTreeMap<String, SagaTotals> {
    let mut sagas = overview.sagas.clone();
    for definition in &state.settings().sagas {
        let totals = sagas.entry(definition.name.clone()).or_default();
        for step in &definition.steps {
            totals.steps.entry(step.clone()).or_default();
        }
    }
    for outcomes in sagas.values_mut().flat_map(|totals| totals.steps.values_mut()) {
        for outcome in [StepOutcome::Ok, StepOutcome::Retried, StepOutcome::Dead] {
            outcomes.entry(outcome.as_str().to_owned()).or_default();
        }
    }
    sagas
}

/// The counts of all violations; one that the store has not counted is zero.
pub(crate) fn violations(counted: &BTreeMap<String, u64>) -> BTreeMap<&'static str, u64> {
    [Violation::MissingCorrelationId, Violation::MissingIdempotencyKey]
        .map(|violation| (violation.as_str(), counted.get(violation.as_str()).copied().unwrap_or_default()))
        .into()
}

fn outbox(overview: &Overview, status: &HostStatus) -> Value {
    json!({
        "by_status": overview.by_status,
        "by_type": overview.by_type,
        "retrying_by_type": overview.retrying,
        "oldest_enqueued_ms_by_type": overview.oldest_enqueued_ms,
        "oldest_pending_ms": overview.oldest_pending_ms.values().max(),
        "oldest_pending_ms_by_type": overview.oldest_pending_ms,
        "unhandled": overview.unhandled(&status.served_types),
        "expired_claims": overview.expired_claims,
        "blocked_keys": overview.blocked_keys,
        "database_bytes": overview.database_bytes,
        "wal_bytes": overview.wal_bytes,
    })
}
