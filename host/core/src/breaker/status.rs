//! What a process tells of its breakers: the words and the JSON shape that the heartbeat, the metrics and the command
//! line share.
//!
//! Does not know when a breaker opens nor where its status is stored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A breaker that is not closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakerStatus {
    /// What failed last, in words.
    pub cause: String,
    /// How many different items failed before it opened.
    pub items: u32,
    /// How long ago it opened, in milliseconds before the report.
    pub open_for_ms: u64,
    /// The origin that fails; `None` for the breaker of a type in its manifest.
    pub origin: Option<String>,
    /// What it does now.
    pub state: BreakerState,
    /// The types whose items it concerns.
    pub types: Vec<String>,
}

/// What a breaker that is not closed does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BreakerState {
    /// One attempt at a time finds out whether the receiver is back.
    Open,
    /// The receiver is back; the number of attempts at a time rises.
    Closing,
    /// It was open for so long that failures count again.
    Expired,
    /// A state that this version does not know. Only read from the rows of other processes, never reported.
    #[default]
    #[serde(other)]
    Unknown,
}

impl BreakerState {
    /// The word in JSON and in the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }
}

impl BreakerStatus {
    /// What it is the breaker of, for people.
    pub fn subject(&self) -> String {
        match &self.origin {
            Some(origin) => origin.clone(),
            None => format!("the type {}", self.types.join(", ")),
        }
    }

    /// The JSON array that a process writes about its breakers.
    pub fn list_to_json(breakers: &[Self]) -> String {
        // A status has string keys and UTF-8 text only, so writing it cannot fail.
        serde_json::to_string(breakers).unwrap_or_else(|_| "[]".to_owned())
    }

    /// Reads what a process of any version wrote about its breakers. Leaves out what this version cannot read.
    pub fn list_from_json(json: &str) -> Vec<Self> {
        let entries: Vec<Value> = serde_json::from_str(json).unwrap_or_default();
        let objects = entries.into_iter().filter(Value::is_object);
        objects.filter_map(|entry| serde_json::from_value(entry).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_read_back_and_rows_of_other_versions_as_far_as_possible() {
        let status = BreakerStatus {
            cause: "status 503".into(),
            items: 20,
            open_for_ms: 61_000,
            origin: Some("https://a".into()),
            state: BreakerState::Open,
            types: vec!["mail".into()],
        };
        let json = concat!(
            r#"[{"cause":"status 503","items":20,"open_for_ms":61000,"origin":"https://a","state":"open","#,
            r#""types":["mail"]}]"#
        );
        assert_eq!(BreakerStatus::list_to_json(std::slice::from_ref(&status)), json);
        assert_eq!(BreakerStatus::list_from_json(json), [status]);
        let newer =
            BreakerStatus::list_from_json(r#"[{"state": "ajar", "origin": "https://b"}, {"items": "many"}, 7]"#);
        assert_eq!(newer, [BreakerStatus { origin: Some("https://b".into()), ..BreakerStatus::default() }]);
        assert_eq!(BreakerStatus::list_from_json("not JSON"), []);
    }
}
