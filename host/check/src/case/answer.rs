//! The answers of a case: which request each one is for, and what the handler receives.
//!
//! This is the file format only. `script.rs` decides which answer a request gets, and `receivers.rs` what a receiver
//! carries out.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::case::content::Content;

/// One answer of a case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseAnswer {
    /// The name by which `after` refers to this answer.
    pub(crate) name: Option<String>,
    /// The method of the request; every method when absent.
    pub(crate) method: Option<String>,
    /// A pattern for the URL of the request, in which `*` matches any text.
    pub(crate) url: String,
    /// Headers that the request must have, each with a pattern for its value.
    #[serde(default)]
    pub(crate) request_headers: BTreeMap<String, String>,
    /// A pattern for the body of the request.
    pub(crate) request_body: Option<String>,
    /// The name of the answer that must have taken effect before this one is given.
    pub(crate) after: Option<String>,
    /// How often this answer is given before the next one that matches; without limit when absent.
    pub(crate) times: Option<u32>,
    /// The status of the response.
    #[serde(default = "ok")]
    pub(crate) status: u16,
    /// The headers of the response.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body of the response.
    #[serde(flatten)]
    pub(crate) body: Content,
    /// What goes wrong in place of the response.
    pub(crate) fault: Option<CaseFault>,
    /// What the receiver does with idempotency keys.
    #[serde(default, rename = "receiver")]
    pub(crate) key_handling: KeyHandling,
    /// The header from which the receiver takes its keys; `Idempotency-Key` when absent.
    pub(crate) key_header: Option<String>,
    /// Whether the request has an effect. A search or a request for a token has none, whatever its method is.
    #[serde(default = "yes", rename = "effect")]
    pub(crate) is_effect: bool,
    /// What an equal request does once more; what its method says when absent.
    pub(crate) repeats: Option<Repeats>,
    /// Whether the receiver says the same for ever, so that nothing else needs to be tried.
    #[serde(default, rename = "stable")]
    pub(crate) is_stable: bool,
    /// Whether its effect may be missing at the end of a run, or be there although the undisturbed run lacks it.
    #[serde(default, rename = "optional")]
    pub(crate) is_optional: bool,
}

/// What goes wrong with a request of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CaseFault {
    /// The receiver refuses the connection.
    Refused,
    /// The connection breaks after the request.
    Broken,
    /// The receiver sends no response.
    Silent,
}

/// What a receiver does with idempotency keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeyHandling {
    /// The receiver carries out each key once and repeats its response afterwards.
    #[default]
    Honours,
    /// The receiver carries out every request.
    Ignores,
}

/// What an equal request does once more at a receiver that does not know its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Repeats {
    /// Nothing that it has not done before.
    Same,
    /// The same once more.
    Adds,
}

impl CaseAnswer {
    /// What an equal request does once more. `PUT` and `DELETE` are idempotent unless the case says otherwise.
    pub(crate) fn repeats_of(&self, method: &str) -> Repeats {
        let by_method = if matches!(method, "PUT" | "DELETE") { Repeats::Same } else { Repeats::Adds };
        self.repeats.unwrap_or(by_method)
    }
}

fn ok() -> u16 {
    200
}

fn yes() -> bool {
    true
}
