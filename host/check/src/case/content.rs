//! Bytes as a case file writes them: text, or a TOML value that stands for JSON.

use serde::Deserialize;
use serde_json::Value;

/// Bytes, written as text or as the TOML of a JSON value. Empty when the file has neither.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Content {
    /// The bytes as text. Items call it `payload`.
    #[serde(alias = "payload")]
    pub(crate) body: Option<String>,
    /// The bytes as JSON. `body` takes precedence.
    pub(crate) json: Option<Value>,
}

impl Content {
    /// The bytes; `None` when the file has neither member.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let json = || self.json.as_ref().map(|json| json.to_string().into_bytes());
        self.body.as_ref().map(|body| body.clone().into_bytes()).or_else(json)
    }
}

/// The bytes of a state value: a string as its text, every other value as JSON.
pub(crate) fn state_bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}
