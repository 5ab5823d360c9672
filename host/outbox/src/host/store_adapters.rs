//! The store behind the traits that plugins use: [`StateReader`], [`QuarantineStore`] and
//! [`TypeOwners`].
//!
//! The plugin runtime cannot see the store. These adapters let it read the state of a plugin, exchange the quarantine and
//! the owners of types, and pause a type, and nothing else.

use std::sync::Arc;

use async_trait::async_trait;

use outbox_core::{
    OwnersError, PresentPlugin, QuarantineEntry, QuarantineError, QuarantineStore, StateReadError, StateReader,
    StateVersion, TypeOwner, TypeOwners,
};
use outbox_store::{Control, ControlRequest, Execution, PluginData, QuarantineRecord, Store};

/// Reads the state of plugins from the store.
pub(crate) struct StoreStateReader(pub(crate) Arc<dyn PluginData>);

#[async_trait]
impl StateReader for StoreStateReader {
    async fn read(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        self.0.read_state(plugin, key).await.map_err(StateReadError::new)
    }
}

/// Keeps the quarantine in the store, so that all processes share it.
pub(crate) struct StoreQuarantine(pub(crate) Arc<dyn Store>);

#[async_trait]
impl QuarantineStore for StoreQuarantine {
    async fn add(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        let QuarantineEntry { digest, plugin, reason } = entry;
        self.0.quarantine(digest.as_str(), plugin, reason).await.map_err(QuarantineError::new)
    }

    async fn pause(&self, item_type: &str, reason: &str) -> Result<(), QuarantineError> {
        let request = ControlRequest {
            control: Control::Pause { item_type: item_type.to_owned() },
            actor: "host".to_owned(),
            reason: Some(reason.to_owned()),
            execution: Execution::Apply,
        };
        self.0.control(&request).await.map(drop).map_err(QuarantineError::new)
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

/// Keeps the owners of types in the store, for the processes of one role.
pub(crate) struct StoreTypeOwners {
    pub(crate) store: Arc<dyn PluginData>,
    pub(crate) role: Option<String>,
    /// Whether the plugins of this process count, as those of a running host do.
    pub(crate) is_host: bool,
}

#[async_trait]
impl TypeOwners for StoreTypeOwners {
    async fn exchange(&self, present: &[PresentPlugin]) -> Result<Vec<TypeOwner>, OwnersError> {
        let role = self.role.as_deref();
        if self.is_host {
            return self.store.exchange_owners(role, present).await.map_err(OwnersError::new);
        }
        let listed = self.store.list_owners().await.map_err(OwnersError::new)?.into_iter();
        let of_role = listed.filter(|owner| owner.role.as_deref() == role);
        Ok(of_role.map(|owner| TypeOwner { item_type: owner.r#type, plugin: owner.plugin }).collect())
    }
}

/// The traits for a process without a store: reading state and adding to the quarantine fail, the quarantine is empty,
/// and no type has an owner.
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

    async fn pause(&self, item_type: &str, _reason: &str) -> Result<(), QuarantineError> {
        Err(QuarantineError::new(format!("no store is open to pause the type {item_type} in")))
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl TypeOwners for WithoutStore {
    async fn exchange(&self, _: &[PresentPlugin]) -> Result<Vec<TypeOwner>, OwnersError> {
        Ok(Vec::new())
    }
}
