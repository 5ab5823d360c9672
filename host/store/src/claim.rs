//! Claims and their settlements: what a worker asks for, what it gets, and how it ends a claim.
//!
//! Values only. How an engine claims and settles is not known here.

use std::time::Duration;

use outbox_core::{OnDead, Settlement};
use outbox_item::{Item, ItemId};

use crate::ids::ClaimToken;

/// What a worker may claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRequest {
    /// The instance id of the worker's process.
    pub claimed_by: String,
    /// The largest number of items in all.
    pub limit: u32,
    /// The types it serves; no other item is touched.
    pub types: Vec<ClaimTerms>,
}

impl ClaimRequest {
    /// The request for what it has not got yet; `None` when it has got everything.
    pub fn remainder_after(mut self, claimed: &ClaimBatch) -> Option<Self> {
        let less = |limit: u32, got: usize| limit.saturating_sub(u32::try_from(got).unwrap_or(u32::MAX));
        self.limit = less(self.limit, claimed.claims.len());
        for terms in &mut self.types {
            let of_type = claimed.claims.iter().filter(|claim| claim.item.item_type == terms.item_type);
            terms.limit = less(terms.limit, of_type.count());
        }
        self.types.retain(|terms| terms.limit > 0);
        (self.limit > 0 && !self.types.is_empty()).then_some(self)
    }
}

/// On what terms items of one type are claimed.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimTerms {
    /// The type.
    pub item_type: String,
    /// The largest number of its items in one call.
    pub limit: u32,
    /// How long a claim holds.
    pub lease: Duration,
    /// Retries after the first attempt of a life.
    pub max_retries: u32,
    /// The largest number of claims of this type at a time, across all processes.
    pub concurrency: Option<u32>,
    /// The largest number of claims per second, across all processes.
    pub rate: Option<f64>,
    /// What dead-lettering an item means for the items behind it with the same ordering key.
    pub on_dead: OnDead,
}

/// What a claim call found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimBatch {
    /// The claims, to be handled and settled.
    pub claims: Vec<Claim>,
    /// How long until an item of the requested types becomes available, if one waits for its time.
    pub next_available_in: Option<Duration>,
}

/// The exclusive, time-limited right to attempt one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The item, as it stands after the claim: `attempts` is the number of this attempt.
    pub item: Item,
    /// The proof that settles it.
    pub token: ClaimToken,
}

impl Claim {
    /// What settling needs of it.
    pub fn reference(&self) -> ClaimRef {
        ClaimRef { id: self.item.id, token: self.token.clone() }
    }
}

/// The item of a claim, and the proof of the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// The item.
    pub id: ItemId,
    /// Its claim token.
    pub token: ClaimToken,
}

/// A settlement with what the history records of the attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct SettleRequest {
    /// What becomes of the item.
    pub settlement: Settlement,
    /// Whether a request that may have had an effect went out.
    pub maybe_executed: bool,
    /// The end of what the handler wrote to stderr, for the history.
    pub stderr: Option<String>,
    /// The digest of the component that ran.
    pub handler_digest: Option<String>,
    /// The requests and responses of the attempt, for the history, as
    /// [`Recording::compress`](outbox_core::Recording::compress) makes them.
    pub exchanges: Option<Vec<u8>>,
}
