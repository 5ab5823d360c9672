//! What a case expects of its attempt. This is the file format only; `case_diff.rs` compares.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::case::content::Content;

/// What a case expects of its attempt.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// `done`, or the class of a failure.
    pub(crate) outcome: String,
    /// The code of the failure; not compared when absent, like the next two.
    pub(crate) code: Option<String>,
    /// The message of the failure.
    pub(crate) message: Option<String>,
    /// The delay that the failure asks for, in whole seconds.
    pub(crate) retry_after: Option<u64>,
    /// The result as text. Without `result` and `result_json` the result must be empty.
    pub(crate) result: Option<String>,
    /// The result as JSON.
    pub(crate) result_json: Option<Value>,
    /// All requests, in order.
    #[serde(default)]
    pub(crate) request: Vec<ExpectedRequest>,
    /// All plugin state after the attempt; unchanged state when absent.
    pub(crate) state: Option<BTreeMap<String, Value>>,
    /// All follow-ups, in order.
    #[serde(default)]
    pub(crate) followup: Vec<ExpectedFollowup>,
}

/// A request that the handler must send.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedRequest {
    /// The method.
    pub(crate) method: String,
    /// The whole URL.
    pub(crate) url: String,
    /// Headers that the request must have; it may have others.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The idempotency key; not compared when absent.
    pub(crate) key: Option<String>,
    /// The body.
    #[serde(flatten)]
    pub(crate) body: Content,
}

/// A follow-up that the handler must emit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedFollowup {
    /// The item type.
    pub(crate) r#type: String,
    /// The idempotency key; not compared when absent.
    pub(crate) key: Option<String>,
    /// The payload.
    #[serde(flatten)]
    pub(crate) payload: Content,
    /// The ordering key.
    pub(crate) ordering_key: Option<String>,
    /// The delay, in milliseconds.
    #[serde(default)]
    pub(crate) delay_ms: u64,
}
