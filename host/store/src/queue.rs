//! Claims and their settlements: what a worker asks for, what it gets, and what it says in the end.
//!
//! A claim is a value that proves itself by its token; nothing here touches a database.

use std::time::Duration;

use outbox_core::{OnDead, Settlement};
use outbox_item::{Item, ItemId};

/// What a worker may claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRequest {
    /// The instance id of the worker's process.
    pub claimed_by: String,
    /// At most so many items in all.
    pub limit: u32,
    /// The types it serves; no other item is touched.
    pub types: Vec<ClaimTerms>,
}

impl ClaimRequest {
    /// What it asks for beyond what it got, if anything.
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
    /// At most so many of its items in one call.
    pub limit: u32,
    /// How long a claim holds.
    pub lease: Duration,
    /// Retries after the first attempt of a life.
    pub max_retries: u32,
    /// Claim no more than brings the type's claims, of all processes, to this number.
    pub concurrency: Option<u32>,
    /// Claim no more than this many per second, in all processes together.
    pub rate: Option<f64>,
    /// What dead-lettering one means for those behind it with the same ordering key.
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
    pub token: String,
}

impl Claim {
    /// What settling needs of it.
    pub fn reference(&self) -> ClaimRef {
        ClaimRef { id: self.item.id, token: self.token.clone() }
    }
}

/// Names a claim and proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// The item.
    pub id: ItemId,
    /// Its claim token.
    pub token: String,
}

/// A settlement with what there is to say about the attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct SettleRequest {
    /// What becomes of the item.
    pub settlement: Settlement,
    /// Whether a request that may have had an effect went out.
    pub maybe_executed: bool,
    /// The last that the handler wrote, for the history.
    pub stderr: Option<String>,
    /// The digest of the component that ran.
    pub handler_digest: Option<String>,
    /// What was sent and answered, for the history, as [`Recording::compress`](crate::item::Recording::compress)
    /// makes it.
    pub exchanges: Option<Vec<u8>>,
}
