//! How far back claims look into the queue.
//!
//! Rows that claims have taken lie at the start of the index of ready items until the server may remove them, which a
//! snapshot that stays open prevents. A claim that begins behind them does not read them again; it also misses items
//! that were committed late, or came back. So full looks alternate with bounded ones as soon as they cost something.
//! This file knows no statement. Its callers tell it the time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use outbox_item::Millis;
use outbox_store::Claim;

/// A bounded look begins this long before the due time of the last item that was claimed of the type.
const SLACK: Duration = Duration::from_millis(500);
/// A full look that takes less than this is always made, and so is one that takes less than [`CHEAP_PER_ITEM`] for each
/// item that it finds.
const CHEAP: Duration = Duration::from_millis(2);
/// See [`CHEAP`].
const CHEAP_PER_ITEM: Duration = Duration::from_micros(20);
/// Other full looks take at most one part in so many of the time.
const FULL_LOOK_PART: u32 = 20;
/// A bound that leaves nothing out.
const EVERYTHING: Millis = Millis::new(i64::MIN);

/// What this process knows of its claims.
#[derive(Default)]
pub(crate) struct Looks {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By type.
    lowest: HashMap<String, Millis>,
    /// Until then looks are bounded.
    full_again_at: Option<Instant>,
}

/// How far back one claim looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// At everything.
    Full,
    /// Only at what was due last; a full look is made again at this time.
    Bounded { full_again_at: Instant },
}

impl Look {
    /// How long until a claim may find items that this look left out.
    pub(crate) fn full_again_in(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Full => None,
            Self::Bounded { full_again_at } => Some(full_again_at.saturating_duration_since(now)),
        }
    }
}

impl Looks {
    /// The look of a claim at `now`.
    pub(crate) fn begin(&self, now: Instant) -> Look {
        let full_again_at = self.known.lock().unwrap_or_else(PoisonError::into_inner).full_again_at;
        full_again_at.filter(|at| *at > now).map_or(Look::Full, |full_again_at| Look::Bounded { full_again_at })
    }

    /// The earliest due time that a look at the type considers.
    pub(crate) fn lowest(&self, look: Look, item_type: &str) -> Millis {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let lowest = known.lowest.get(item_type).copied().filter(|_| look != Look::Full);
        lowest.unwrap_or(EVERYTHING)
    }

    /// Records that a full look took so long and found so many items.
    pub(crate) fn record_full(&self, took: Duration, found: u32, now: Instant) {
        let is_cheap = took < CHEAP.max(CHEAP_PER_ITEM * found);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.full_again_at = (!is_cheap).then(|| now + took * FULL_LOOK_PART);
    }

    /// Records what was claimed, after the commit.
    pub(crate) fn record_claims(&self, claims: &[Claim]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latest: HashMap<&str, Millis> = HashMap::new();
        for Claim { item, .. } in claims {
            let due = latest.entry(&item.item_type).or_insert(item.available_at);
            *due = item.available_at.max(*due);
        }
        for (item_type, due) in latest {
            let lowest = due.saturating_sub(SLACK);
            match known.lowest.get_mut(item_type) {
                Some(known) => *known = lowest,
                None => drop(known.lowest.insert(item_type.to_owned(), lowest)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use outbox_item::{Item, ItemId, NewItem};
    use outbox_store::ClaimToken;

    use super::*;

    const DEAR: Duration = Duration::from_millis(10);

    fn claim(item_type: &str, due: i64) -> Claim {
        let item = NewItem::new(item_type, "k", "").into_item(ItemId::new(1), Millis::default());
        Claim { item: Item { available_at: Millis::new(due), ..item }, token: ClaimToken::new(1) }
    }

    #[test]
    fn a_full_look_that_takes_long_is_made_again_after_twenty_times_as_long() {
        let (looks, now) = (Looks::default(), Instant::now());
        assert_eq!(looks.begin(now), Look::Full, "the first");
        looks.record_full(DEAR, 5, now);
        let full_again_at = now + DEAR * 20;
        assert_eq!(looks.begin(now), Look::Bounded { full_again_at });
        assert_eq!(looks.begin(full_again_at), Look::Full);
    }

    #[test]
    fn a_full_look_that_costs_little_is_always_made() {
        let (looks, now) = (Looks::default(), Instant::now());
        looks.record_full(DEAR, 5, now);
        looks.record_full(Duration::from_millis(1), 0, now);
        assert_eq!(looks.begin(now), Look::Full);
        looks.record_full(Duration::from_millis(4), 250, now);
        assert_eq!(looks.begin(now), Look::Full, "that many items take their time");
    }

    #[test]
    fn a_bounded_look_begins_a_little_before_the_last_item_that_was_claimed_of_the_type() {
        let (looks, full_again_at) = (Looks::default(), Instant::now());
        let bounded = Look::Bounded { full_again_at };
        looks.record_claims(&[claim("mail", 9_000), claim("mail", 8_000), claim("sms", 700)]);
        let lowest = |look, item_type| looks.lowest(look, item_type).get();
        assert_eq!((lowest(bounded, "mail"), lowest(bounded, "sms")), (8_500, 200));
        assert_eq!((lowest(bounded, "new"), lowest(Look::Full, "mail")), (i64::MIN, i64::MIN));
    }
}
