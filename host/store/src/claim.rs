//! Claims and their settlements: what a worker asks for, what it gets, and how it ends a claim.
//!
//! Values only. This file does not know how an engine claims and settles.

use std::time::Duration;

use outbox_core::{OnDead, Past, Settlement};
use outbox_item::{Item, ItemId};

use crate::ids::ClaimToken;

/// The longest lease that an operator can set, in seconds.
pub const LONGEST_LEASE_SECONDS: u32 = 24 * 60 * 60;

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
    /// The tokens of the leases that the request can create.
    pub fn tokens(&self) -> Vec<ClaimToken> {
        self.types.iter().map(|terms| terms.token).collect()
    }

    /// The request for what `claimed` does not contain, with new tokens; `None` when it contains everything.
    pub fn remainder_after(mut self, claimed: &ClaimBatch) -> Option<Self> {
        let less = |limit: u32, got: usize| limit.saturating_sub(u32::try_from(got).unwrap_or(u32::MAX));
        self.limit = less(self.limit, claimed.claims.len());
        for terms in &mut self.types {
            let of_type = claimed.claims.iter().filter(|claim| claim.item.item_type == terms.item_type);
            terms.limit = less(terms.limit, of_type.count());
            terms.token = ClaimToken::random();
        }
        self.types.retain(|terms| terms.limit > 0);
        (self.limit > 0 && !self.types.is_empty()).then_some(self)
    }
}

/// The limits and policies for claiming items of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimTerms {
    /// The type.
    pub item_type: String,
    /// The token of the lease on what the call claims of the type, which [`Queue::abandon`](crate::Queue::abandon)
    /// names when the answer is lost. Drawn anew for each call.
    pub token: ClaimToken,
    /// The largest number of its items in one call.
    pub limit: u32,
    /// How long a claim holds, unless it is renewed.
    pub lease: Duration,
    /// Retries after the first attempt since enqueue or the last replay.
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
    /// How long until another claim may find something: an item's time comes, a rate allows a claim again, or another
    /// transaction is out of the way. `None` when the store expects nothing.
    pub next_available_in: Option<Duration>,
}

/// The exclusive, time-limited right to attempt one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The item after the claim: `attempts` is the number of this attempt.
    pub item: Item,
    /// The proof of the claim, which a settlement must present.
    pub token: ClaimToken,
}

impl Claim {
    /// The part of the claim that a settlement needs.
    pub fn reference(&self) -> ClaimRef {
        ClaimRef { id: self.item.id, token: self.token, is_plain: is_plain(&self.item) }
    }
}

/// Nothing else changes a claimed item until its claim ends, so what the claim has seen holds for the settlement.
fn is_plain(item: &Item) -> bool {
    item.saga.is_none() && item.ordering_key.is_none() && Past::of(item).was_claimed_once()
}

/// The item of a claim, and the proof of the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// The item.
    pub id: ItemId,
    /// Its claim token.
    pub token: ClaimToken,
    /// Whether the item is in no saga, has no ordering key and is claimed for the first time: then a completion changes
    /// its place and the totals, and a store needs to read nothing else. False says nothing.
    pub is_plain: bool,
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

#[cfg(test)]
mod tests {
    use outbox_item::{Millis, NewItem};

    use super::*;

    fn claim(item: Item) -> ClaimRef {
        Claim { item, token: ClaimToken::new(1) }.reference()
    }

    #[test]
    fn a_claim_is_plain_unless_others_wait_for_its_item_or_the_item_was_claimed_before() {
        let first = Item {
            attempts: 1,
            deliveries: 1,
            ..NewItem::new("t", "k", "").into_item(ItemId::new(1), Millis::default())
        };
        assert!(claim(first.clone()).is_plain);
        assert!(!claim(Item { saga: Some("s".into()), ..first.clone() }).is_plain);
        assert!(!claim(Item { ordering_key: Some("o".into()), ..first.clone() }).is_plain);
        assert!(!claim(Item { deliveries: 2, ..first.clone() }).is_plain, "the first attempt did not count");
        assert!(!claim(Item { attempts: 2, deliveries: 2, ..first.clone() }).is_plain);
        assert!(!claim(Item { effect_generation: 1, ..first }).is_plain, "the item was replayed");
    }
}
