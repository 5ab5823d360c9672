//! Reading items: a page of those that match a filter, and one item with its history.
//!
//! Changes nothing. The names of the query parameters are in `query.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, State};
use serde::Serialize;

use outbox_item::{Item, ItemId};
use outbox_store::ItemDetails;

use crate::problem::ApiError;
use crate::query::{QueryParameters, filter_and_page, item_id};
use crate::state::HttpState;

/// One page of items.
#[derive(Serialize)]
pub(crate) struct ItemPage {
    items: Vec<Item>,
    /// What the client passes as `before` to get the next page; `null` on the last page.
    next: Option<ItemId>,
}

/// `GET /items`: the items that match, newest first.
pub(crate) async fn list(
    State(state): State<Arc<HttpState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<ItemPage>, ApiError> {
    let (filter, page) = filter_and_page(query?.0)?;
    let items = state.inspect.list(&filter, &page).await?;
    let is_full = items.len() == page.limit as usize;
    let next = items.last().filter(|_| is_full).map(|item| item.id);
    Ok(Json(ItemPage { items, next }))
}

/// `GET /items/{id}`: one item with its history.
pub(crate) async fn show(
    State(state): State<Arc<HttpState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ItemDetails>, ApiError> {
    let id = item_id(&id?.0)?;
    state.inspect.get(id).await?.map(Json).ok_or(ApiError::NoItem(id))
}
