//! How much one group may hold, so that its transaction is short against the limits of the server.
//!
//! It weighs requests and does not know how they are written.

use std::sync::atomic::{AtomicUsize, Ordering};

use outbox_core::{HostWrites, Settlement, StateChange};
use outbox_store::{ClaimRef, SettleRequest};

/// The weight of a full group. A completion of which nothing must be read has the weight 1.
const WEIGHT_MAX: usize = 512;
/// A completion of an item with an ordering key or with earlier attempts: it takes locks and look-ups.
const LINKED_WEIGHT: usize = 4;
/// Any other settlement: it takes statements of its own, or rows in several tables.
const DECIDED_WEIGHT: usize = 16;
/// Bytes that weigh 1: a full group has at most 8 MiB.
const BYTES_PER_WEIGHT: usize = (8 << 20) / WEIGHT_MAX;

/// The largest weight of a group: it shrinks when groups take too long, and grows while they do not.
pub(crate) struct GroupSize {
    weight_max: AtomicUsize,
}

impl Default for GroupSize {
    fn default() -> Self {
        Self { weight_max: AtomicUsize::new(WEIGHT_MAX) }
    }
}

impl GroupSize {
    pub(crate) fn weight_max(&self) -> usize {
        self.weight_max.load(Ordering::Relaxed)
    }

    /// Records that a group was committed.
    pub(crate) fn grow(&self) {
        self.weight_max.store((self.weight_max() * 2).min(WEIGHT_MAX), Ordering::Relaxed);
    }

    /// Records that a group took longer than it may.
    pub(crate) fn shrink(&self) {
        self.weight_max.store((self.weight_max() / 2).max(1), Ordering::Relaxed);
    }
}

/// What a settlement adds to its group.
pub(crate) fn weight(claim: &ClaimRef, settled: &SettleRequest) -> usize {
    let (kind, bytes) = match &settled.settlement {
        Settlement::Done { result, writes } => {
            let kind = match (writes.is_empty(), claim.is_plain) {
                (true, true) => 1,
                (true, false) => LINKED_WEIGHT,
                (false, _) => DECIDED_WEIGHT,
            };
            (kind, result.as_ref().map_or(0, Vec::len) + bytes_of(writes))
        }
        _ => (DECIDED_WEIGHT, settled.exchanges.as_ref().map_or(0, Vec::len)),
    };
    kind + bytes / BYTES_PER_WEIGHT
}

fn bytes_of(writes: &HostWrites) -> usize {
    let states = writes.state.iter().map(|state| match &state.change {
        StateChange::Put(value) => value.len(),
        StateChange::None | StateChange::Delete => 0,
    });
    states.chain(writes.followups.iter().map(|item| item.payload.len())).sum()
}

#[cfg(test)]
mod tests {
    use outbox_item::ItemId;
    use outbox_store::ClaimToken;

    use super::*;

    fn completed(bytes: usize) -> usize {
        let settlement = Settlement::Done { result: Some(vec![0; bytes]), writes: HostWrites::default() };
        let settled =
            SettleRequest { settlement, maybe_executed: false, stderr: None, handler_digest: None, exchanges: None };
        weight(&ClaimRef { id: ItemId::new(1), token: ClaimToken::new(1), is_plain: true }, &settled)
    }

    #[test]
    fn a_full_group_has_many_small_completions_or_a_few_mebibytes() {
        assert_eq!(completed(100), 1);
        assert_eq!(WEIGHT_MAX / completed(1 << 20), 7);
    }

    #[test]
    fn groups_become_smaller_when_they_take_too_long_and_larger_again() {
        let size = GroupSize::default();
        size.shrink();
        assert_eq!(size.weight_max(), WEIGHT_MAX / 2);
        (0..20).for_each(|_| size.shrink());
        assert_eq!(size.weight_max(), 1);
        (0..20).for_each(|_| size.grow());
        assert_eq!(size.weight_max(), WEIGHT_MAX);
    }
}
