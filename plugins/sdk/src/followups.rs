//! Follow-ups: items that the host enqueues in the transaction that completes this item, or not at all.
//!
//! They inherit the saga and the correlation id. The manifest lists their types under `emit` in `[grant]`.

use std::time::Duration;

use serde::Serialize;

use crate::Failure;
use crate::bindings::outbox::handler::followups::{self, Error};
use crate::failure::millis;

pub use crate::bindings::outbox::handler::followups::NewItem;

/// Enqueues one item when this item is completed.
pub fn emit(item: &NewItem) -> Result<(), Failure> {
    Ok(followups::emit(item)?)
}

impl NewItem {
    /// An item of this type with a JSON payload.
    pub fn json(item_type: impl Into<String>, payload: &impl Serialize) -> Result<Self, Failure> {
        Ok(Self {
            type_: item_type.into(),
            payload: serde_json::to_vec(payload)?,
            content_type: "application/json".to_owned(),
            ordering_key: None,
            delay_ms: 0,
            name: None,
        })
    }

    /// Distinguishes this item from other follow-ups of its type. Without names, their order distinguishes them.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Sets the ordering key: the host handles items with the same key one at a time.
    #[must_use]
    pub fn ordering_key(self, key: impl Into<String>) -> Self {
        Self { ordering_key: Some(key.into()), ..self }
    }

    /// Delays the item: no worker claims it before `delay` has passed.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay_ms: millis(delay), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied(message) => Self::retryable("followups.denied", message),
            Error::TooLarge => Self::permanent("followups.too_large", "the payload is larger than the host stores"),
            Error::TooMany => Self::permanent("followups.too_many", "this attempt has emitted all the items it may"),
            Error::Other(message) => Self::retryable("followups.other", message),
        }
    }
}
