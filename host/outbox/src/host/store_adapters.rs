//! The store behind the traits that plugins use: [`StateReader`] and [`QuarantineStore`].
//!
//! The plugin runtime cannot see the store. These adapters let it read the state of a plugin, and add to and read the
//! quarantine, and nothing else.

use std::sync::Arc;

use async_trait::async_trait;

use outbox_core::{QuarantineEntry, QuarantineError, QuarantineStore, StateReadError, StateReader, StateVersion};
use outbox_store::{PluginData, QuarantineRecord};

/// Reads the state of plugins from the store.
pub(crate) struct StoreStateReader(pub(crate) Arc<dyn PluginData>);

#[async_trait]
impl StateReader for StoreStateReader {
    async fn read(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        self.0.read_state(plugin, key).await.map_err(StateReadError::new)
    }
}

/// Keeps the quarantine in the store, so that all processes share it.
pub(crate) struct StoreQuarantine(pub(crate) Arc<dyn PluginData>);

#[async_trait]
impl QuarantineStore for StoreQuarantine {
    async fn add(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        let QuarantineEntry { digest, plugin, reason } = entry;
        self.0.quarantine(digest.as_str(), plugin, reason).await.map_err(QuarantineError::new)
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        let records = self.0.list_quarantine().await.map_err(QuarantineError::new)?;
        Ok(records.into_iter().filter_map(quarantine_entry).collect())
    }
}

/// The entry of a record. `None` if its digest is that of no component, so that one bad row does not hide the others.
fn quarantine_entry(record: QuarantineRecord) -> Option<QuarantineEntry> {
    let QuarantineRecord { digest, plugin, reason, .. } = record;
    Some(QuarantineEntry { digest: digest.parse().ok()?, plugin, reason })
}

/// Both traits for a process without a store: reading state and adding to the quarantine fail, and the quarantine is
/// empty.
pub(crate) struct WithoutStore;

#[async_trait]
impl StateReader for WithoutStore {
    async fn read(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        Err(StateReadError::new(format!("no store is open to read {key:?} of plugin {plugin:?} from")))
    }
}

#[async_trait]
impl QuarantineStore for WithoutStore {
    async fn add(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        Err(QuarantineError::new(format!("no store is open to quarantine {} in", entry.digest)))
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        Ok(Vec::new())
    }
}
