//! Claims and their settlements: what a worker asks for, what it gets, and how it ends a claim.
//!
//! Values only. This file does not know how an engine claims and settles.

use std::time::Duration;

use outbox_core::{CrashBudget, KeyLimits, OnDead, Past, Settlement, SuspectRoom};
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
    /// What it may claim of the items that were in leases which ran out.
    pub suspects: SuspectTerms,
}

impl ClaimRequest {
    /// The tokens of the leases that the request can create.
    pub fn tokens(&self) -> Vec<ClaimToken> {
        self.types.iter().map(|terms| terms.token).chain([self.suspects.token]).collect()
    }

    /// The request for what `claimed` does not contain, with new tokens; `None` when it contains everything, or a suspect
    /// that must be alone. After any claim the worker is busy: the rest asks for no suspects, and for no items that must
    /// be attempted at once.
    pub fn remainder_after(mut self, claimed: &ClaimBatch) -> Option<Self> {
        if claimed.claims.iter().any(|claim| CrashBudget::is_alone(claim.item.losses)) {
            return None;
        }
        let less = |limit: u32, got: usize| limit.saturating_sub(u32::try_from(got).unwrap_or(u32::MAX));
        self.limit = less(self.limit, claimed.claims.len());
        self.suspects.token = ClaimToken::random();
        if !claimed.claims.is_empty() {
            self.suspects.room = SuspectRoom::None;
            self.types.retain(|terms| terms.max_retries > 0);
        }
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
    /// The largest number of its items in one call, suspects included.
    pub limit: u32,
    /// How long a claim holds, unless it is renewed.
    pub lease: Duration,
    /// Retries after the first attempt since enqueue or the last replay.
    pub max_retries: u32,
    /// The largest number of claims of this type at a time, across all processes.
    pub concurrency: Option<u32>,
    /// The largest number of claims per second, across all processes.
    pub rate: Option<f64>,
    /// What may be claimed of each fairness key of the type.
    pub per_key: KeyLimits,
    /// The most items of one ordering key in one call: the item in front, and those that follow it at once. They are of
    /// this type, due, and claimed for the first time. 1 claims the item in front only.
    pub streak: u32,
    /// What dead-lettering an item means for the items behind it with the same ordering key.
    pub on_dead: OnDead,
}

/// How a claim treats *suspects*: items that were in a lease which ran out, one of which may have ended its process. The
/// store claims those of one type before other items, as [`CrashBudget::run`] says, into a lease of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct SuspectTerms {
    /// The token of the lease on them, as [`ClaimTerms::token`] is that of the others.
    pub token: ClaimToken,
    /// What the worker's process has in flight.
    pub room: SuspectRoom,
    /// How often an item may be lost.
    pub budget: CrashBudget,
}

impl SuspectTerms {
    /// The terms of a claim by a process with this in flight, with a new token.
    pub fn new(room: SuspectRoom, budget: CrashBudget) -> Self {
        Self { token: ClaimToken::random(), room, budget }
    }
}

/// What a claim call found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimBatch {
    /// The claims, to be handled and settled. Those of one ordering key are a streak: they come in the order of their
    /// line, and are settled in this order.
    pub claims: Vec<Claim>,
    /// How long until another claim may find something: an item's time comes, a rate allows a claim again, or another
    /// transaction is out of the way. `None` when the store expects nothing.
    pub next_available_in: Option<Duration>,
    /// Whether a suspect is due that the process can only take while it has nothing in flight.
    pub lone_suspect_waits: bool,
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

    fn reference(item: Item) -> ClaimRef {
        Claim { item, token: ClaimToken::new(1) }.reference()
    }

    #[test]
    fn a_claim_is_plain_unless_others_wait_for_its_item_or_the_item_was_claimed_before() {
        let first = Item {
            attempts: 1,
            deliveries: 1,
            ..NewItem::new("t", "k", "").into_item(ItemId::new(1), Millis::default())
        };
        assert!(reference(first.clone()).is_plain);
        assert!(!reference(Item { saga: Some("s".into()), ..first.clone() }).is_plain);
        assert!(!reference(Item { ordering_key: Some("o".into()), ..first.clone() }).is_plain);
        assert!(!reference(Item { deliveries: 2, ..first.clone() }).is_plain, "the first attempt did not count");
        assert!(!reference(Item { attempts: 2, deliveries: 2, ..first.clone() }).is_plain);
        assert!(!reference(Item { effect_generation: 1, ..first }).is_plain, "the item was replayed");
    }

    fn request() -> ClaimRequest {
        let terms = |(item_type, max_retries): (&str, u32)| ClaimTerms {
            item_type: item_type.into(),
            token: ClaimToken::random(),
            limit: 9,
            lease: Duration::from_secs(1),
            max_retries,
            concurrency: None,
            rate: None,
            per_key: KeyLimits::default(),
            on_dead: OnDead::Block,
            streak: 1,
        };
        let suspects = SuspectTerms::new(SuspectRoom::Idle, CrashBudget::default());
        ClaimRequest { claimed_by: "pod".into(), limit: 9, types: [("t", 8), ("once", 0)].map(terms).into(), suspects }
    }

    fn claimed(losses: u32) -> ClaimBatch {
        let item = NewItem::new("t", "k", "").into_item(ItemId::new(1), Millis::default());
        let claim = Claim { item: Item { losses, ..item }, token: ClaimToken::random() };
        ClaimBatch { claims: vec![claim], ..ClaimBatch::default() }
    }

    #[test]
    fn the_rest_of_a_request_that_got_nothing_is_the_request_with_new_tokens() {
        let asked = request();
        let rest = asked.clone().remainder_after(&ClaimBatch::default()).expect("a rest");
        assert_eq!((rest.limit, rest.types.len(), rest.suspects.room), (9, 2, SuspectRoom::Idle));
        assert!(rest.tokens().iter().all(|token| !asked.tokens().contains(token)));
    }

    #[test]
    fn the_rest_after_a_claim_asks_for_no_suspects_and_for_nothing_that_must_begin_at_once() {
        let rest = request().remainder_after(&claimed(0)).expect("a rest");
        assert_eq!((rest.limit, rest.types.len(), rest.types[0].limit), (8, 1, 8));
        assert_eq!((rest.types[0].item_type.as_str(), rest.suspects.room), ("t", SuspectRoom::None));
    }

    #[test]
    fn a_suspect_that_must_be_alone_leaves_no_rest() {
        assert!(request().remainder_after(&claimed(2)).is_some());
        assert_eq!(request().remainder_after(&claimed(3)), None);
    }
}
