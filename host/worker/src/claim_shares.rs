//! How many items of each type a worker may claim, by what it has in hand: items and the bytes of their payloads.
//!
//! An item is in hand from its claim to its settlement. Each type has a floor, as it has among the running attempts, and
//! the payloads in hand have a bound. It does not know which attempts run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use tokio::sync::Notify;

use outbox_core::ServedType;
use outbox_store::Claim;

use crate::floor::Floor;

/// Bytes. How large the payloads of a type are taken to be before the worker has seen any: few items in the first claim
/// of a type cost little, and many large ones would not fit.
const LARGEST_UNSEEN: u64 = 4 << 20;
/// Each claim divides that guess by this number, so that a worker claims many small payloads after three claims.
const GUESS_DIVISOR: u64 = 4;
/// After each claim the largest payload that was seen counts for less by one divided by this number, if none is as large.
const FADING: u64 = 8;

/// What a worker has in hand of each type.
#[derive(Debug)]
pub(crate) struct ClaimShares {
    concurrency: usize,
    payload_bytes: u64,
    state: Mutex<HandState>,
}

#[derive(Debug, Default)]
struct HandState {
    items: usize,
    bytes: u64,
    types: HashMap<String, TypeInHand>,
}

#[derive(Debug)]
struct TypeInHand {
    items: usize,
    /// The size of a payload that could come, at most, as far as it is a guess.
    guess: u64,
    /// The largest payload that was seen lately.
    seen: u64,
}

impl Default for TypeInHand {
    fn default() -> Self {
        Self { items: 0, guess: LARGEST_UNSEEN, seen: 0 }
    }
}

impl TypeInHand {
    /// The size of a payload that is expected, at most.
    fn largest(&self) -> u64 {
        self.guess.max(self.seen)
    }

    fn claimed(&mut self, largest: u64) {
        self.guess /= GUESS_DIVISOR;
        self.seen = largest.max(self.seen - self.seen / FADING);
    }
}

/// What may be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimLimits {
    /// Items in all.
    pub(crate) total: u32,
    /// Items of each type, in the order of the types.
    pub(crate) of_types: Vec<u32>,
    /// How many of them can begin at once whatever other types do, in the same order.
    pub(crate) at_once: Vec<u32>,
}

/// An item in hand. Dropping it wakes the loop that claims.
#[derive(Debug)]
pub(crate) struct ClaimPermit {
    shares: Arc<ClaimShares>,
    served_type: Arc<ServedType>,
    bytes: u64,
    permit_freed: Arc<Notify>,
}

impl ClaimShares {
    /// Shares for a worker that makes up to `concurrency` attempts at a time, and has payloads of up to `payload_bytes`
    /// in hand, apart from a last one that exceeds them.
    pub(crate) fn new(concurrency: usize, payload_bytes: u64) -> Arc<Self> {
        Arc::new(Self { concurrency, payload_bytes, state: Mutex::default() })
    }

    /// How many items are in hand.
    pub(crate) fn in_hand(&self) -> usize {
        self.lock().items
    }

    /// How many items of the type are in hand.
    pub(crate) fn of_type(&self, item_type: &str) -> usize {
        self.lock().types.get(item_type).map_or(0, |held| held.items)
    }

    /// What may be claimed of these types by a worker that may have `most` items in hand, without those of types that
    /// are below their floors.
    pub(crate) fn limits(&self, served_types: &[Arc<ServedType>], most: usize) -> ClaimLimits {
        let state = self.lock();
        let floor = Floor::new(self.concurrency, served_types.len());
        let held = |served_type: &Arc<ServedType>| state.types.get(&served_type.item_type).map_or(0, |held| held.items);
        let missing: Vec<_> = served_types.iter().map(|served_type| floor.missing(held(served_type))).collect();
        let common = most.saturating_sub(state.items);
        let limit = |(served_type, missing): (_, &usize)| common.max(*missing).min(self.fitting(&state, served_type));
        ClaimLimits {
            total: count(common.max(missing.iter().sum())),
            of_types: served_types.iter().zip(&missing).map(|pair| count(limit(pair))).collect(),
            at_once: missing.iter().map(|missing| count(*missing)).collect(),
        }
    }

    /// How many items of the type fit into the bytes that are left; at least one of a type of which none is in hand.
    fn fitting(&self, state: &HandState, served_type: &Arc<ServedType>) -> usize {
        let known = state.types.get(&served_type.item_type);
        let (items, largest) = known.map_or((0, LARGEST_UNSEEN), |known| (known.items, known.largest()));
        let fitting = self.payload_bytes.saturating_sub(state.bytes) / largest.max(1);
        usize::try_from(fitting).unwrap_or(usize::MAX).max(usize::from(items == 0))
    }

    /// Takes the items of a claim into account for the size of those to come.
    pub(crate) fn claimed(&self, claims: &[Claim]) {
        let mut largest = HashMap::<&str, u64>::new();
        for claim in claims {
            let of_type = largest.entry(&claim.item.item_type).or_default();
            *of_type = (*of_type).max(claim.item.payload.len() as u64);
        }
        let mut state = self.lock();
        for (item_type, seen) in largest {
            state.types.entry_ref(item_type).or_default().claimed(seen);
        }
    }

    /// Takes an item in hand.
    pub(crate) fn take(
        self: &Arc<Self>,
        served_type: &Arc<ServedType>,
        claim: &Claim,
        permit_freed: &Arc<Notify>,
    ) -> ClaimPermit {
        let bytes = claim.item.payload.len() as u64;
        let mut state = self.lock();
        state.items += 1;
        state.bytes += bytes;
        state.types.entry_ref(served_type.item_type.as_str()).or_default().items += 1;
        let (served_type, permit_freed) = (Arc::clone(served_type), Arc::clone(permit_freed));
        ClaimPermit { shares: Arc::clone(self), served_type, bytes, permit_freed }
    }

    fn lock(&self) -> MutexGuard<'_, HandState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClaimPermit {
    fn drop(&mut self) {
        {
            let mut state = self.shares.lock();
            state.items -= 1;
            state.bytes -= self.bytes;
            if let Some(known) = state.types.get_mut(&self.served_type.item_type) {
                known.items -= 1;
            }
        }
        // Afterwards, so that the loop finds the room.
        self.permit_freed.notify_one();
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use outbox_item::{ItemId, Millis, NewItem};
    use outbox_store::ClaimToken;

    use super::*;

    const MIB: usize = 1 << 20;

    fn served(item_type: &str) -> Arc<ServedType> {
        Arc::new(ServedType::new(item_type))
    }

    fn claim(item_type: &str, bytes: usize) -> Claim {
        let item = NewItem::new(item_type, "k", vec![0; bytes]).into_item(ItemId::new(1), Millis::default());
        Claim { item, token: ClaimToken::random() }
    }

    fn take(shares: &Arc<ClaimShares>, of: &Arc<ServedType>, bytes: usize, count: usize) -> Vec<ClaimPermit> {
        let claims = vec![claim(&of.item_type, bytes); count];
        shares.claimed(&claims);
        claims.iter().map(|claim| shares.take(of, claim, &Arc::default())).collect()
    }

    /// The limit in all, and that of each type.
    fn limits(shares: &ClaimShares, types: &[Arc<ServedType>], most: usize) -> (u32, Vec<u32>) {
        let limits = shares.limits(types, most);
        (limits.total, limits.of_types)
    }

    #[test]
    fn a_type_without_items_in_hand_may_have_some_whatever_another_has() {
        let types = [served("slow"), served("quick")];
        let shares = ClaimShares::new(64, 1 << 30);
        assert_eq!(limits(&shares, &types[..1], 74), (74, vec![74]));
        assert_eq!(limits(&shares, &types, 64), (64, vec![64, 64]));
        let slow = take(&shares, &types[0], 10, 60);
        assert_eq!(limits(&shares, &types, 64), (8, vec![4, 8]));
        let more = take(&shares, &types[0], 10, 460);
        assert_eq!(limits(&shares, &types, 64), (8, vec![0, 8]), "also of items that were claimed ahead");
        assert_eq!(shares.limits(&types, 64).at_once, [0, 8]);
        let quick = take(&shares, &types[1], 10, 8);
        assert_eq!(limits(&shares, &types, 64), (0, vec![0, 0]));
        drop((slow, more, quick));
        assert_eq!((shares.in_hand(), limits(&shares, &types, 64)), (0, (64, vec![64, 64])));
    }

    #[test]
    fn claims_stop_when_the_payloads_in_hand_have_a_number_of_bytes() {
        let types = [served("large"), served("small")];
        let shares = ClaimShares::new(64, 64 << 20);
        assert_eq!(limits(&shares, &types[..1], 64), (64, vec![16]), "nothing is known of their size");
        let held = take(&shares, &types[0], 3 * MIB, 16);
        assert_eq!(limits(&shares, &types[..1], 64).1, [5], "16 MiB are left, and the largest had 3 MiB");
        let more = take(&shares, &types[0], 3 * MIB, 6);
        assert_eq!(limits(&shares, &types, 64).1, [0, 1], "a type with nothing in hand may have one");
        drop((held, more));
        for _ in 0..64 {
            drop(take(&shares, &types[0], 100, 1));
        }
        assert_eq!(limits(&shares, &types[..1], 64).1, [64], "what was seen long ago has faded");
    }

    #[test]
    fn after_three_claims_of_small_payloads_a_worker_claims_many() {
        let small = served("small");
        let shares = ClaimShares::new(64, 64 << 20);
        let of_claims = std::iter::repeat_with(|| {
            let limit = limits(&shares, std::slice::from_ref(&small), 600).1[0];
            drop(take(&shares, &small, 200, limit as usize));
            limit
        });
        assert_eq!(of_claims.take(4).collect::<Vec<_>>(), [16, 64, 256, 600]);
    }
}
