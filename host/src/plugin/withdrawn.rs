//! Which components are withdrawn, as far as this process knows.
//!
//! The store is the authority and is asked now and then; what it could not be told is remembered here
//! and told again. While it does not answer, what was known stays true.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::handler::{Quarantine, Withdrawal};

/// The withdrawn components, by digest.
pub(super) struct Withdrawn {
    quarantine: Arc<dyn Quarantine>,
    known: BTreeMap<String, Withdrawal>,
    untold: Vec<Withdrawal>,
    is_failing: bool,
}

impl Withdrawn {
    /// Nothing is known yet.
    pub(super) fn new(quarantine: Arc<dyn Quarantine>) -> Self {
        Self { quarantine, known: BTreeMap::new(), untold: Vec::new(), is_failing: false }
    }

    /// Why a component is withdrawn, if it is.
    pub(super) fn get(&self, digest: &str) -> Option<&Withdrawal> {
        self.known.get(digest)
    }

    /// Withdraws a component, here at once and everywhere as soon as the store has been told.
    pub(super) async fn add(&mut self, withdrawal: Withdrawal) {
        self.known.insert(withdrawal.digest.clone(), withdrawal.clone());
        self.untold.push(withdrawal);
        self.refresh().await;
    }

    /// Tells the store what it has not been told, and asks it what is withdrawn.
    pub(super) async fn refresh(&mut self) {
        match self.exchange().await {
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

    async fn exchange(&mut self) -> anyhow::Result<Vec<Withdrawal>> {
        while let Some(untold) = self.untold.last() {
            self.quarantine.add(untold).await?;
            self.untold.pop();
        }
        self.quarantine.list().await
    }
}
