//! What the plugin runtime needs from a store: plugin state to read, the list of quarantined components, and which
//! plugin owns a type.
//!
//! The program that wires the store to the runtime implements them. The runtime knows these traits and no store,
//! so a guest has no way to reach the outbox.

use std::error::Error;

use async_trait::async_trait;

use crate::digest::ComponentDigest;
use crate::host_writes::StateVersion;

/// Why the state of a plugin could not be read. Always a fault of the host, never of the guest.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StateReadError(Box<dyn Error + Send + Sync>);

impl StateReadError {
    /// Wraps the store's own error, or a sentence.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// Why the quarantine could not be read or written. Always a fault of the host.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct QuarantineError(Box<dyn Error + Send + Sync>);

impl QuarantineError {
    /// Wraps the store's own error, or a sentence.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// Reads plugin state for an attempt. Called once for each key that an attempt touches.
#[async_trait]
pub trait StateReader: Send + Sync + 'static {
    /// The value of a key and its version; both are `None` for a key that does not exist.
    async fn read(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError>;
}

/// A quarantined component. No process runs it, because it failed repeatedly as a canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineEntry {
    /// The digest of the component.
    pub digest: ComponentDigest,
    /// The name of its plugin.
    pub plugin: String,
    /// What it did, as a sentence for operators.
    pub reason: String,
}

/// Keeps the list of quarantined components that all processes share.
#[async_trait]
pub trait QuarantineStore: Send + Sync + 'static {
    /// Quarantines a component. A component that is in quarantine already keeps its first reason.
    async fn add(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError>;

    /// Pauses a type, because no version of its plugin works.
    async fn pause(&self, item_type: &str, reason: &str) -> Result<(), QuarantineError>;

    /// The quarantined components. The runtime asks every few seconds, so the answer must be cheap.
    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError>;
}

/// Why the owners of types could not be read or written. Always a fault of the host.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OwnersError(Box<dyn Error + Send + Sync>);

impl OwnersError {
    /// Wraps the store's own error, or a sentence.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// A plugin whose file is in the folder of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentPlugin {
    /// Its name; that of a role's folder begins with the role and a slash.
    pub plugin: String,
    /// The types that it handles; `None` while no version of it is loaded.
    pub types: Option<Vec<String>>,
}

/// The plugin that owns a type in one role: it alone gets items of the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeOwner {
    /// The type.
    pub item_type: String,
    /// The plugin's name.
    pub plugin: String,
}

/// Keeps which plugin owns which type, for all processes of one role.
#[async_trait]
pub trait TypeOwners: Send + Sync + 'static {
    /// Tells which plugins are present, in the order of ownership, and returns the owners. A type without an owner goes to
    /// the first plugin that handles it; an owner that was absent for long loses its types. The runtime asks every few
    /// seconds, so the answer must be cheap.
    async fn exchange(&self, present: &[PresentPlugin]) -> Result<Vec<TypeOwner>, OwnersError>;
}
