//! Reading an item's payload, and the answer to it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Failure, Item};

impl Item {
    /// The payload, read as JSON. A payload that is not what the handler expects is a permanent
    /// failure, `payload.invalid`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        Ok(serde_json::from_slice(&self.payload)?)
    }
}

/// The effect is done; what the host should store as the item's `result`, if anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome(Option<Vec<u8>>);

impl Outcome {
    /// Done, with nothing to tell.
    pub fn done() -> Self {
        Self(None)
    }

    /// Done, with a result of any bytes.
    pub fn bytes(result: impl Into<Vec<u8>>) -> Self {
        Self(Some(result.into()))
    }

    /// Done, with a result in JSON.
    pub fn json(result: &impl Serialize) -> Result<Self, Failure> {
        Ok(Self::bytes(serde_json::to_vec(result)?))
    }
}

impl From<Outcome> for Option<Vec<u8>> {
    fn from(outcome: Outcome) -> Self {
        outcome.0
    }
}
