//! Reading items: a page of those that match a filter, and one item with its history.
//!
//! Changes nothing. The names of the query parameters are in `query.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, State};

use outbox_item::ItemId;
use outbox_store::{ItemDetails, item_with_key};

use crate::access::Caller;
use crate::answers::{ItemDetailsView, ItemPageView, Sight};
use crate::description::{FilterBody, PageParameters};
use crate::problem::ApiError;
use crate::query::{QueryParameters, filter_and_page};
use crate::server_state::ServerState;
use crate::state::HttpState;

/// The items that match
///
/// The newest first, without payloads and results. `next`, passed as `before`, gets the next page; it is `null` on the
/// last one. A condition for which there is no index is looked for in the newest 20,000 items of each status, one on what
/// items contain in the newest 5,000: `looked_at` says so where the page ended there, and the next page goes on.
#[utoipa::path(get, path = "/items", operation_id = "list_items", tag = "items", params(FilterBody, PageParameters),
    responses((status = 200, description = "A page of items", body = ItemPageView)))]
pub(crate) async fn list(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<ItemPageView>, ApiError> {
    let (filter, page) = filter_and_page(query?.0)?;
    caller.require_to_search(&filter, &state.settings().redaction)?;
    let _place = state.content_place(&filter).await;
    let page = state.inspect.list(&filter, &page).await?;
    Ok(Json(ItemPageView::of(page, &Sight::of(&caller, &state.settings()))))
}

/// One item with its history
///
/// The path names it by its id or by its idempotency key; a number that is no id can be a key. What `OUTBOX_REDACT`
/// names is not shown.
#[utoipa::path(get, path = "/items/{id}", operation_id = "show_item", tag = "items",
    params(("id" = String, Path, description = "The id or the idempotency key", example = "1")),
    responses((status = 200, description = "The item", body = ItemDetailsView)))]
pub(crate) async fn show(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ItemDetailsView>, ApiError> {
    let word = id?.0;
    let by_id = match word.parse() {
        Ok(id) => state.inspect.get(id).await?,
        Err(_) => None,
    };
    let details = match by_id {
        Some(details) => details,
        None => item_of_key(&state, word).await?,
    };
    Ok(Json(ItemDetailsView::of(details, &Sight::of(&caller, &state.settings()))))
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
