//! What a store keeps for plugins: their state, and which components are quarantined.
//!
//! State changes arrive with a settlement, see [`Queue::settle`](crate::Queue::settle). What a plugin is and why one is
//! quarantined is not known here.

use async_trait::async_trait;
use serde::Serialize;

use outbox_core::{PresentPlugin, StateVersion, TypeOwner};
use outbox_item::Millis;

use crate::action::Execution;
use crate::error::StoreError;

/// The plugin runtime's side of a store. Attempts read state while they run, up to many times each; a component is
/// quarantined once.
///
/// A caller may not assume that a value stays as it was read: the settlement that used it checks its version and
/// fails with [`StoreError::StateConflict`].
#[async_trait]
pub trait PluginData: Send + Sync + 'static {
    /// One value of a plugin's state and its version. Both are `None` for an absent key.
    async fn read_state(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StoreError>;

    /// Quarantines a component for every process. A component that is quarantined already keeps its first reason.
    /// [`Inspect::list_quarantine`](crate::Inspect::list_quarantine) lists them.
    async fn quarantine(&self, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError>;

    /// Tells which plugins a process of the role has, and returns the owners of types in that role.
    async fn exchange_owners(
        &self,
        role: Option<&str>,
        present: &[PresentPlugin],
    ) -> Result<Vec<TypeOwner>, StoreError>;

    /// The owners of types in every role, by role and type.
    async fn list_owners(&self) -> Result<Vec<OwnerRecord>, StoreError>;
}

/// A quarantined component, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuarantineRecord {
    /// The SHA-256 of the component in hex.
    pub digest: String,
    /// The name of the plugin that it was.
    pub plugin: String,
    /// What it did, in words.
    pub reason: String,
    /// When it was quarantined.
    pub at: Millis,
    /// The process that quarantined it.
    pub pod: String,
}

/// The plugin that owns a type in a role, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerRecord {
    /// Since when no process has its file; `None` while one has.
    pub gone_since: Option<Millis>,
    /// The plugin.
    pub plugin: String,
    /// The role; `None` for processes without one.
    pub role: Option<String>,
    /// Since when it owns the type.
    pub since: Millis,
    /// The type.
    pub r#type: String,
}

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
    /// The largest number of keys.
    pub limit: u32,
}

/// An operator's request to remove state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClearStateRequest {
    /// The plugin.
    pub plugin: String,
    /// Only this key; `None` means all.
    pub key: Option<String>,
    /// Who asks: `user@host`, or a name that the operator gave.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Whether it is done or only counted.
    pub execution: Execution,
}
