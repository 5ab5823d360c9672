//! Forms of what callers send, where another crate reads it, and of values that many answers have.
//!
//! These types only describe. A test sends what they describe, and compares it with what is read.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::openapi::{KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

/// A point in time: milliseconds since 1970-01-01 00:00 UTC.
#[derive(ToSchema)]
#[schema(example = 1_800_000_000_000_i64)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct UnixMillis(i64);

/// A number that the store gave.
#[derive(ToSchema)]
#[schema(example = 17)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct Id(i64);

/// A number that the store gave, where it is sent: a number, or a string of its digits.
pub(crate) struct SentId;

impl PartialSchema for SentId {
    fn schema() -> RefOr<Schema> {
        let number =
            ObjectBuilder::new().schema_type(Type::Integer).format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
        let digits = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]+$"));
        let about = "A number that the store gave: a number, or a string of its digits.";
        OneOfBuilder::new().item(number).item(digits).description(Some(about)).into()
    }
}

impl ToSchema for SentId {
    fn name() -> Cow<'static, str> {
        "SentId".into()
    }
}

/// A new item. An unknown member is refused.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct NewItemBody {
    /// Which effect it asks for: `[a-z0-9][a-z0-9._-]*`.
    r#type: String,
    /// Its idempotency key, 1 to 255 printable ASCII characters. Without one the header `Idempotency-Key` counts.
    #[schema(required = false)]
    idem_key: Option<String>,
    /// Any JSON value, kept byte for byte; with `payload_encoding` `base64` a string of base64.
    payload: Value,
    /// `json`, the default, or `base64`.
    #[schema(required = false, value_type = String)]
    payload_encoding: Option<String>,
    /// The media type of the payload; `application/json` by default.
    #[schema(required = false)]
    content_type: Option<String>,
    /// What the handler sees beside the payload.
    #[schema(required = false)]
    headers: BTreeMap<String, String>,
    /// Notes for operators, which handlers do not see.
    #[schema(required = false, value_type = Object)]
    metadata: Map<String, Value>,
    /// Its correlation id. Without one the header `X-Correlation-ID` counts.
    #[schema(required = false)]
    cid: Option<String>,
    /// The saga of which it is a step.
    #[schema(required = false)]
    saga: Option<String>,
    /// Items with the same ordering key are handled one at a time, in the order of the commits.
    #[schema(required = false)]
    ordering_key: Option<String>,
    /// Who shares the type with others, such as a tenant. Without one the header `X-Fairness-Key` counts.
    #[schema(required = false)]
    fairness_key: Option<String>,
    /// How long it waits before it can be claimed, in milliseconds.
    #[schema(required = false)]
    delay_ms: u64,
}

/// Which items. A member that is left out does not restrict; all that are given hold together.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct FilterBody {
    /// Any of these statuses: PENDING, CLAIMED, DONE, DLQ.
    #[schema(required = false)]
    #[param(required = false)]
    status: Vec<String>,
    /// This type.
    r#type: Option<String>,
    /// This idempotency key.
    idem_key: Option<String>,
    /// Idempotency keys that begin so.
    key_prefix: Option<String>,
    /// This saga.
    saga: Option<String>,
    /// This correlation id.
    cid: Option<String>,
    /// This ordering key.
    ordering_key: Option<String>,
    /// This fairness key.
    fairness_key: Option<String>,
    /// Claimed by this process.
    pod: Option<String>,
    /// Enqueued at or after.
    #[schema(value_type = Option<UnixMillis>)]
    #[param(value_type = Option<i64>)]
    created_from: Option<UnixMillis>,
    /// Enqueued before.
    #[schema(value_type = Option<UnixMillis>)]
    #[param(value_type = Option<i64>)]
    created_to: Option<UnixMillis>,
    /// Became DONE or DLQ at or after.
    #[schema(value_type = Option<UnixMillis>)]
    #[param(value_type = Option<i64>)]
    finished_from: Option<UnixMillis>,
    /// Became DONE or DLQ before.
    #[schema(value_type = Option<UnixMillis>)]
    #[param(value_type = Option<i64>)]
    finished_to: Option<UnixMillis>,
    /// Available at or after.
    #[schema(value_type = Option<UnixMillis>)]
    #[param(value_type = Option<i64>)]
    available_from: Option<UnixMillis>,
    /// Available before.
    #[schema(value_type = Option<UnixMillis>)]
    #[param(value_type = Option<i64>)]
    available_to: Option<UnixMillis>,
    /// In this group of like failures.
    fingerprint: Option<String>,
    /// The component with this SHA-256 made the last attempt.
    handler_digest: Option<String>,
    /// The message of the last failure contains this text. Needs the right `read-payload`.
    error: Option<String>,
    /// The payload is JSON with all of these members, each `PATH=VALUE`. Needs the right `read-payload`.
    #[schema(required = false)]
    #[param(required = false)]
    payload: Vec<String>,
    /// All of these headers, each `NAME=VALUE`. Needs the right `read-payload`.
    #[schema(required = false)]
    #[param(required = false)]
    headers: Vec<String>,
    /// The metadata has all of these members, each `PATH=VALUE`. Needs the right `read-payload`.
    #[schema(required = false)]
    #[param(required = false)]
    metadata: Vec<String>,
    /// The payload, the headers, the metadata or the message of the last failure contains this text, in capital or small
    /// letters. Needs the right `read-payload`.
    text: Option<String>,
    /// Of an action: only this many of the items, those with the lowest ids.
    first: Option<u32>,
    /// Of an action: only this many of the items, chosen at random; at most 1000.
    sample: Option<u32>,
    /// One of these items.
    #[schema(required = false)]
    #[param(required = false, value_type = Vec<i64>)]
    ids: Vec<SentId>,
    /// In their status since then or longer.
    #[schema(value_type = Option<UnixMillis>)]
    #[param(value_type = Option<i64>)]
    as_of: Option<UnixMillis>,
}

/// Which part of a list of items.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct PageParameters {
    /// The most entries, from 1 to 1000; 100 by default.
    limit: Option<u32>,
    /// Only items with a smaller id: `next` of the page before.
    before: Option<i64>,
}

/// How many entries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct LimitParameter {
    /// The most entries, from 1 to 1000; 100 by default.
    limit: Option<u32>,
}

/// Which fairness keys.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct KeyTotalsParameters {
    /// Only items of this type.
    r#type: Option<String>,
    /// The most entries, from 1 to 1000; 100 by default.
    limit: Option<u32>,
}

/// What the answer has besides.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct CockpitParameters {
    /// Whether it has `overview`, the overview of the cockpit in words; false by default.
    overview: Option<bool>,
}

/// How long ago the history begins.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct HistoryParameters {
    /// The milliseconds until now, from 60000 to 86400000; 3600000 by default.
    #[param(example = 60000)]
    last_ms: Option<u64>,
}

/// From when on something counts as stuck.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct StuckParameters {
    /// The most entries of each kind, from 1 to 1000; 20 by default.
    limit: Option<u32>,
    /// From how many attempts on an item counts as failing; 3 by default.
    attempts: Option<u32>,
    /// From how many milliseconds on an item counts as old, and a claim as long; 300000 by default.
    older_than_ms: Option<u64>,
}

/// Which entries of the audit trail.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct AuditParameters {
    /// The most entries, from 1 to 1000; 100 by default.
    limit: Option<u32>,
    /// Entries that concern this item.
    item: Option<i64>,
    /// Entries of this job.
    job: Option<i64>,
    /// Written at or after, in Unix milliseconds.
    from: Option<i64>,
    /// Written before, in Unix milliseconds.
    to: Option<i64>,
    /// Only entries with a smaller `seq`: that of the last entry of the page before.
    before: Option<i64>,
    /// Entries of this actor.
    actor: Option<String>,
    /// Entries of this action.
    action: Option<String>,
}

/// From where on signals are read.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct SignalParameters {
    /// The `seq` of the last signal that the client has; 0 by default. The header `Last-Event-ID` wins.
    after: Option<i64>,
    /// The most signals of the first read, from 1 to 256.
    limit: Option<u32>,
}

/// The headers of a write.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct ContractHeaders {
    /// The correlation id of the items, 1 to 255 printable ASCII characters. Strict mode requires it.
    #[param(rename = "X-Correlation-ID")]
    correlation_id: Option<String>,
    /// The key under which a repeated write is recognized. Strict mode requires it.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
    /// The fairness key of items that name none themselves.
    #[param(rename = "X-Fairness-Key")]
    fairness_key: Option<String>,
    /// The trace of the caller, which the items join.
    traceparent: Option<String>,
}
