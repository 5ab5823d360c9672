//! The operator's settings under `[config]` in the plugin's manifest.

use crate::Failure;
use crate::bindings::wasi::config::store;

/// The value of a key, or `None` when the manifest does not set it.
pub fn get(key: &str) -> Result<Option<String>, Failure> {
    store::get(key).map_err(|error| Failure::retryable("config.unavailable", format!("reading {key:?}: {error:?}")))
}

/// The value of a key that the handler requires.
///
/// A missing key fails retryably with `config.missing`, because the operator can set it before the retries are used up.
pub fn require(key: &str) -> Result<String, Failure> {
    get(key)?.ok_or_else(|| {
        Failure::retryable("config.missing", format!("the manifest sets no {key:?}: add it under [config]"))
    })
}
