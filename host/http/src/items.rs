//! Inspection: items by filter, and one item with its history. Changes nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::HttpState;
use crate::problem::ApiError;
use outbox_item::{Item, ItemId};
use outbox_store::{Filter, ItemDetails, Page};

/// One page of a listing is as long as the command line's, unless the caller says otherwise.
const DEFAULT_LIMIT: u32 = 100;

/// Reads stay short, so that they do not keep the write-ahead log from being checkpointed.
const MAX_LIMIT: u32 = 1000;

/// One page of items.
#[derive(Serialize)]
pub(crate) struct ItemPage {
    items: Vec<Item>,
    /// What to pass as `before` for the next page; `null` on the last.
    next: Option<ItemId>,
}

/// The parameters of a query, in the order given.
pub(crate) type QueryParameters = Query<Vec<(String, String)>>;

/// `GET /items`: the items that match, newest first.
pub(crate) async fn list(
    State(state): State<Arc<HttpState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<ItemPage>, ApiError> {
    let (filter, page) = parse_filter(query?.0)?;
    let items = state.store.list(&filter, &page).await?;
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
    state.store.get(id).await?.map(Json).ok_or(ApiError::NoItem(id))
}

/// The id in a path.
pub(crate) fn item_id(text: &str) -> Result<ItemId, ApiError> {
    number("the item's id", text)
}

/// A whole number; `name` says in the error what it is.
pub(crate) fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::Invalid(format!("{name} is {text:?}: it must be a whole number in range")))
}

/// How many entries a page may have.
pub(crate) fn limit(text: &str, max: u32) -> Result<u32, ApiError> {
    match number("limit", text)? {
        limit if (1..=max).contains(&limit) => Ok(limit),
        _ => Err(ApiError::Invalid(format!("limit is {text:?}: it must be from 1 to {max}"))),
    }
}

/// The filter and the page that a query describes.
pub(crate) fn parse_filter(parameters: Vec<(String, String)>) -> Result<(Filter, Page), ApiError> {
    let mut page = Page { limit: DEFAULT_LIMIT, before: None };
    let mut fields = Map::new();
    for (name, text) in parameters {
        match name.as_str() {
            "limit" => page.limit = limit(&text, MAX_LIMIT)?,
            "before" => page.before = Some(number(&name, &text)?),
            _ => add_restriction(&mut fields, name, &text)?,
        }
    }
    let filter = serde_json::from_value(fields.into());
    let filter = filter.map_err(|err| ApiError::Invalid(format!("in the query: {err} (besides limit and before)")))?;
    Ok((filter, page))
}

/// Adds one parameter to the filter's JSON, whose own reader knows the names and the statuses.
fn add_restriction(fields: &mut Map<String, Value>, name: String, text: &str) -> Result<(), ApiError> {
    if name == "status" {
        let words = text.split(',').map(Value::from);
        if let Some(list) = fields.entry(name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() {
            list.extend(words);
        }
        return Ok(());
    }
    let is_time = name.ends_with("_from") || name.ends_with("_to");
    let value = if is_time { number::<i64>(&name, text)?.into() } else { text.into() };
    match fields.insert(name.clone(), value) {
        None => Ok(()),
        Some(_) => Err(ApiError::Invalid(format!("{name} is given twice in the query"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outbox_item::Status;

    fn check(query: &[(&str, &str)]) -> Result<(Filter, Page), String> {
        let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        parse_filter(pairs).map_err(|err| err.to_string())
    }

    #[test]
    fn every_restriction_is_understood_in_both_seeds_words() {
        let (filter, page) = check(&[
            ("status", "DEAD,published"),
            ("status", "PENDING"),
            ("type", "vector_upsert"),
            ("created_from", "5"),
            ("limit", "7"),
            ("before", "42"),
        ])
        .unwrap();
        assert_eq!(filter.status, [Status::Dlq, Status::Done, Status::Pending]);
        assert_eq!(filter.r#type.as_deref(), Some("vector_upsert"));
        assert_eq!(filter.created_from, Some(5));
        assert_eq!(page, Page { limit: 7, before: Some(42) });
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (name, value, named) in [
            ("stauts", "DLQ", "stauts"),
            ("status", "FAILED", "FAILED"),
            ("limit", "0", "limit"),
            ("limit", "1001", "1000"),
            ("before", "x", "before"),
            ("created_to", "yesterday", "created_to"),
        ] {
            let err = check(&[(name, value)]).unwrap_err();
            assert!(err.contains(named), "{name}={value}: {err}");
        }
        assert!(check(&[("type", "a"), ("type", "b")]).unwrap_err().contains("twice"));
    }
}
