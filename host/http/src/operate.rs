//! Operators' actions, on one item or on all that match; the store audits and performs them.
//!
//! Knows how an order is written in a request, and nothing of which status allows which action.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::body::BodyResult;
use crate::items::item_id;
use crate::problem::ApiError;
use crate::{HttpState, body};
use outbox_core::OnDead;
use outbox_item::{ItemId, Millis};
use outbox_store::{
    Action, EffectKeys, Execution, Filter, LeasePolicy, OperateReport, OperateRequest, Refusal, Selection,
};

/// The body of an operator's request. An empty body leaves every member at its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of a JSON document")]
struct OperateBody {
    ids: Option<Vec<ItemId>>,
    filter: Option<Filter>,
    /// Comes before the header `X-Actor`.
    actor: Option<String>,
    reason: Option<String>,
    dry_run: bool,
    /// Answer as soon as the job has begun, instead of when it has ended.
    background: bool,
    /// Let the job change no more items than this each second; it then goes on in the background.
    per_second: Option<u32>,
    /// Of a replay: its effects carry new idempotency keys.
    new_effects: bool,
    /// Of `dead` and `release`: take claims whose lease has not ended, too.
    force: bool,
    /// Of `dead`: let what waits behind the item go on without it.
    skip_key: bool,
    /// Of `reschedule`: when, in Unix milliseconds.
    available_at: Option<Millis>,
    /// Of `reschedule`: in how long.
    delay_ms: Option<Millis>,
}

/// `POST /items/{id}/{action}`
pub(crate) async fn operate_one(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<OperateReport>, ApiError> {
    let Path((id, word)) = path?;
    if word == "purge" {
        return Err(ApiError::NoRoute(uri.path().to_owned()));
    }
    let id = item_id(&id)?;
    let request: OperateBody = read_json(&state, &headers, body, "the order")?;
    if request.ids.is_some() || request.filter.is_some() {
        return Err(ApiError::Invalid("the path names the item: leave ids and filter out".into()));
    }
    let action = action(&state, &word, &request, &uri).await?;
    let request = request.into_request(&headers, action, Selection::Ids(vec![id]));
    let report = state.store.operate(&request).await?;
    match report.refused.first() {
        None => Ok(Json(report)),
        Some(refusal) => Err(refusal_error(&state, refusal).await?),
    }
}

/// `POST /items:{action}`: 200 with a report, or 202 with a job that goes on.
pub(crate) async fn operate_matching(
    State(state): State<Arc<HttpState>>,
    uri: Uri,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let mut request: OperateBody = read_json(&state, &headers, body, "the order")?;
    let word = uri.path().rsplit(':').next().unwrap_or_default();
    let action = action(&state, word, &request, &uri).await?;
    let selection = selection(request.ids.take(), request.filter.take())?;
    let (per_second, is_background) = (request.per_second, request.background || request.per_second.is_some());
    let request = request.into_request(&headers, action, selection);
    if !is_background || request.execution == Execution::DryRun {
        return Ok(Json(state.store.operate(&request).await?).into_response());
    }
    if per_second == Some(0) || !matches!(request.selection, Selection::Filter(_)) {
        let rule = "background and per_second belong to a filter, and per_second is at least 1";
        return Err(ApiError::Invalid(rule.into()));
    }
    let job = state.store.start_job(&request, per_second).await?;
    Ok((StatusCode::ACCEPTED, Json(job)).into_response())
}

/// The action that the path names, on the terms of the body.
async fn action(state: &HttpState, word: &str, order: &OperateBody, uri: &Uri) -> Result<Action, ApiError> {
    let lease = if order.force { LeasePolicy::Break } else { LeasePolicy::Respect };
    let action = match word {
        "replay" if order.new_effects => Action::Replay { keys: EffectKeys::New },
        "replay" => Action::Replay { keys: EffectKeys::Same },
        "dead" if order.skip_key => Action::Dead { on_dead: OnDead::Skip, lease },
        "dead" => Action::Dead { on_dead: OnDead::Block, lease },
        "restore" => Action::Restore,
        "reschedule" => Action::Reschedule { at: requested_time(state, order).await? },
        "release" => Action::Release { lease },
        "purge" => Action::Purge,
        _ => return Err(ApiError::NoRoute(uri.path().to_owned())),
    };
    for (given, name, owners) in [
        (order.new_effects, "new_effects", &["replay"][..]),
        (order.force, "force", &["dead", "release"]),
        (order.skip_key, "skip_key", &["dead"]),
        (order.available_at.is_some(), "available_at", &["reschedule"]),
        (order.delay_ms.is_some(), "delay_ms", &["reschedule"]),
    ] {
        if given && !owners.contains(&word) {
            return Err(ApiError::Invalid(format!("{name} belongs to {}: leave it out", owners.join(" and "))));
        }
    }
    Ok(action)
}

async fn requested_time(state: &HttpState, order: &OperateBody) -> Result<Millis, ApiError> {
    match (order.available_at, order.delay_ms) {
        (Some(at), None) => Ok(at),
        (None, Some(delay)) if delay >= 0 => Ok(state.store.now().await?.saturating_add(delay)),
        _ => Err(ApiError::Invalid(r#"say when: either "available_at" or "delay_ms", in milliseconds"#.into())),
    }
}

/// The JSON of a body; an empty one stands for nothing said.
pub(crate) fn read_json<T: DeserializeOwned + Default>(
    state: &HttpState,
    headers: &HeaderMap,
    body: BodyResult,
    what: &'static str,
) -> Result<T, ApiError> {
    let bytes = body::json(state, headers, body)?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(ApiError::invalid_json(what))
}

/// A filter has to name a status, so that a forgotten one does not mean every item there is.
fn selection(ids: Option<Vec<ItemId>>, filter: Option<Filter>) -> Result<Selection, ApiError> {
    match (ids, filter) {
        (Some(ids), None) if !ids.is_empty() => Ok(Selection::Ids(ids)),
        (None, Some(filter)) if !filter.status.is_empty() => Ok(Selection::Filter(filter)),
        _ => Err(ApiError::Invalid(
            r#"say which items: either "ids": [1, 2] or "filter": {"status": ["DLQ"]} with at least one status"#.into(),
        )),
    }
}

impl OperateBody {
    fn into_request(self, headers: &HeaderMap, action: Action, selection: Selection) -> OperateRequest {
        let actor = actor(self.actor, headers);
        OperateRequest { action, selection, actor, reason: self.reason, execution: execution(self.dry_run) }
    }
}

/// Who asks: as the body says, else as the header `X-Actor` says.
pub(crate) fn actor(given: Option<String>, headers: &HeaderMap) -> String {
    let header = headers.get("x-actor").and_then(|value| value.to_str().ok()).filter(|actor| !actor.is_empty());
    given.or(header.map(str::to_owned)).unwrap_or_else(|| "http".to_owned())
}

pub(crate) fn execution(dry_run: bool) -> Execution {
    if dry_run { Execution::DryRun } else { Execution::Apply }
}

/// Tells an item that is not there from one that is in the wrong status.
async fn refusal_error(state: &HttpState, refusal: &Refusal) -> Result<ApiError, ApiError> {
    let Refusal { id, reason } = refusal.clone();
    Ok(match state.store.get(id).await? {
        None => ApiError::NoItem(id),
        Some(_) => ApiError::Refused { id, reason },
    })
}
