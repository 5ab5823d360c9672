//! Which settlements wait for a lock of another transaction for longer than a group may, for example because an
//! application has inserted the key of a follow-up and does not commit.
//!
//! They leave the groups (`group`) and are tried by themselves, one after the other, so that they delay nothing else.
//! This file does not know how a settlement is tried.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outbox_store::ClaimRef;

use crate::leases::LeasedId;

/// The claims of this process whose settlements were late when they were last tried.
#[derive(Default)]
pub(crate) struct LateSettlements {
    claims: Mutex<HashSet<LeasedId>>,
    turn: tokio::sync::Mutex<()>,
}

impl LateSettlements {
    pub(crate) fn contains(&self, claim: &ClaimRef) -> bool {
        self.claims().contains(&leased_id(claim))
    }

    /// Records that the settlement of the claim waited for a lock for too long.
    pub(crate) fn insert(&self, claim: &ClaimRef) {
        self.claims().insert(leased_id(claim));
    }

    /// Records that the settlement of the claim waits for no lock any more.
    pub(crate) fn remove(&self, claim: &ClaimRef) {
        self.claims().remove(&leased_id(claim));
    }

    /// Waits until no other late settlement is being tried.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    fn claims(&self) -> MutexGuard<'_, HashSet<LeasedId>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn leased_id(claim: &ClaimRef) -> LeasedId {
    (claim.token, claim.id)
}
