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

use crate::body::{BodyResult, NDJSON};
use crate::problem::ApiError;
use crate::write_headers::{WriteHeaders, WriteIdentity};
use crate::{HttpState, body, inline};
use outbox_core::saga::SagaDefinition;
use outbox_item::{ItemDocument, ItemId, JSON, NewItem};
use outbox_store::{BatchMode, EnqueueReport, InvalidAt, StoreError};

/// `POST /memory`: the playbook's write.
pub(crate) async fn memory(
    State(state): State<Arc<HttpState>>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    write_saga(&state, &SagaDefinition::write_memory(), &headers, body).await
}

/// `POST /sagas/{saga}`: the same for any declared saga.
pub(crate) async fn saga(
    State(state): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let sagas = &state.settings.sagas;
    let Some(definition) = sagas.iter().find(|definition| definition.name == name) else {
        let declared = sagas.iter().map(|definition| definition.name.clone()).collect();
        return Err(ApiError::UnknownSaga { name, declared });
    };
    write_saga(&state, definition, &headers, body).await
}

/// `POST /items`: one item, or a batch with one item per line.
pub(crate) async fn items(
    State(state): State<Arc<HttpState>>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let write_headers = WriteHeaders::read(&state, &headers).await?;
    match body::media_type(&headers).as_str() {
        JSON => write_item(&state, write_headers, &body::read(&state, body)?).await,
        NDJSON => {
            let identity = write_headers.into_identity();
            let parsed = body::read(&state, body).and_then(|bytes| parse_batch(&bytes, &identity));
            Ok(identity.echo(execute(&state, &identity, parsed).await))
        }
        given => {
            let accepted = "application/json, or application/x-ndjson for a batch";
            Err(ApiError::WrongContentType { given: given.to_owned(), accepted })
        }
    }
}

async fn write_saga(
    state: &HttpState,
    definition: &SagaDefinition,
    headers: &HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let identity = WriteHeaders::read(state, headers).await?.into_identity();
    let parsed = body::json(state, headers, body).and_then(|bytes| parse_saga(definition, &bytes, &identity));
    Ok(identity.echo(execute(state, &identity, parsed).await))
}

/// What the item says of itself comes before what the headers say.
async fn write_item(state: &HttpState, headers: WriteHeaders, bytes: &[u8]) -> Result<Response, ApiError> {
    let document: ItemDocument = serde_json::from_slice(bytes).map_err(ApiError::invalid_json("the item"))?;
    let cid = document.cid.clone().or(headers.cid);
    let idem_key = document.idem_key.clone().or(headers.idem_key);
    let identity = WriteHeaders { cid, idem_key }.into_identity();
    let item = new_item(document, &identity.cid, &identity.idem_key);
    let parsed = item.map(|item| ParsedWrite { items: vec![item], lines: Vec::new(), mode: BatchMode::AllOrNothing });
    Ok(identity.echo(execute(state, &identity, parsed).await))
}

/// Valid items that are to be written together.
struct ParsedWrite {
    items: Vec<NewItem>,
    /// The line of each item, when they came in a batch.
    lines: Vec<usize>,
    mode: BatchMode,
}

fn parse_saga(definition: &SagaDefinition, bytes: &[u8], identity: &WriteIdentity) -> Result<ParsedWrite, ApiError> {
    let body: &RawValue = serde_json::from_slice(bytes).map_err(ApiError::invalid_json("the body"))?;
    if !body.get().starts_with('{') {
        return Err(ApiError::Invalid("the body is not a JSON object; it becomes the payload of every step".into()));
    }
    let items = definition.items(&identity.cid, &identity.idem_key, bytes);
    Ok(ParsedWrite { items, lines: Vec::new(), mode: BatchMode::AllOrNothing })
}

fn parse_batch(bytes: &[u8], identity: &WriteIdentity) -> Result<ParsedWrite, ApiError> {
    let lines = (1..).zip(bytes.split(|byte| *byte == b'\n'));
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let parsed = filled.map(|(number, line)| Ok((number, parse_batch_item(number, line, identity)?)));
    let (lines, items): (Vec<_>, Vec<_>) = parsed.collect::<Result<Vec<_>, ApiError>>()?.into_iter().unzip();
    if items.is_empty() {
        return Err(ApiError::Invalid("the batch has no items: send one JSON object per line".into()));
    }
    Ok(ParsedWrite { items, lines, mode: BatchMode::PerItem })
}

/// An item without a key gets the request's with its line's number, so that repeating the batch
/// repeats the keys.
fn parse_batch_item(number: usize, line: &[u8], identity: &WriteIdentity) -> Result<NewItem, ApiError> {
    let document: Result<ItemDocument, _> = serde_json::from_slice(line).map_err(ApiError::invalid_json("the item"));
    let idem_key = format!("{}:{number}", identity.idem_key);
    document.and_then(|document| new_item(document, &identity.cid, &idem_key)).map_err(|err| err.on_line(Some(number)))
}

fn new_item(document: ItemDocument, cid: &str, idem_key: &str) -> Result<NewItem, ApiError> {
    let mut item = document.into_new_item(idem_key).map_err(ApiError::invalid_json("the item"))?;
    item.cid.get_or_insert_with(|| cid.to_owned());
    Ok(item)
}

async fn execute(
    state: &HttpState,
    identity: &WriteIdentity,
    parsed: Result<ParsedWrite, ApiError>,
) -> Result<Response, ApiError> {
    let ParsedWrite { items, lines, mode } = parsed?;
    validate(&items).map_err(|err| with_line(err.into(), &lines))?;
    if !state.settings.enabled {
        return inline::run(state, identity, items).await;
    }
    let enqueued = state.store.enqueue(items, mode).await.map_err(|err| with_line(err, &lines))?;
    Ok(accepted(identity, &enqueued))
}

/// The store does this too; inline mode never asks it.
fn validate(items: &[NewItem]) -> Result<(), InvalidAt> {
    let check = |(index, item): (usize, &NewItem)| item.validate().map_err(|source| InvalidAt { index, source });
    items.iter().enumerate().try_for_each(check)
}

fn with_line(err: StoreError, lines: &[usize]) -> ApiError {
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
struct AcceptedBody<'a> {
    cid: &'a str,
    idem_key: &'a str,
    outbox_ids: &'a [Option<ItemId>],
}

fn accepted(identity: &WriteIdentity, enqueued: &EnqueueReport) -> Response {
    let body = AcceptedBody { cid: &identity.cid, idem_key: &identity.idem_key, outbox_ids: &enqueued.ids };
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if enqueued.created == 0 {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}
