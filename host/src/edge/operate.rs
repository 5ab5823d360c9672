//! Operators' actions, on one item or on all that match; the store audits and performs them.
//!
//! Knows how an order is written in a request, and nothing of which status allows which action.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;

use super::Edge;
use super::body::{self, Received};
use super::error::ApiError;
use super::items::item_id;
use crate::item::ItemId;
use crate::store::{Action, EffectKeys, Filter, Order, OrderReport, Refusal, Run, Selection};

/// An order as a request writes it. An empty body is an order with nothing said.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OrderDocument {
    ids: Option<Vec<ItemId>>,
    filter: Option<Filter>,
    /// Comes before the header `X-Actor`.
    actor: Option<String>,
    reason: Option<String>,
    dry_run: bool,
    /// Of a replay: its effects carry new idempotency keys.
    new_effects: bool,
}

/// `POST /items/{id}/replay`
pub(super) async fn replay_one(
    State(edge): State<Arc<Edge>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Received,
) -> Result<Json<OrderReport>, ApiError> {
    let id = item_id(&id?.0)?;
    let document = read(&edge, &headers, body)?;
    if document.ids.is_some() || document.filter.is_some() {
        return Err(ApiError::Invalid("the path names the item: leave ids and filter out".into()));
    }
    let order = document.into_order(&headers, Action::Replay { keys: EffectKeys::Same }, Selection::Ids(vec![id]));
    let report = edge.store.operate(&order).await?;
    match report.refused.first() {
        None => Ok(Json(report)),
        Some(refusal) => Err(refused(&edge, refusal).await?),
    }
}

/// `POST /items:replay`
pub(super) async fn replay_many(
    State(edge): State<Arc<Edge>>,
    headers: HeaderMap,
    body: Received,
) -> Result<Json<OrderReport>, ApiError> {
    let document = read(&edge, &headers, body)?;
    operate_many(&edge, &headers, document, Action::Replay { keys: EffectKeys::Same }).await
}

/// `POST /items:purge`
pub(super) async fn purge_many(
    State(edge): State<Arc<Edge>>,
    headers: HeaderMap,
    body: Received,
) -> Result<Json<OrderReport>, ApiError> {
    let document = read(&edge, &headers, body)?;
    if document.new_effects {
        return Err(ApiError::Invalid("new_effects belongs to a replay: leave it out".into()));
    }
    operate_many(&edge, &headers, document, Action::Purge).await
}

async fn operate_many(
    edge: &Edge,
    headers: &HeaderMap,
    mut document: OrderDocument,
    action: Action,
) -> Result<Json<OrderReport>, ApiError> {
    let selection = selection(document.ids.take(), document.filter.take())?;
    let order = document.into_order(headers, action, selection);
    Ok(Json(edge.store.operate(&order).await?))
}

fn read(edge: &Edge, headers: &HeaderMap, body: Received) -> Result<OrderDocument, ApiError> {
    let bytes = body::json(edge, headers, body)?;
    if bytes.is_empty() {
        return Ok(OrderDocument::default());
    }
    serde_json::from_slice(&bytes).map_err(ApiError::invalid_json("the order"))
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
        let action = match action {
            Action::Replay { .. } if self.new_effects => Action::Replay { keys: EffectKeys::New },
            action => action,
        };
        let header = headers.get("x-actor").and_then(|value| value.to_str().ok()).filter(|actor| !actor.is_empty());
        let actor = self.actor.or(header.map(str::to_owned)).unwrap_or_else(|| "http".to_owned());
        let run = if self.dry_run { Run::Dry } else { Run::Real };
        Order { action, selection, actor, reason: self.reason, run }
    }
}

/// Tells an item that is not there from one that is in the wrong status.
async fn refused(edge: &Edge, refusal: &Refusal) -> Result<ApiError, ApiError> {
    let Refusal { id, reason } = refusal.clone();
    Ok(match edge.store.show(id).await? {
        None => ApiError::NoItem(id),
        Some(_) => ApiError::Refused { id, reason },
    })
}
