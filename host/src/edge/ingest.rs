//! Writes: sagas and items come in, and are enqueued or, in inline mode, performed at once.
//!
//! Promises 202 only after the commit, and for a duplicate the first answer again. Which mode it is was
//! decided at start; a store that fails is an error, never a reason to change the mode.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;

use super::body::{self, NDJSON, Received};
use super::error::ApiError;
use super::headers::{Given, Identity};
use super::{Edge, inline};
use crate::item::{ItemDocument, ItemId, JSON, NewItem};
use crate::saga::SagaPlan;
use crate::store::{Enqueued, InvalidAt, StoreError, Write};

/// `POST /memory`: the playbook's write.
pub(super) async fn memory(
    State(edge): State<Arc<Edge>>,
    headers: HeaderMap,
    body: Received,
) -> Result<Response, ApiError> {
    write_saga(&edge, &SagaPlan::write_memory(), &headers, body).await
}

/// `POST /sagas/{saga}`: the same for any declared saga.
pub(super) async fn saga(
    State(edge): State<Arc<Edge>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Received,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let sagas = &edge.settings.sagas;
    let Some(plan) = sagas.iter().find(|plan| plan.name == name) else {
        let declared = sagas.iter().map(|plan| plan.name.clone()).collect();
        return Err(ApiError::UnknownSaga { name, declared });
    };
    write_saga(&edge, plan, &headers, body).await
}

/// `POST /items`: one item, or a batch with one item per line.
pub(super) async fn items(
    State(edge): State<Arc<Edge>>,
    headers: HeaderMap,
    body: Received,
) -> Result<Response, ApiError> {
    let given = Given::read(&edge, &headers).await?;
    match body::media_type(&headers).as_str() {
        JSON => write_item(&edge, given, &body::read(&edge, body)?).await,
        NDJSON => {
            let identity = given.complete();
            let wanted = body::read(&edge, body).and_then(|bytes| batch(&bytes, &identity));
            Ok(identity.echo(perform(&edge, &identity, wanted).await))
        }
        given => {
            let accepted = "application/json, or application/x-ndjson for a batch";
            Err(ApiError::WrongContentType { given: given.to_owned(), accepted })
        }
    }
}

async fn write_saga(edge: &Edge, plan: &SagaPlan, headers: &HeaderMap, body: Received) -> Result<Response, ApiError> {
    let identity = Given::read(edge, headers).await?.complete();
    let wanted = body::json(edge, headers, body).and_then(|bytes| saga_items(plan, &bytes, &identity));
    Ok(identity.echo(perform(edge, &identity, wanted).await))
}

/// What the item says of itself comes before what the headers say.
async fn write_item(edge: &Edge, given: Given, bytes: &[u8]) -> Result<Response, ApiError> {
    let document: ItemDocument = serde_json::from_slice(bytes).map_err(ApiError::invalid_json("the item"))?;
    let cid = document.cid.clone().or(given.cid);
    let idem_key = document.idem_key.clone().or(given.idem_key);
    let identity = Given { cid, idem_key }.complete();
    let item = new_item(document, &identity.cid, &identity.idem_key);
    let wanted = item.map(|item| Wanted { items: vec![item], lines: Vec::new(), write: Write::Whole });
    Ok(identity.echo(perform(edge, &identity, wanted).await))
}

/// Valid items that are to be written together.
struct Wanted {
    items: Vec<NewItem>,
    /// The line of each item, when they came in a batch.
    lines: Vec<usize>,
    write: Write,
}

fn saga_items(plan: &SagaPlan, bytes: &[u8], identity: &Identity) -> Result<Wanted, ApiError> {
    let body: &RawValue = serde_json::from_slice(bytes).map_err(ApiError::invalid_json("the body"))?;
    if !body.get().starts_with('{') {
        return Err(ApiError::Invalid("the body is not a JSON object; it becomes the payload of every step".into()));
    }
    let items = plan.items(&identity.cid, &identity.idem_key, bytes);
    Ok(Wanted { items, lines: Vec::new(), write: Write::Whole })
}

fn batch(bytes: &[u8], identity: &Identity) -> Result<Wanted, ApiError> {
    let lines = (1..).zip(bytes.split(|byte| *byte == b'\n'));
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let parsed = filled.map(|(number, line)| Ok((number, batch_item(number, line, identity)?)));
    let (lines, items): (Vec<_>, Vec<_>) = parsed.collect::<Result<Vec<_>, ApiError>>()?.into_iter().unzip();
    if items.is_empty() {
        return Err(ApiError::Invalid("the batch has no items: send one JSON object per line".into()));
    }
    Ok(Wanted { items, lines, write: Write::Each })
}

/// An item without a key gets the request's with its line's number, so that repeating the batch
/// repeats the keys.
fn batch_item(number: usize, line: &[u8], identity: &Identity) -> Result<NewItem, ApiError> {
    let document: Result<ItemDocument, _> = serde_json::from_slice(line).map_err(ApiError::invalid_json("the item"));
    let idem_key = format!("{}:{number}", identity.idem_key);
    document.and_then(|document| new_item(document, &identity.cid, &idem_key)).map_err(|err| err.on_line(Some(number)))
}

fn new_item(document: ItemDocument, cid: &str, idem_key: &str) -> Result<NewItem, ApiError> {
    let mut item = document.into_new_item(idem_key).map_err(ApiError::invalid_json("the item"))?;
    item.cid.get_or_insert_with(|| cid.to_owned());
    Ok(item)
}

async fn perform(edge: &Edge, identity: &Identity, wanted: Result<Wanted, ApiError>) -> Result<Response, ApiError> {
    let Wanted { items, lines, write } = wanted?;
    validate(&items).map_err(|err| located(err.into(), &lines))?;
    if !edge.settings.enabled {
        return inline::run(edge, identity, items).await;
    }
    let enqueued = edge.store.enqueue(items, write).await.map_err(|err| located(err, &lines))?;
    Ok(accepted(identity, &enqueued))
}

/// The store does this too; inline mode never asks it.
fn validate(items: &[NewItem]) -> Result<(), InvalidAt> {
    let check = |(index, item): (usize, &NewItem)| item.validate().map_err(|source| InvalidAt { index, source });
    items.iter().enumerate().try_for_each(check)
}

fn located(err: StoreError, lines: &[usize]) -> ApiError {
    let line = match &err {
        StoreError::Conflict { index, .. } => lines.get(*index),
        StoreError::Invalid(at) => lines.get(at.index),
        _ => None,
    };
    let line = line.copied();
    ApiError::from(err).on_line(line)
}

/// The answer to a write that has been committed.
#[derive(Serialize)]
struct Accepted<'a> {
    cid: &'a str,
    idem_key: &'a str,
    outbox_ids: &'a [Option<ItemId>],
}

fn accepted(identity: &Identity, enqueued: &Enqueued) -> Response {
    let body = Accepted { cid: &identity.cid, idem_key: &identity.idem_key, outbox_ids: &enqueued.ids };
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if enqueued.created == 0 {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}
