//! Constructors of failures. The class of a failure decides what the host does with the item.

use std::time::Duration;

use crate::{Failure, FailureClass};

impl Failure {
    /// A failure that may pass: the host retries after the backoff, until the retries are used up.
    ///
    /// The code is stable and dotted, such as `upstream.timeout`, so that failures can be grouped; the message is for
    /// people.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Retryable, code, message)
    }

    /// A failure that retries cannot change: the item becomes DLQ at once.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Permanent, code, message)
    }

    /// A request for a later attempt: the host makes one and does not count this attempt.
    pub fn defer(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Defer, code, message)
    }

    /// The same failure. The host makes the next attempt no earlier than `delay` from now.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { retry_after_ms: Some(millis(delay)), ..self }
    }

    fn new(class: FailureClass, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, code: code.into(), message: message.into(), retry_after_ms: None }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::permanent("payload.invalid", error.to_string())
    }
}

/// A duration in milliseconds, the unit of the contract.
pub(crate) fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}
