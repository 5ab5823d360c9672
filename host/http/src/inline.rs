//! Inline mode: every step of a write runs once, in order, before the response.
//!
//! Stores nothing and retries nothing; the response reports the result of each step. A failed step does not stop the
//! later ones, as in durable mode. Delays and ordering keys of items are ignored. A client that closes its connection
//! drops the running step and those after it.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use outbox_core::{Attempt, AttemptReport, DeliveryMode, Outcome, ServedType};
use outbox_item::{Item, ItemId, Millis, NewItem, Status, payload_fields};

use crate::problem::ApiError;
use crate::state::HttpState;
use crate::write_headers::WriteIdentity;

/// Runs the items. Errors with [`ApiError::Unserved`] before the first item if any has no handler, and with
/// [`ApiError::Inline`] after the last if any failed.
pub(crate) async fn run(
    state: &HttpState,
    identity: &WriteIdentity,
    items: Vec<NewItem>,
) -> Result<Response, ApiError> {
    let served_types = state.handler.served_types();
    check_served(&served_types, &items)?;
    let store_time = StoreTime { now: state.inspect.now().await?, read_at: Instant::now() };
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        results.push(run_step(state, &served_types, &store_time, item).await);
    }
    response(identity, &results)
}

fn check_served(served_types: &[ServedType], items: &[NewItem]) -> Result<(), ApiError> {
    let is_served = |item_type: &str| served_types.iter().any(|served_type| served_type.item_type == item_type);
    let missing: Vec<_> =
        items.iter().map(|item| item.item_type.clone()).filter(|item_type| !is_served(item_type)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let served = served_types.iter().map(|served_type| served_type.item_type.clone()).collect();
    Err(ApiError::Unserved { missing, served })
}

/// The store's time, read once before the first step, so that no later step can fail for lack of it.
struct StoreTime {
    now: Millis,
    read_at: Instant,
}

impl StoreTime {
    fn at(&self, instant: Instant) -> Millis {
        self.now.saturating_add(instant.duration_since(self.read_at))
    }
}

/// What became of one item.
struct StepResult {
    item_type: String,
    report: AttemptReport,
}

async fn run_step(state: &HttpState, served_types: &[ServedType], store_time: &StoreTime, item: NewItem) -> StepResult {
    let served_type = served_types.iter().find(|served_type| served_type.item_type == item.item_type);
    let timeout = served_type.and_then(|served_type| served_type.timeout).unwrap_or(state.settings().timeout_inline);
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
        trace: None,
    };
    StepResult { item_type, report: state.handler.handle(attempt).await }
}

/// The item as a worker would claim it for its only attempt. Its id is 0, because the store has no row of it.
fn as_claimed(state: &HttpState, new: NewItem, now: Millis, lease_until: Millis) -> Item {
    Item {
        status: Status::Claimed,
        attempts: 1,
        deliveries: 1,
        claimed_at: Some(now),
        claimed_by: Some(state.settings().pod.clone()),
        lease_until: Some(lease_until),
        ..new.into_item(ItemId::new(0), now)
    }
}

impl StepResult {
    fn is_done(&self) -> bool {
        matches!(self.report.outcome, Outcome::Done { .. })
    }

    fn view(&self) -> StepView<'_> {
        let Self { item_type, report } = self;
        let maybe_executed = Some(report.maybe_executed);
        let view = |outcome| StepView { r#type: item_type, outcome, ..StepView::default() };
        match &report.outcome {
            Outcome::Done { result, .. } => {
                let shown = result.as_deref().map_or(RawValue::NULL.to_owned(), |bytes| payload_fields(bytes).0);
                StepView { result: Some(shown), ..view("ok") }
            }
            Outcome::Failed(failure) => StepView {
                code: Some(&failure.code),
                message: Some(&failure.message),
                maybe_executed,
                ..view(failure.class.as_str())
            },
            Outcome::Interrupted => StepView { maybe_executed, ..view("stopped") },
            Outcome::NoHandler => StepView { maybe_executed: Some(false), ..view("unserved") },
        }
    }
}

/// What became of one item, as the response shows it.
#[derive(Default, Serialize, ToSchema)]
struct StepView<'a> {
    /// Its type.
    #[schema(value_type = String)]
    r#type: &'a str,
    /// `ok`, the class of a failure, `stopped` or `unserved`.
    #[schema(value_type = String)]
    outcome: &'a str,
    /// What the handler returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    result: Option<Box<RawValue>>,
    /// The code of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    code: Option<&'a str>,
    /// The failure in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    message: Option<&'a str>,
    /// Whether it may have had its effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    maybe_executed: Option<bool>,
}

/// The response when every step is done.
#[derive(Serialize, ToSchema)]
pub(crate) struct InlineBody<'a> {
    /// Always `inline`.
    #[schema(value_type = String)]
    mode: &'static str,
    /// The correlation id.
    #[schema(value_type = String)]
    cid: &'a str,
    /// The idempotency key.
    #[schema(value_type = String)]
    idem_key: &'a str,
    /// What became of each step.
    steps: Vec<StepView<'a>>,
}

fn response(identity: &WriteIdentity, results: &[StepResult]) -> Result<Response, ApiError> {
    let failed = results.iter().filter(|result| !result.is_done()).count();
    let steps: Vec<_> = results.iter().map(StepResult::view).collect();
    let (cid, idem_key) = (&identity.cid, &identity.idem_key);
    if failed > 0 {
        tracing::warn!(cid, idem_key, failed, "inline steps failed and will not be tried again");
        let (count, steps) = (steps.len(), to_raw_value(&steps).map_err(|_| ApiError::Internal)?);
        return Err(ApiError::Inline { failed, count, steps, cid: cid.clone(), idem_key: idem_key.clone() });
    }
    Ok(Json(InlineBody { mode: "inline", cid, idem_key, steps }).into_response())
}
