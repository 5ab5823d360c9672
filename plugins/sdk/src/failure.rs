//! Ways to make a failure. Its class decides what the host does with the item.

use std::time::Duration;

use crate::{Failure, FailureClass};

impl Failure {
    /// Try again after the backoff, until the retries are used up.
    ///
    /// A code is stable and dotted, for grouping, such as `upstream.timeout`; the message is for people.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Retryable, code, message)
    }

    /// Trying again cannot help: the item goes to the dead-letter queue at once.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Permanent, code, message)
    }

    /// Not now: try again later, without counting this attempt.
    pub fn defer(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Defer, code, message)
    }

    /// The same failure, with a wish not to be tried again earlier than `delay` from now.
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

/// The contract's unit of time.
pub(crate) fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}
