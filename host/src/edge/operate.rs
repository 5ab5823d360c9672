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

use super::Edge;
use super::body::{self, Received};
use super::error::ApiError;
use super::items::item_id;
use crate::item::{ItemId, Millis, OnDead};
use crate::store::{Action, EffectKeys, Filter, Lease, Order, OrderReport, Refusal, Run, Selection};

/// An order as a request writes it. An empty body is an order with nothing said.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of a JSON document")]
struct OrderDocument {
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
pub(super) async fn one(
    State(edge): State<Arc<Edge>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Received,
) -> Result<Json<OrderReport>, ApiError> {
    let Path((id, word)) = path?;
    if word == "purge" {
        return Err(ApiError::NoRoute(uri.path().to_owned()));
    }
    let id = item_id(&id)?;
    let document: OrderDocument = read(&edge, &headers, body, "the order")?;
    if document.ids.is_some() || document.filter.is_some() {
        return Err(ApiError::Invalid("the path names the item: leave ids and filter out".into()));
    }
    let action = action(&edge, &word, &document, &uri).await?;
    let order = document.into_order(&headers, action, Selection::Ids(vec![id]));
    let report = edge.store.operate(&order).await?;
    match report.refused.first() {
        None => Ok(Json(report)),
        Some(refusal) => Err(refused(&edge, refusal).await?),
    }
}

/// `POST /items:{action}`: 200 with a report, or 202 with a job that goes on.
pub(super) async fn many(
    State(edge): State<Arc<Edge>>,
    uri: Uri,
    headers: HeaderMap,
    body: Received,
) -> Result<Response, ApiError> {
    let mut document: OrderDocument = read(&edge, &headers, body, "the order")?;
    let word = uri.path().rsplit(':').next().unwrap_or_default();
    let action = action(&edge, word, &document, &uri).await?;
    let selection = selection(document.ids.take(), document.filter.take())?;
    let (per_second, begins) = (document.per_second, document.background || document.per_second.is_some());
    let order = document.into_order(&headers, action, selection);
    if !begins || order.run == Run::Dry {
        return Ok(Json(edge.store.operate(&order).await?).into_response());
    }
    if per_second == Some(0) || !matches!(order.selection, Selection::Filter(_)) {
        let rule = "background and per_second belong to a filter, and per_second is at least 1";
        return Err(ApiError::Invalid(rule.into()));
    }
    let job = edge.store.begin(&order, per_second).await?;
    Ok((StatusCode::ACCEPTED, Json(job)).into_response())
}

/// The action that the path names, on the terms of the body.
async fn action(edge: &Edge, word: &str, order: &OrderDocument, uri: &Uri) -> Result<Action, ApiError> {
    let lease = if order.force { Lease::Break } else { Lease::Respect };
    let action = match word {
        "replay" if order.new_effects => Action::Replay { keys: EffectKeys::New },
        "replay" => Action::Replay { keys: EffectKeys::Same },
        "dead" if order.skip_key => Action::Dead { on_dead: OnDead::Skip, lease },
        "dead" => Action::Dead { on_dead: OnDead::Block, lease },
        "restore" => Action::Restore,
        "reschedule" => Action::Reschedule { at: moment(edge, order).await? },
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

async fn moment(edge: &Edge, order: &OrderDocument) -> Result<Millis, ApiError> {
    match (order.available_at, order.delay_ms) {
        (Some(at), None) => Ok(at),
        (None, Some(delay)) if delay >= 0 => Ok(edge.store.now().await?.saturating_add(delay)),
        _ => Err(ApiError::Invalid(r#"say when: either "available_at" or "delay_ms", in milliseconds"#.into())),
    }
}

/// The JSON of a body; an empty one stands for nothing said.
pub(super) fn read<T: DeserializeOwned + Default>(
    edge: &Edge,
    headers: &HeaderMap,
    body: Received,
    what: &'static str,
) -> Result<T, ApiError> {
    let bytes = body::json(edge, headers, body)?;
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

impl OrderDocument {
    fn into_order(self, headers: &HeaderMap, action: Action, selection: Selection) -> Order {
        let actor = actor(self.actor, headers);
        Order { action, selection, actor, reason: self.reason, run: run(self.dry_run) }
    }
}

/// Who asks: as the body says, else as the header `X-Actor` says.
pub(super) fn actor(given: Option<String>, headers: &HeaderMap) -> String {
    let header = headers.get("x-actor").and_then(|value| value.to_str().ok()).filter(|actor| !actor.is_empty());
    given.or(header.map(str::to_owned)).unwrap_or_else(|| "http".to_owned())
}

pub(super) fn run(dry_run: bool) -> Run {
    if dry_run { Run::Dry } else { Run::Real }
}

/// Tells an item that is not there from one that is in the wrong status.
async fn refused(edge: &Edge, refusal: &Refusal) -> Result<ApiError, ApiError> {
    let Refusal { id, reason } = refusal.clone();
    Ok(match edge.store.show(id).await? {
        None => ApiError::NoItem(id),
        Some(_) => ApiError::Refused { id, reason },
    })
}
