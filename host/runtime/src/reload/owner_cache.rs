//! The owners of types as this process knows them.
//!
//! The store has them for all processes of the role, and the reloader exchanges them every few seconds. While the store
//! does not answer, those known last hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox_core::{Outage, PresentPlugin, TypeOwner, TypeOwners};

/// The owner of each type that has one, by type.
pub(crate) type Owners = BTreeMap<String, String>;

/// The owners as they were exchanged last.
pub(crate) struct OwnerCache {
    store: Arc<dyn TypeOwners>,
    known: Owners,
    outage: Outage,
}

impl OwnerCache {
    /// A cache without owners.
    pub(crate) fn new(store: Arc<dyn TypeOwners>) -> Self {
        Self { store, known: Owners::new(), outage: Outage::default() }
    }

    /// The owners.
    pub(crate) fn known(&self) -> &Owners {
        &self.known
    }

    /// Whether the last exchange failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.outage.is_ongoing()
    }

    /// Tells the store which plugins are present, and takes over the owners. Returns whether they have changed.
    pub(crate) async fn exchange(&mut self, present: &[PresentPlugin]) -> bool {
        match self.store.exchange(present).await {
            Ok(owners) => {
                self.outage.succeeded();
                let owners = owners.into_iter().map(|TypeOwner { item_type, plugin }| (item_type, plugin)).collect();
                self.take_over(owners)
            }
            Err(reason) => {
                if self.outage.failed() {
                    tracing::warn!(%reason, "the owners of types could not be exchanged with the store; trying again");
                }
                false
            }
        }
    }

    fn take_over(&mut self, owners: Owners) -> bool {
        for (item_type, plugin) in &owners {
            let before = self.known.get(item_type);
            if let Some(before) = before.filter(|before| *before != plugin) {
                tracing::warn!(item.r#type = item_type, plugin.name = plugin, before, "a type has another owner");
            }
        }
        let is_changed = self.known != owners;
        self.known = owners;
        is_changed
    }
}
