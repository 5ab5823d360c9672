//! An item's payload, and the result of its handler.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Failure, Item};

impl Item {
    /// Parses the payload as JSON. A payload that does not fit `T` fails permanently with `payload.invalid`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        Ok(serde_json::from_slice(&self.payload)?)
    }
}

/// The success of an attempt, with the value that the host stores as the item's `result`, if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome(Option<Vec<u8>>);

impl Outcome {
    /// Success without a result.
    pub fn done() -> Self {
        Self(None)
    }

    /// Success with a result of any bytes.
    pub fn bytes(result: impl Into<Vec<u8>>) -> Self {
        Self(Some(result.into()))
    }

    /// Success with a JSON result.
    pub fn json(result: &impl Serialize) -> Result<Self, Failure> {
        Ok(Self::bytes(serde_json::to_vec(result)?))
    }
}

impl From<Outcome> for Option<Vec<u8>> {
    fn from(outcome: Outcome) -> Self {
        outcome.0
    }
}
