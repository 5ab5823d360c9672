//! Reading items: a page of those that match a filter, and one item with its history.
//!
//! Changes nothing. The names of the query parameters are in `query.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, State};

use outbox_item::ItemId;
use outbox_store::{ItemDetails, ItemPage, item_with_key};

use crate::problem::ApiError;
use crate::query::{QueryParameters, filter_and_page};
use crate::server_state::ServerState;
use crate::state::HttpState;

/// `GET /items`: the items that match, newest first, without payloads and results. The client passes `next` as `before`
/// to get the next page; it is `null` on the last page.
pub(crate) async fn list(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<ItemPage>, ApiError> {
    let (filter, page) = filter_and_page(query?.0)?;
    Ok(Json(state.inspect.list(&filter, &page).await?))
}

/// `GET /items/{id}`: one item with its history, without what `OUTBOX_REDACT` hides. The path names it by its id or by its idempotency key; a number that is
/// no id can be a key.
pub(crate) async fn show(
    State(state): State<Arc<ServerState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ItemDetails>, ApiError> {
    let word = id?.0;
    let by_id = match word.parse() {
        Ok(id) => state.inspect.get(id).await?,
        Err(_) => None,
    };
    let details = match by_id {
        Some(details) => details,
        None => item_of_key(&state, word).await?,
    };
    Ok(Json(state.settings().redaction.shown(details)))
}

async fn item_of_key(state: &HttpState, key: String) -> Result<ItemDetails, ApiError> {
    let details = match item_with_key(&*state.inspect, &key).await? {
        Some(id) => state.inspect.get(id).await?,
        None => None,
    };
    details.ok_or(ApiError::NoItem(key))
}

/// The item that a path names: by its id, or else by its idempotency key. A number that no item has or had as its key is
/// an id, also when the item was purged.
pub(crate) async fn named_item(state: &HttpState, word: &str) -> Result<ItemId, ApiError> {
    let id = word.parse().ok();
    if let Some(id) = id
        && state.inspect.get(id).await?.is_some()
    {
        return Ok(id);
    }
    item_with_key(&*state.inspect, word).await?.or(id).ok_or_else(|| ApiError::NoItem(word.to_owned()))
}
