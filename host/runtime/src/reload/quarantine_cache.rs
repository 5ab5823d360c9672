//! Which components are quarantined, as far as this process knows.
//!
//! The store is the authority and is asked now and then; what could not be sent to it is kept here
//! and sent again. While it does not answer, what was known stays true.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox_core::{QuarantineEntry, QuarantineError, QuarantineStore};

/// The quarantined components, by digest.
pub(crate) struct QuarantineCache {
    store: Arc<dyn QuarantineStore>,
    known: BTreeMap<String, QuarantineEntry>,
    unsent: Vec<QuarantineEntry>,
    is_failing: bool,
}

impl QuarantineCache {
    /// Nothing is known yet.
    pub(crate) fn new(store: Arc<dyn QuarantineStore>) -> Self {
        Self { store, known: BTreeMap::new(), unsent: Vec::new(), is_failing: false }
    }

    /// Why a component is quarantined, if it is.
    pub(crate) fn get(&self, digest: &str) -> Option<&QuarantineEntry> {
        self.known.get(digest)
    }

    /// Quarantines a component, here at once and everywhere as soon as the store has it.
    pub(crate) async fn add(&mut self, entry: QuarantineEntry) {
        self.known.insert(entry.digest.clone(), entry.clone());
        self.unsent.push(entry);
        self.refresh().await;
    }

    /// Sends to the store what is unsent, and asks it what is quarantined.
    pub(crate) async fn refresh(&mut self) {
        match self.sync().await {
            Ok(listed) => {
                self.known = listed.into_iter().map(|entry| (entry.digest.clone(), entry)).collect();
                self.is_failing = false;
            }
            Err(reason) if !self.is_failing => {
                self.is_failing = true;
                tracing::warn!(%reason, "the quarantine could not be exchanged with the store; trying again");
            }
            Err(_) => {}
        }
    }

    async fn sync(&mut self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        while let Some(unsent) = self.unsent.last() {
            self.store.add(unsent).await?;
            self.unsent.pop();
        }
        self.store.list().await
    }
}
