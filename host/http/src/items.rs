//! Reading items: a page of those that match a filter, and one item with its history.
//!
//! Changes nothing. The names of the query parameters are in `query.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, State};

use outbox_store::{ItemDetails, ItemPage};

use crate::problem::ApiError;
use crate::query::{QueryParameters, filter_and_page, item_id};
use crate::server_state::ServerState;

/// `GET /items`: the items that match, newest first, without payloads and results. The client passes `next` as `before`
/// to get the next page; it is `null` on the last page.
pub(crate) async fn list(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<ItemPage>, ApiError> {
    let (filter, page) = filter_and_page(query?.0)?;
    Ok(Json(state.inspect.list(&filter, &page).await?))
}

/// `GET /items/{id}`: one item with its history.
pub(crate) async fn show(
    State(state): State<Arc<ServerState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ItemDetails>, ApiError> {
    let id = item_id(&id?.0)?;
    state.inspect.get(id).await?.map(Json).ok_or(ApiError::NoItem(id))
}
