//! What the plugin runtime needs from a store: plugin state to read, and the list of quarantined components.
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

    /// The quarantined components. The runtime asks every few seconds, so the answer must be cheap.
    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError>;
}
