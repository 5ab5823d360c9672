//! The quarantined components as this process knows them.
//!
//! The store has the list for all processes, and the reloader asks it every few seconds. Entries that could not be sent
//! are kept here and sent again. While the store does not answer, the last known list is used.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox_core::{ComponentDigest, Outage, QuarantineEntry, QuarantineError, QuarantineStore};

/// The quarantined components, by digest.
pub(crate) struct QuarantineCache {
    store: Arc<dyn QuarantineStore>,
    known: BTreeMap<ComponentDigest, QuarantineEntry>,
    unsent: Vec<QuarantineEntry>,
    /// Types to pause, with the reason.
    unsent_pauses: Vec<(String, String)>,
    outage: Outage,
}

impl QuarantineCache {
    /// An empty cache. [`QuarantineCache::refresh`] fills it.
    pub(crate) fn new(store: Arc<dyn QuarantineStore>) -> Self {
        Self { store, known: BTreeMap::new(), unsent: Vec::new(), unsent_pauses: Vec::new(), outage: Outage::default() }
    }

    /// The entry of a quarantined component.
    pub(crate) fn get(&self, digest: &ComponentDigest) -> Option<&QuarantineEntry> {
        self.known.get(digest)
    }

    /// Quarantines a component: in this process at once, in others as soon as the store has the entry.
    pub(crate) async fn add(&mut self, entry: QuarantineEntry) {
        self.known.insert(entry.digest.clone(), entry.clone());
        self.unsent.push(entry);
        self.refresh().await;
    }

    /// Pauses a type in every process, as soon as the store can record it.
    pub(crate) async fn pause(&mut self, item_type: String, reason: String) {
        self.unsent_pauses.push((item_type, reason));
        self.refresh().await;
    }

    /// Sends unsent entries to the store and reads its list.
    pub(crate) async fn refresh(&mut self) {
        match self.sync().await {
            Ok(listed) => {
                self.known = listed.into_iter().map(|entry| (entry.digest.clone(), entry)).collect();
                self.outage.succeeded();
            }
            Err(reason) => {
                if self.outage.failed() {
                    tracing::warn!(%reason, "the quarantine could not be exchanged with the store; trying again");
                }
            }
        }
    }

    async fn sync(&mut self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        while let Some(unsent) = self.unsent.last() {
            self.store.add(unsent).await?;
            self.unsent.pop();
        }
        while let Some((item_type, reason)) = self.unsent_pauses.last() {
            self.store.pause(item_type, reason).await?;
            self.unsent_pauses.pop();
        }
        self.store.list().await
    }
}
