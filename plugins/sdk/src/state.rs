//! The plugin's key-value state. The host commits changes in the transaction that completes the item, or not at all.
//!
//! An attempt reads its own writes. The manifest needs `state = true` under `[grant]`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;
use crate::bindings::outbox::handler::state::{self, Error};

/// The value of a key, or `None` when there is none.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Failure> {
    Ok(state::get(key)?)
}

/// Sets the value of a key.
pub fn put(key: &str, value: &[u8]) -> Result<(), Failure> {
    Ok(state::put(key, value)?)
}

/// Removes a key. A missing key is no error.
pub fn delete(key: &str) -> Result<(), Failure> {
    Ok(state::delete(key)?)
}

/// The value of a key, parsed as JSON. A value that does not fit `T` fails permanently with `state.invalid`.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Failure> {
    let invalid = |error| Failure::permanent("state.invalid", format!("reading state {key:?}: {error}"));
    get(key)?.map(|value| serde_json::from_slice(&value).map_err(invalid)).transpose()
}

/// Sets the value of a key to JSON.
pub fn put_json(key: &str, value: &impl Serialize) -> Result<(), Failure> {
    put(key, &serde_json::to_vec(value)?)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied => Self::retryable("state.denied", "state is not available to this attempt"),
            Error::TooLarge => {
                Self::permanent("state.too_large", "the key or the value is larger than the host stores")
            }
            Error::Quota => Self::retryable("state.quota", "the plugin's quota of state is used up"),
            Error::Other(message) => Self::retryable("state.other", message),
        }
    }
}
