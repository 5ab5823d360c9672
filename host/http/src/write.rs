//! Writes: sagas and items are enqueued or, in inline mode, run at once.
//!
//! Sends 202 only after the commit. A duplicate gets the response of the first write. The mode is fixed at start: a
//! store that fails is an error and never turns a durable write into an inline one.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use outbox_core::saga::SagaDefinition;
use outbox_item::{ItemDocument, ItemId, JSON, NewItem, validate_items};
use outbox_store::{BatchMode, EnqueueReport, StoreError};

use crate::body::{self, BodyResult, NDJSON};
use crate::description::{ContractHeaders, Id, NewItemBody};
use crate::inline::{self, InlineBody};
use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::write_headers::{WriteHeaders, WriteIdentity};

/// Start the saga `WriteMemorySaga`
///
/// The body becomes the payload of each step. Repeat a write with the same key until it is answered: a duplicate gets the
/// answer of the first one, and the header `Idempotent-Replayed`.
#[utoipa::path(post, path = "/memory", operation_id = "write_memory", tag = "writes", params(ContractHeaders),
    request_body = Object, responses(
    (status = 202, description = "The steps are stored", body = AcceptedBody<'_>,
     headers(("idempotent-replayed" = String, description = "`true` for a write that was stored before"))),
    (status = 200, description = "Without a store (`OUTBOX_ENABLED` is false): every step has ended well",
     body = InlineBody<'_>)))]
pub(crate) async fn memory(
    State(state): State<Arc<ServerState>>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    write_saga(&state, &SagaDefinition::write_memory(), &headers, body).await
}

/// Start a saga that `outbox.toml` declares
///
/// The body becomes the payload of each step.
#[utoipa::path(post, path = "/sagas/{saga}", operation_id = "start_saga", tag = "writes",
    params(("saga" = String, Path, description = "The name of the saga", example = "Onboarding"), ContractHeaders),
    request_body = Object, responses(
    (status = 202, description = "The steps are stored", body = AcceptedBody<'_>,
     headers(("idempotent-replayed" = String, description = "`true` for a write that was stored before"))),
    (status = 200, description = "Without a store: every step has ended well", body = InlineBody<'_>)))]
pub(crate) async fn saga(
    State(state): State<Arc<ServerState>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let settings = state.settings();
    let sagas = &settings.sagas;
    let Some(definition) = sagas.iter().find(|definition| definition.name == name) else {
        let declared = sagas.iter().map(|definition| definition.name.clone()).collect();
        return Err(ApiError::UnknownSaga { name, declared });
    };
    write_saga(&state, definition, &headers, body).await
}

/// Enqueue an item, or a batch
///
/// A batch has one item per line. Its items are stored together; an item without a key gets the key of the request and
/// the number of its line.
#[utoipa::path(post, path = "/items", operation_id = "enqueue", tag = "writes", params(ContractHeaders),
    request_body(content((NewItemBody = "application/json"), (String = "application/x-ndjson"))), responses(
    (status = 202, description = "The items are stored", body = AcceptedBody<'_>,
     headers(("idempotent-replayed" = String, description = "`true` for a write that was stored before"))),
    (status = 200, description = "Without a store: every item was handled", body = InlineBody<'_>)))]
pub(crate) async fn items(
    State(state): State<Arc<ServerState>>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let write_headers = WriteHeaders::read(&state, &headers).await?;
    match body::media_type(&headers).as_str() {
        JSON => write_item(&state, write_headers, &body::read(body)?).await,
        NDJSON => {
            let identity = write_headers.into_identity();
            let parsed = body::read(body).and_then(|bytes| parse_batch(&bytes, &identity));
            Ok(identity.echo(execute(&state, &identity, parsed).await))
        }
        given => {
            let accepted = "application/json, or application/x-ndjson for a batch";
            Err(ApiError::WrongContentType { given: given.to_owned(), accepted })
        }
    }
}

async fn write_saga(
    state: &ServerState,
    definition: &SagaDefinition,
    headers: &HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let identity = WriteHeaders::read(state, headers).await?.into_identity();
    let parsed = body::json_bytes(headers, body).and_then(|bytes| parse_saga(definition, &bytes, &identity));
    Ok(identity.echo(execute(state, &identity, parsed).await))
}

/// The correlation id and the key in the item take precedence over the headers.
async fn write_item(state: &ServerState, headers: WriteHeaders, bytes: &[u8]) -> Result<Response, ApiError> {
    let document: ItemDocument = serde_json::from_slice(bytes).map_err(ApiError::invalid_json("the item"))?;
    let cid = document.cid.clone().or(headers.cid);
    let idem_key = document.idem_key.clone().or(headers.idem_key);
    let identity = WriteHeaders { cid, idem_key, ..headers }.into_identity();
    let item = new_item(document, &identity.cid, &identity.idem_key);
    let parsed = item.map(|item| ParsedWrite { items: vec![item], lines: Vec::new(), mode: BatchMode::AllOrNothing });
    Ok(identity.echo(execute(state, &identity, parsed).await))
}

/// The items of one write.
struct ParsedWrite {
    items: Vec<NewItem>,
    /// The line of each item in the body of a batch, from 1; empty otherwise.
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

/// An item without a key gets the key of the request and its line number, so that a repeated batch has the same keys.
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
    state: &ServerState,
    identity: &WriteIdentity,
    parsed: Result<ParsedWrite, ApiError>,
) -> Result<Response, ApiError> {
    let ParsedWrite { mut items, lines, mode } = parsed?;
    for item in &mut items {
        identity.pass_on(item);
    }
    validate_items(&items).map_err(|err| with_line(err.into(), &lines))?;
    let settings = state.settings();
    if !settings.is_durable {
        return inline::run(state, identity, items).await;
    }
    if let Some(max) = settings.max_pending {
        state.pending.admit(&*state.inspect, max, items.len()).await?;
    }
    let enqueued = state.enqueue.enqueue(items, mode).await.map_err(|err| with_line(err, &lines))?;
    Ok(accepted(identity, &enqueued))
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

/// The body of the response to a committed write.
#[derive(Serialize, ToSchema)]
struct AcceptedBody<'a> {
    /// The correlation id, from the request or made by the host.
    #[schema(value_type = String)]
    cid: &'a str,
    /// The idempotency key, from the request or made by the host.
    #[schema(value_type = String)]
    idem_key: &'a str,
    /// The ids of the items; `null` for an item of a batch that was stored before and is gone.
    #[schema(value_type = Vec<Option<Id>>)]
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
