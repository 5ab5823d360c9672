//! The document of a problem, problem+json (RFC 9457).

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::description::forms::{Id, UnixMillis};
use outbox_item::{ItemId, Millis};

/// A refusal as a program reads it. `type` ends with the word on which programs branch; docs/errors.md lists the words.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct ProblemDocument<'a> {
    /// `urn:outbox:problem:` and the word.
    pub(super) r#type: String,
    /// The text of the status.
    #[schema(value_type = String)]
    pub(super) title: &'static str,
    /// The HTTP status.
    pub(super) status: u16,
    /// What was tried, and what to do.
    pub(super) detail: String,
    /// The largest size in bytes, or number of items.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(super) limit: Option<u64>,
    /// The right that the caller lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub(super) right: Option<&'static str>,
    /// What is missing: headers, types without a handler, or what a process is not ready for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    pub(super) missing: Vec<&'a str>,
    /// The line of the body, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, required = false)]
    pub(super) line: Option<usize>,
    /// The column in the line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, required = false)]
    pub(super) column: Option<usize>,
    /// The field of the item.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub(super) field: Option<&'static str>,
    /// The correlation id of the write.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub(super) cid: Option<&'a str>,
    /// The idempotency key of the write.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub(super) idem_key: Option<&'a str>,
    /// The item that has the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>, required = false)]
    pub(super) first_id: Option<ItemId>,
    /// How many items the action would change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(super) count: Option<u64>,
    /// The time for which `count` holds, in Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixMillis>, required = false)]
    pub(super) as_of: Option<Millis>,
    /// What the repeated request sends along.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub(super) confirm: Option<&'a str>,
    /// Known names that resemble the unknown one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, required = false)]
    pub(super) nearest: Option<Vec<&'a str>>,
    /// The sagas that are declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, required = false)]
    pub(super) declared: Option<Vec<&'a str>>,
    /// The types that handlers of this process serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, required = false)]
    pub(super) served: Option<Vec<&'a str>>,
    /// `inline`, of a write that was not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub(super) mode: Option<&'static str>,
    /// The results of the steps of an inline write.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, required = false)]
    pub(super) steps: Option<&'a RawValue>,
}
