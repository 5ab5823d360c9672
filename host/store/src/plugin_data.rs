//! Plugins' state as operators see it: how much there is, which keys, and a request to remove it.

use serde::Serialize;

use crate::operate::Execution;
use outbox_core::StateVersion;

/// How much state a plugin keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateTotal {
    /// The plugin.
    pub plugin: String,
    /// How many keys.
    pub keys: u64,
    /// The bytes of keys and values.
    pub bytes: u64,
}

/// One key of a plugin's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateEntry {
    /// The plugin.
    pub plugin: String,
    /// The key.
    pub key: String,
    /// The size of its value.
    pub bytes: u64,
    /// Rises with every write.
    pub version: StateVersion,
}

/// Which keys of a plugin's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateQuery {
    /// The plugin.
    pub plugin: String,
    /// Only keys after this one: the last of the page before.
    pub after: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// An operator's request to remove state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClearStateRequest {
    /// The plugin.
    pub plugin: String,
    /// Only this key; `None` means all.
    pub key: Option<String>,
    /// Who asks: `user@host`, or a name they gave.
    pub actor: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Whether it is done or only counted.
    pub execution: Execution,
}
