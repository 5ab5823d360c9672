//! Writes without an outbox: every step runs once, in order, before the answer.
//!
//! Nothing is stored and nothing is tried again; the caller sees what became of each step. A step that
//! failed does not keep the others from running, as it would not in the durable mode. Delays, ordering
//! keys and idempotency keys of items have no meaning here, except that the latter go out with effects.
//! A caller who hangs up abandons the step that is running and those behind it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::HttpState;
use crate::problem::ApiError;
use crate::write_headers::WriteIdentity;
use outbox_core::{Attempt, AttemptReport, DeliveryMode, Outcome, ServedType};
use outbox_item::{Item, Millis, NewItem, Status, payload_fields};

/// Runs the items. Errors with `Unserved` before the first one if any has no handler, and with
/// `Inline` when one of them failed.
pub(crate) async fn run(
    state: &HttpState,
    identity: &WriteIdentity,
    items: Vec<NewItem>,
) -> Result<Response, ApiError> {
    let served_types = state.handler.served_types();
    check_served(&served_types, &items)?;
    let store_time = StoreTime { now: state.store.now().await?, read_at: Instant::now() };
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        results.push(run_step(state, &served_types, &store_time, item).await);
    }
    response(identity, results)
}

fn check_served(served_types: &[ServedType], items: &[NewItem]) -> Result<(), ApiError> {
    let is_served = |item_type: &str| served_types.iter().any(|served_type| served_type.item_type == item_type);
    let missing: Vec<_> =
        items.iter().map(|item| item.item_type.clone()).filter(|item_type| !is_served(item_type)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(ApiError::Unserved {
        missing,
        served: served_types.iter().map(|served_type| served_type.item_type.clone()).collect(),
    })
}

/// The store's time, read once for all steps: it cannot fail between two of them.
struct StoreTime {
    now: Millis,
    read_at: Instant,
}

impl StoreTime {
    fn at(&self, instant: Instant) -> Millis {
        self.now + millis(instant.duration_since(self.read_at))
    }
}

async fn run_step(state: &HttpState, served_types: &[ServedType], store_time: &StoreTime, item: NewItem) -> Value {
    let served_type = served_types.iter().find(|served_type| served_type.item_type == item.item_type);
    let timeout = served_type.and_then(|served_type| served_type.timeout).unwrap_or(state.settings.timeout_inline);
    let item_type = item.item_type.clone();
    let start = Instant::now();
    let deadline = start + timeout;
    let attempt = Attempt {
        item: Arc::new(as_claimed(state, item, store_time.at(start), store_time.at(deadline))),
        deadline,
        deadline_at: store_time.at(deadline),
        mode: DeliveryMode::Inline,
        // A graceful shutdown waits for the request, and so for its steps.
        stop: CancellationToken::new(),
        locks: Arc::default(),
    };
    step_result(&item_type, state.handler.handle(attempt).await)
}

/// The item as a worker would hold it on its only attempt; the id says that there is no row.
fn as_claimed(state: &HttpState, new: NewItem, now: Millis, lease_until: Millis) -> Item {
    Item {
        status: Status::Claimed,
        attempts: 1,
        deliveries: 1,
        claimed_at: Some(now),
        claimed_by: Some(state.settings.pod.clone()),
        lease_until: Some(lease_until),
        ..new.into_item(0, now)
    }
}

const OK: &str = "ok";

fn step_result(item_type: &str, report: AttemptReport) -> Value {
    match report.outcome {
        Outcome::Done { result, .. } => {
            let result = result.map(|bytes| payload_fields(&bytes).0);
            json!({ "type": item_type, "outcome": OK, "result": result })
        }
        Outcome::Failed(failure) => json!({
            "type": item_type, "outcome": failure.class, "code": failure.code, "message": failure.message,
            "maybe_executed": report.maybe_executed,
        }),
        Outcome::Interrupted => json!({
            "type": item_type, "outcome": "stopped", "maybe_executed": report.maybe_executed,
        }),
        Outcome::NoHandler => json!({ "type": item_type, "outcome": "unserved", "maybe_executed": false }),
    }
}

fn response(identity: &WriteIdentity, results: Vec<Value>) -> Result<Response, ApiError> {
    let failed = results.iter().filter(|result| result["outcome"] != OK).count();
    let (cid, idem_key) = (&identity.cid, &identity.idem_key);
    if failed > 0 {
        tracing::warn!(cid, idem_key, failed, "inline steps failed and will not be tried again");
        return Err(ApiError::Inline { failed, results, cid: cid.clone(), idem_key: idem_key.clone() });
    }
    Ok(Json(json!({ "mode": "inline", "cid": cid, "idem_key": idem_key, "steps": results })).into_response())
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
