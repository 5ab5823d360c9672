//! How far back claims look into the queue, and of which types they expect nothing.
//!
//! Rows that claims have taken lie at the start of the index of ready items until the server may remove them, which a
//! snapshot that stays open prevents. A claim that begins behind them does not read them again; it also misses items
//! that were committed late, or came back. So full looks alternate with bounded ones as soon as they cost something.
//! This file knows no statement. Its callers tell it the time.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use outbox_item::Millis;
use outbox_store::{Claim, ClaimRequest};

/// A bounded look begins this long before the due time of the last item that was claimed of the type.
const SLACK: Duration = Duration::from_millis(500);
/// A full look that takes less than this is always made, and so is one that takes less than [`CHEAP_PER_ITEM`] for each
/// item that it finds.
const CHEAP: Duration = Duration::from_micros(500);
/// See [`CHEAP`]. An item for which no dead row is read takes two to three microseconds.
const CHEAP_PER_ITEM: Duration = Duration::from_micros(5);
/// Looks are bounded after this number of full looks in a row that took longer: the first one in a session also makes
/// the plans of its statements.
const DEAR_LOOKS: u32 = 2;
/// A full look that takes less than this also follows a bounded look that found less than it may take.
const BEARABLE: Duration = Duration::from_millis(20);
/// The time between two other full looks, as a multiple of the time that one takes.
const FULL_LOOK_PART: u32 = 20;
/// The longest time without a full look.
const BOUNDED_MAX: Duration = Duration::from_secs(30);
/// Places that a claim keeps for quiet types, as a part of all: where they were more, no type counts as quiet.
const QUIET_PART: usize = 16;
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
    /// Full looks in a row that were not cheap.
    dear_looks: u32,
    /// How looks begin until a full one is due.
    bounded: Option<Look>,
    /// The types of which the last claim found nothing.
    quiet: HashSet<String>,
}

/// How far back one claim looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// At everything.
    Full,
    /// Only at what was due last.
    Bounded {
        /// When a full look is made again.
        full_again_at: Instant,
        /// Whether a full look follows when this one finds less than it may take.
        is_followed: bool,
    },
}

impl Look {
    /// How long until a claim may find items that this look left out.
    pub(crate) fn full_again_in(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Full => None,
            Self::Bounded { full_again_at, .. } => Some(full_again_at.saturating_duration_since(now)),
        }
    }
}

impl Looks {
    /// The look of a claim at `now`.
    pub(crate) fn begin(&self, now: Instant) -> Look {
        let bounded = self.known.lock().unwrap_or_else(PoisonError::into_inner).bounded;
        bounded.filter(|look| look.full_again_in(now) > Some(Duration::ZERO)).unwrap_or(Look::Full)
    }

    /// The earliest due time that a look at the type considers.
    pub(crate) fn lowest(&self, look: Look, item_type: &str) -> Millis {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let lowest = known.lowest.get(item_type).copied().filter(|_| look != Look::Full);
        lowest.unwrap_or(EVERYTHING)
    }

    /// Of which types of the request the last claim found nothing, in its order. A host may serve many types of which few
    /// have items: a claim that divided its limit among all would look at the queue once more for what those leave.
    pub(crate) fn quiet(&self, request: &ClaimRequest) -> Vec<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet: Vec<_> = request.types.iter().map(|terms| known.quiet.contains(&terms.item_type)).collect();
        let places = quiet.iter().filter(|is_quiet| **is_quiet).count();
        let are_few = places * QUIET_PART <= usize::try_from(request.limit).unwrap_or(usize::MAX);
        if are_few { quiet } else { vec![false; quiet.len()] }
    }

    /// Records of which types of the request a claim found nothing; `is_quiet` is `None` for those it did not look at.
    pub(crate) fn record_quiet(&self, request: &ClaimRequest, is_quiet: impl Fn(usize) -> Option<bool>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, terms) in request.types.iter().enumerate() {
            match is_quiet(place) {
                Some(true) if !known.quiet.contains(&terms.item_type) => {
                    known.quiet.insert(terms.item_type.clone());
                }
                Some(false) => {
                    known.quiet.remove(&terms.item_type);
                }
                _ => {}
            }
        }
    }

    /// Records how long a full look took and how many items it found.
    pub(crate) fn record_full(&self, took: Duration, found: u32, now: Instant) {
        let is_cheap = took < CHEAP.max(CHEAP_PER_ITEM * found);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.dear_looks = if is_cheap { 0 } else { known.dear_looks.saturating_add(1) };
        let (full_again_at, is_followed) = (full_again_at(took, now), took < BEARABLE);
        known.bounded = (known.dear_looks >= DEAR_LOOKS).then_some(Look::Bounded { full_again_at, is_followed });
    }

    /// Records that the server ended a claim after so long, perhaps for its look.
    pub(crate) fn record_timeout(&self, took: Duration, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.dear_looks = DEAR_LOOKS;
        known.bounded = Some(Look::Bounded { full_again_at: full_again_at(took, now), is_followed: false });
    }

    /// Records what was claimed, after the commit.
    pub(crate) fn record_claims(&self, claims: &[Claim]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latest: HashMap<&str, Millis> = HashMap::new();
        // Those with a fairness key are found by the key, and their looks are not bounded.
        for Claim { item, .. } in claims.iter().filter(|claim| claim.item.fairness_key.is_none()) {
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

fn full_again_at(took: Duration, now: Instant) -> Instant {
    now + (took * FULL_LOOK_PART).min(BOUNDED_MAX)
}

#[cfg(test)]
mod tests {
    use outbox_item::{Item, ItemId, NewItem};
    use outbox_store::ClaimToken;

    use super::*;

    const DEAR: Duration = Duration::from_millis(30);

    fn claim(item_type: &str, due: i64) -> Claim {
        let item = NewItem::new(item_type, "k", "").into_item(ItemId::new(1), Millis::default());
        Claim { item: Item { available_at: Millis::new(due), ..item }, token: ClaimToken::new(1) }
    }

    #[test]
    fn a_full_look_that_takes_long_again_is_made_after_twenty_times_as_long() {
        let (looks, now) = (Looks::default(), Instant::now());
        looks.record_full(DEAR, 5, now);
        assert_eq!(looks.begin(now), Look::Full, "the first one made the plans");
        looks.record_full(DEAR, 5, now);
        let full_again_at = now + DEAR * 20;
        assert_eq!(looks.begin(now), Look::Bounded { full_again_at, is_followed: false });
        assert_eq!(looks.begin(full_again_at), Look::Full);
    }

    #[test]
    fn a_full_look_that_is_bearable_follows_a_bounded_one_that_found_less_than_it_may_take() {
        let (looks, now) = (Looks::default(), Instant::now());
        for _ in 0..2 {
            looks.record_full(DEAR / 3, 5, now);
        }
        assert!(matches!(looks.begin(now), Look::Bounded { is_followed: true, .. }));
    }

    #[test]
    fn a_claim_that_gave_up_is_followed_by_bounded_looks() {
        let (looks, now) = (Looks::default(), Instant::now());
        looks.record_timeout(DEAR, now);
        let full_again_at = now + DEAR * 20;
        assert_eq!(looks.begin(now), Look::Bounded { full_again_at, is_followed: false });
    }

    #[test]
    fn a_full_look_that_costs_little_is_always_made() {
        let (looks, now) = (Looks::default(), Instant::now());
        for _ in 0..2 {
            looks.record_full(DEAR, 5, now);
        }
        looks.record_full(Duration::from_micros(400), 0, now);
        assert_eq!(looks.begin(now), Look::Full);
        for _ in 0..2 {
            looks.record_full(Duration::from_millis(1), 250, now);
        }
        assert_eq!(looks.begin(now), Look::Full, "that many items take their time");
    }

    #[test]
    fn a_bounded_look_begins_a_little_before_the_last_item_that_was_claimed_of_the_type() {
        let looks = Looks::default();
        let bounded = Look::Bounded { full_again_at: Instant::now(), is_followed: true };
        looks.record_claims(&[claim("mail", 9_000), claim("mail", 8_000), claim("sms", 700)]);
        let lowest = |look, item_type| looks.lowest(look, item_type).get();
        assert_eq!((lowest(bounded, "mail"), lowest(bounded, "sms")), (8_500, 200));
        assert_eq!((lowest(bounded, "new"), lowest(Look::Full, "mail")), (i64::MIN, i64::MIN));
    }
}
