//! The result of one check: its severity, a message, and advice.

use serde::Serialize;

/// The result of one check, in the JSON shape of `outbox doctor --json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CheckResult {
    pub(crate) check: &'static str,
    #[serde(rename = "result")]
    pub(crate) severity: Severity,
    pub(crate) message: String,
    /// What an operator can do; `None` when nothing is wrong, or when the message itself says it.
    pub(crate) advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Ok,
    Warn,
    Fail,
}

impl CheckResult {
    pub(crate) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, severity: Severity::Ok, message: message.into(), advice: None }
    }

    pub(crate) fn warn(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, severity: Severity::Warn, message: message.into(), advice: Some(advice.into()) }
    }

    /// A failure whose message says what an operator can do.
    pub(crate) fn error(check: &'static str, err: &impl std::fmt::Display) -> Self {
        Self { check, severity: Severity::Fail, message: format!("{err:#}"), advice: None }
    }

    pub(crate) fn fail(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, severity: Severity::Fail, message: message.into(), advice: Some(advice.into()) }
    }
}
