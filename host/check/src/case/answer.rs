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
    /// Whether its effect may be missing at the end of a run.
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

fn ok() -> u16 {
    200
}
