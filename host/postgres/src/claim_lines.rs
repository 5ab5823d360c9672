//! The lines of a claim: for each type the items without a fairness key and, where they share the type, those of each
//! key that is served.
//!
//! It knows how much each line has got and may get, and runs no statement.

use std::time::Duration;

use outbox_item::ItemId;
use outbox_store::engine::fair_keys::{KeyRooms, LastServed, NO_KEY, deal};
use outbox_store::{ClaimRequest, ClaimTerms};

use crate::fair_keys::DueKeys;

/// Items of which a claim takes the first.
pub(crate) struct Line {
    /// The place of their type in the request.
    pub(crate) place: usize,
    /// Their fairness key; empty for items without one.
    pub(crate) key: String,
    /// How many may be claimed of the key.
    room: u32,
    /// Those that this call has put into the type's lease.
    pub(crate) leased: Vec<ItemId>,
    /// How many of these are dead-lettered instead of being handled, so that others take their places.
    refused: u32,
    /// Whether the queue has nothing more of them.
    pub(crate) is_drained: bool,
    /// Whether they are looked at in full, after a bounded look that found less than its share.
    pub(crate) is_followed: bool,
    /// Whether the last claim found none of them, and this one has found none yet: it takes one at most to see whether
    /// there are some again.
    is_quiet: bool,
}

impl Line {
    fn new(place: usize, key: String, room: u32) -> Self {
        let (is_drained, is_followed, is_quiet) = (false, false, false);
        Self { place, key, room, leased: Vec::new(), refused: 0, is_drained, is_followed, is_quiet }
    }

    fn wanted(&self) -> u32 {
        let claimed = count(&self.leased).saturating_sub(self.refused);
        let room = if self.is_quiet { self.room.min(1) } else { self.room };
        if self.is_drained { 0 } else { room.saturating_sub(claimed) }
    }

    /// Adds what a look found of them, which may take `share` at most. After a bounded look that found less, a full one
    /// follows, except of a quiet line: of that the next full look of all lines finds what came late.
    pub(crate) fn add(&mut self, found: Vec<ItemId>, share: u32, is_bounded: bool) {
        self.is_quiet &= found.is_empty();
        self.is_drained = count(&found) < share;
        if self.is_drained && is_bounded && self.key.is_empty() && !self.is_quiet {
            self.is_drained = self.is_followed;
            self.is_followed = true;
        }
        self.leased.extend(found);
    }
}

/// The lines of all types of a request.
pub(crate) struct Lines {
    /// Those without a key are first, at the places of their types.
    pub(crate) all: Vec<Line>,
    /// The lines of the type at this place of the request.
    rings: Vec<Ring>,
}

/// The lines of one type.
struct Ring {
    /// In the order in which they are served.
    lines: Vec<usize>,
    /// The line that got the last item.
    last: Option<usize>,
    /// What is known of its keys, where they share the type.
    keys: Option<DueKeys>,
}

impl Lines {
    /// A line for each type. `quiet` says of which the last claim found nothing.
    pub(crate) fn new(quiet: &[bool]) -> Self {
        let line = |(place, is_quiet): (usize, &bool)| {
            let line = Line::new(place, NO_KEY.to_owned(), u32::MAX);
            Line { is_quiet: *is_quiet, ..line }
        };
        let rings = (0..quiet.len()).map(|place| Ring { lines: vec![place], last: None, keys: None }).collect();
        Self { all: quiet.iter().enumerate().map(line).collect(), rings }
    }

    /// Divides the type at this place into the lines of its keys.
    pub(crate) fn divide(&mut self, place: usize, due: DueKeys) {
        self.all[place].is_quiet = false;
        let lines = due.keys.iter().map(|key| {
            if key == NO_KEY {
                return place;
            }
            self.all.push(Line::new(place, key.clone(), due.rooms.room(key)));
            self.all.len() - 1
        });
        let lines = lines.collect();
        self.rings[place] = Ring { lines, last: None, keys: Some(due) };
    }

    /// The items that are leased, of all types.
    pub(crate) fn leased(&self) -> impl Iterator<Item = &ItemId> {
        self.all.iter().flat_map(|line| &line.leased)
    }

    /// The lines that share in a round and are not quiet.
    pub(crate) fn busy(&self, shares: &[u32]) -> Vec<usize> {
        (0..shares.len()).filter(|line| shares[*line] > 0 && !self.all[*line].is_quiet).collect()
    }

    /// The places that this call kept for lines that are still quiet. No other line gets them: that would take a further
    /// look at the queue for a few items.
    pub(crate) fn kept_for_quiet(&self) -> u32 {
        count(self.all.iter().filter(|line| line.is_quiet && line.is_drained))
    }

    /// Whether this call found nothing of the type at this place, or something; `None` when it has not looked.
    pub(crate) fn is_quiet(&self, place: usize) -> Option<bool> {
        let line = &self.all[place];
        let is_known = line.is_drained || !line.leased.is_empty();
        (is_known && !self.is_shared(place)).then_some(line.leased.is_empty())
    }

    /// Notes that an item is dead-lettered instead of being handled.
    pub(crate) fn refuse(&mut self, id: ItemId) {
        if let Some(line) = self.all.iter_mut().find(|line| line.leased.contains(&id)) {
            line.refused += 1;
        }
    }

    /// How many items of the type at this place are leased.
    pub(crate) fn leased_of(&self, place: usize) -> u32 {
        self.all.iter().filter(|line| line.place == place).map(|line| count(&line.leased)).sum()
    }

    /// Whether fairness keys share the type at this place.
    pub(crate) fn is_shared(&self, place: usize) -> bool {
        self.rings[place].keys.is_some()
    }

    /// How many more items of the type at this place its lines may get.
    pub(crate) fn wanted(&self, place: usize) -> u32 {
        let wanted = self.rings[place].lines.iter().map(|line| self.all[*line].wanted());
        wanted.fold(0, u32::saturating_add)
    }

    /// Deals what each type may get out among its lines. Returns the share of each line.
    pub(crate) fn deal(&mut self, of_types: &[u32]) -> Vec<u32> {
        let mut shares = vec![0; self.all.len()];
        for (ring, share) in self.rings.iter_mut().zip(of_types) {
            let wanted: Vec<_> = ring.lines.iter().map(|line| self.all[*line].wanted()).collect();
            let dealt = deal(*share, &wanted);
            ring.last = dealt.last.map(|nth| ring.lines[nth]).or(ring.last);
            for (line, share) in ring.lines.iter().zip(dealt.of_keys) {
                shares[*line] = share;
            }
        }
        shares
    }

    /// Notes which keys were served last. Returns how long until a further claim may find items of keys that this one did
    /// not come to, or of keys that have used up their rates.
    pub(crate) fn record_served(&self, request: &ClaimRequest, last_served: &LastServed) -> Option<Duration> {
        let served = |(place, terms): (usize, &ClaimTerms)| self.record_of(place, &terms.item_type, last_served);
        request.types.iter().enumerate().filter_map(served).min()
    }

    fn record_of(&self, place: usize, item_type: &str, last_served: &LastServed) -> Option<Duration> {
        let ring = &self.rings[place];
        let keys = ring.keys.as_ref()?;
        let looked_at = keys.cut_at.as_ref().filter(|_| self.wanted(place) == 0);
        let more = match looked_at {
            Some(cut_at) if self.leased_of(place) == 0 => Some(last_served.found_nothing(item_type, cut_at)),
            _ => {
                let served = looked_at.or_else(|| ring.last.map(|line| &self.all[line].key));
                if let Some(key) = served {
                    last_served.record(item_type, key);
                }
                (keys.has_more && self.wanted(place) == 0 && served.is_some()).then_some(Duration::ZERO)
            }
        };
        more.into_iter().chain(keys.rooms.until_next_token()).min()
    }

    /// What may be claimed of the keys of the type at this place, where they share it.
    pub(crate) fn rooms(&self, place: usize) -> Option<&KeyRooms> {
        self.rings[place].keys.as_ref().map(|keys| &keys.rooms)
    }
}

/// The number of items.
pub(crate) fn count<T>(items: impl IntoIterator<Item = T>) -> u32 {
    u32::try_from(items.into_iter().count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use outbox_core::{CrashBudget, KeyLimits, OnDead, SuspectRoom};
    use outbox_item::Millis;
    use outbox_store::{ClaimToken, SuspectTerms};

    use super::*;

    fn due(keys: &[&str], has_more: bool) -> DueKeys {
        let claimed = HashMap::from([("busy".to_owned(), 2)]);
        let limits = KeyLimits { concurrency: Some(3), rate: None };
        let rooms = KeyRooms::new(limits, Millis::new(1), claimed);
        DueKeys { keys: keys.iter().map(|key| (*key).to_owned()).collect(), cut_at: None, has_more, rooms }
    }

    #[test]
    fn what_a_type_may_get_is_dealt_out_in_the_order_of_the_keys() {
        let mut lines = Lines::new(&[false, false]);
        lines.divide(1, due(&["b", NO_KEY, "busy"], false));
        assert_eq!(lines.deal(&[7, 5]), [7, 2, 2, 1], "type, items without a key, then the keys");
        assert!(lines.is_shared(1) && !lines.is_shared(0));
        lines.all[2].leased = vec![ItemId::new(1), ItemId::new(2)];
        lines.all[1].is_drained = true;
        assert_eq!(lines.deal(&[0, 9]), [0, 0, 1, 1], "three of a key at a time");
        assert_eq!((lines.leased_of(1), lines.wanted(1)), (2, 2));
        lines.refuse(ItemId::new(2));
        assert_eq!(lines.wanted(1), 3, "another item of the key takes the place of one that is not handled");
    }

    fn ids(count: i64) -> Vec<ItemId> {
        (0..count).map(ItemId::new).collect()
    }

    #[test]
    fn a_quiet_type_gets_one_place_until_an_item_of_it_is_found() {
        let mut lines = Lines::new(&[false, true]);
        assert_eq!((lines.wanted(0), lines.wanted(1)), (u32::MAX, 1));
        let shares = lines.deal(&[9, 1]);
        assert_eq!(lines.busy(&shares), [0]);
        lines.all[1].add(ids(1), 1, true);
        assert_eq!((lines.busy(&shares), lines.kept_for_quiet()), (vec![0, 1], 0));
        assert_eq!((lines.wanted(1), lines.is_quiet(1)), (u32::MAX - 1, Some(false)));
    }

    #[test]
    fn a_quiet_type_of_which_nothing_is_found_keeps_its_place_in_this_claim() {
        let mut lines = Lines::new(&[false, true]);
        assert_eq!(lines.is_quiet(1), None, "not looked at yet");
        lines.all[1].add(ids(0), 1, true);
        assert_eq!((lines.wanted(1), lines.kept_for_quiet(), lines.is_quiet(1)), (0, 1, Some(true)));
        lines.all[0].add(ids(0), 9, true);
        assert_eq!(lines.is_quiet(0), None, "a full look follows the bounded one");
        lines.all[0].add(ids(0), 9, true);
        assert_eq!((lines.is_quiet(0), lines.kept_for_quiet()), (Some(true), 1));
    }

    fn request() -> ClaimRequest {
        let terms = ClaimTerms {
            item_type: "mail".into(),
            token: ClaimToken::new(1),
            limit: 9,
            lease: Duration::from_mins(1),
            max_retries: 1,
            concurrency: None,
            rate: None,
            per_key: KeyLimits::default(),
            streak: 1,
            on_dead: OnDead::Skip,
        };
        let suspects = SuspectTerms::new(SuspectRoom::None, CrashBudget::default());
        ClaimRequest { claimed_by: "pod".into(), limit: 9, types: vec![terms], suspects }
    }

    /// The wait and the last key after a claim that drained all lines; `leased` says whether it got anything.
    fn after(cut_at: Option<&str>, leased: bool) -> (Option<Duration>, String) {
        let (mut lines, served) = (Lines::new(&[false]), LastServed::default());
        lines.divide(0, DueKeys { cut_at: cut_at.map(str::to_owned), ..due(&["a"], cut_at.is_some()) });
        lines.deal(&[1]);
        lines.all.iter_mut().for_each(|line| line.is_drained = true);
        lines.all[1].leased = leased.then(|| ItemId::new(1)).into_iter().collect();
        (lines.record_served(&request(), &served), served.last("mail"))
    }

    #[test]
    fn a_claim_that_did_not_look_at_all_keys_is_followed_by_another_that_begins_there() {
        assert_eq!(after(Some("m"), false), (Some(Duration::from_millis(20)), "m".into()));
        assert_eq!(after(Some("m"), true), (Some(Duration::ZERO), "m".into()));
        assert_eq!(after(None, true), (None, "a".into()));
    }
}
