//! How the fairness keys of a type share what a claim may take of it. Pure, but for the memory of which key was served
//! last.
//!
//! The items of a type without a fairness key are served like those of one key, the empty text. Which keys have
//! items that are due, and what was claimed of each, are found by the engine.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outbox_core::KeyLimits;
use outbox_item::Millis;

use crate::claim::Claim;
use crate::engine::token_bucket::{available_tokens, until_next_token};

/// The key as which items without a fairness key are served.
pub const NO_KEY: &str = "";

/// The most keys that one claim looks at in a type, so that the transaction stays short: some milliseconds. The next
/// claim begins where it ended.
pub const LOOKED_AT_MAX: u32 = 250;

/// The most due items whose keys a claim takes, in the order of their due times, when there are more keys than it looks
/// at: so an item that is due does not wait for a look at all keys that wait for their time.
pub const DUE_MAX: u32 = 250;

/// The least number of keys that a claim looks for, whatever it may take: other claims may take the first ones.
const KEYS_MIN: u32 = 16;

/// Wait before the next claim after one that did not look at all keys and found none whose items it may take. It doubles
/// with each such claim in a row: what is due is paused or at its limits.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// The longest such wait.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The most types whose last key a process remembers.
const REMEMBERED_MAX: usize = 10_000;

/// Which key of each type was served last, in this process. Each process has an order of its own, which begins at
/// random: a key waits for at most one round of the others in each of them, and no row of a table changes with every
/// claim.
#[derive(Debug, Default)]
pub struct LastServed(Mutex<HashMap<String, Place>>);

/// How far a process has come round the keys of a type.
#[derive(Debug)]
struct Place {
    last: String,
    /// Claims in a row that found nothing and did not look at all keys.
    empty_looks: u32,
}

impl LastServed {
    /// The key after which the next claim of the type begins.
    pub fn last(&self, item_type: &str) -> String {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= REMEMBERED_MAX && !places.contains_key(item_type) {
            places.clear();
        }
        let random = || Place { last: [(); 2].map(|()| fastrand::alphanumeric()).iter().collect(), empty_looks: 0 };
        places.entry(item_type.to_owned()).or_insert_with(random).last.clone()
    }

    /// Notes which key of the type was served last.
    pub fn record(&self, item_type: &str, key: &str) {
        self.set(item_type, key, |_| 0);
    }

    /// Notes that a claim looked at the keys of the type up to this one and found nothing. Returns the wait before the
    /// next claim.
    pub fn found_nothing(&self, item_type: &str, cut_at: &str) -> Duration {
        let looks = self.set(item_type, cut_at, |looks| looks.saturating_add(1));
        LOOK_PAUSE.saturating_mul(2_u32.saturating_pow(looks.saturating_sub(1))).min(LOOK_PAUSE_MAX)
    }

    fn set(&self, item_type: &str, key: &str, empty_looks: impl FnOnce(u32) -> u32) -> u32 {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = places.get(item_type).map_or(0, |place| place.empty_looks);
        let place = Place { last: key.to_owned(), empty_looks: empty_looks(before) };
        let looks = place.empty_looks;
        places.insert(item_type.to_owned(), place);
        looks
    }
}

/// How many keys with due items to look for, for a claim of up to `limit` items.
pub fn keys_wanted(limit: u32) -> u32 {
    limit.clamp(KEYS_MIN, LOOKED_AT_MAX)
}

/// What each of several keys gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// In the order of the keys.
    pub of_keys: Vec<u32>,
    /// The place of the key that got the last item; `None` when nobody got any.
    pub last: Option<usize>,
}

/// Deals `limit` items out one by one, to the keys in their order, round after round. None gets more than its room.
pub fn deal(limit: u32, rooms: &[u32]) -> Shares {
    let mut shares = Shares { of_keys: vec![0; rooms.len()], last: None };
    let mut left = limit;
    loop {
        let before = left;
        for (place, room) in rooms.iter().enumerate() {
            if left > 0 && shares.of_keys[place] < *room {
                shares.of_keys[place] += 1;
                shares.last = Some(place);
                left -= 1;
            }
        }
        if left == 0 || left == before {
            return shares;
        }
    }
}

/// Brings the claims of each type into the order in which keys are served: the first of each key, then the second of each,
/// and so on.
/// Suspects stay in front. Claims of one key keep their order, and so do all without a fairness key among them.
pub fn interleave(claims: &mut [Claim]) {
    if claims.iter().all(|claim| claim.item.fairness_key.is_none()) {
        return;
    }
    let (mut types, mut counts) = (HashMap::new(), HashMap::new());
    let ranks: Vec<_> = claims
        .iter()
        .map(|Claim { item, .. }| {
            let next = types.len();
            let of_type = *types.entry(item.item_type.clone()).or_insert(next);
            let nth = counts.entry((of_type, item.fairness_key.clone())).or_insert(0_u32);
            *nth += 1;
            (item.id, (item.losses == 0, of_type, *nth))
        })
        .collect();
    let ranks: HashMap<_, _> = ranks.into_iter().collect();
    claims.sort_by_key(|claim| ranks[&claim.item.id]);
}

/// What may still be claimed of each fairness key of one type at one time.
#[derive(Clone, Debug)]
pub struct KeyRooms {
    limits: KeyLimits,
    now: Millis,
    /// By key; keys that are not here have no claims.
    claimed: HashMap<String, u32>,
    /// The buckets of the keys that were looked up, by key: their tokens, and when they had them. All others count as
    /// full.
    buckets: HashMap<String, (f64, Millis)>,
}

impl KeyRooms {
    /// The rooms under these limits at `now`. No bucket has been looked up.
    pub fn new(limits: KeyLimits, now: Millis, claimed: HashMap<String, u32>) -> Self {
        Self { limits, now, claimed, buckets: HashMap::new() }
    }

    /// Notes what the bucket of a key had, and when.
    pub fn look_up(&mut self, key: String, bucket: (f64, Millis)) {
        self.buckets.insert(key, bucket);
    }

    /// How many items may be claimed of the key.
    pub fn room(&self, key: &str) -> u32 {
        if key == NO_KEY {
            return u32::MAX;
        }
        let claimed = self.claimed.get(key).copied().unwrap_or(0);
        let slots = self.limits.concurrency.map_or(u32::MAX, |most| most.saturating_sub(claimed));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
        let tokens = self.tokens(key).map_or(u32::MAX, |tokens| tokens as u32);
        slots.min(tokens)
    }

    /// The known keys of which nothing may be claimed.
    pub fn full(&self) -> Vec<&str> {
        let known = self.claimed.keys().chain(self.buckets.keys()).map(String::as_str);
        let mut full: Vec<_> = known.filter(|key| self.room(key) == 0).collect();
        full.sort_unstable();
        full.dedup();
        full
    }

    /// The tokens that are left of the key after `taken` more claims; `None` without a rate, or a key.
    pub fn tokens_left(&self, key: &str, taken: u32) -> Option<f64> {
        (key != NO_KEY).then(|| self.tokens(key)).flatten().map(|tokens| tokens - f64::from(taken))
    }

    /// How long until one of the keys that were looked up and have used up their rate has a token again; `None` when
    /// none of them has used it up.
    pub fn until_next_token(&self) -> Option<Duration> {
        self.buckets.keys().filter_map(|key| self.until_token_of(key, 0)).min()
    }

    /// How long until the key has a token after `taken` more claims; `None` if it has one.
    pub fn until_token_of(&self, key: &str, taken: u32) -> Option<Duration> {
        let tokens = self.tokens_left(key, taken).filter(|tokens| *tokens < 1.0)?;
        Some(until_next_token(self.limits.rate?, tokens))
    }

    fn tokens(&self, key: &str) -> Option<f64> {
        self.limits.rate.map(|rate| available_tokens(rate, self.buckets.get(key).copied(), self.now))
    }
}

/// The time of last use before which a bucket is full at `now`, whatever it held, so that its row is needed no more.
pub fn full_since(rate: f64, now: Millis) -> Millis {
    // From the lowest level, which is that of a whole bucket below zero.
    let seconds = 2.0 * rate.max(1.0) / rate;
    now.saturating_sub(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use outbox_item::{Item, ItemId, NewItem};

    use super::*;
    use crate::ids::ClaimToken;

    const NOW: Millis = Millis::new(1_000_000);
    const MANY: u32 = u32::MAX;

    #[test]
    fn keys_get_items_one_by_one_and_the_next_claim_goes_on_after_the_last() {
        let dealt = |limit, rooms: &[u32]| {
            let Shares { of_keys, last } = deal(limit, rooms);
            (of_keys, last)
        };
        assert_eq!(dealt(1, &[MANY, MANY]), (vec![1, 0], Some(0)));
        assert_eq!(dealt(3, &[MANY, MANY]), (vec![2, 1], Some(0)), "the next begins with the second");
        assert_eq!(dealt(6, &[MANY, 1, 2]), (vec![3, 1, 2], Some(0)));
        assert_eq!(dealt(9, &[0, 2]), (vec![0, 2], Some(1)));
        assert_eq!(dealt(0, &[MANY]), (vec![0], None));
        assert_eq!(dealt(5, &[]), (vec![], None));
    }

    #[test]
    fn a_process_remembers_the_last_key_of_each_type() {
        let served = LastServed::default();
        let begin = served.last("mail");
        assert_eq!((served.last("mail"), begin.len()), (begin.clone(), 2), "it begins anywhere");
        served.record("mail", "acme");
        served.record("sms", "globex");
        assert_eq!((served.last("mail"), served.last("sms")), ("acme".into(), "globex".into()));
    }

    #[test]
    fn claims_that_find_nothing_among_too_many_keys_become_rare() {
        let served = LastServed::default();
        let waits = ["a", "b", "c"].map(|key| served.found_nothing("mail", key).as_millis());
        assert_eq!((waits, served.last("mail").as_str()), ([20, 40, 80], "c"));
        assert_eq!((0..40).map(|_| served.found_nothing("mail", "d")).max(), Some(LOOK_PAUSE_MAX));
        served.record("mail", "e");
        assert_eq!(served.found_nothing("mail", "f"), LOOK_PAUSE);
    }

    fn claim(id: i64, key: Option<&str>, losses: u32) -> Claim {
        let new = NewItem { fairness_key: key.map(str::to_owned), ..NewItem::new("t", &id.to_string(), "") };
        Claim { item: Item { losses, ..new.into_item(ItemId::new(id), NOW) }, token: ClaimToken::new(1) }
    }

    #[test]
    fn claims_come_key_by_key_and_suspects_in_front() {
        let mut claims = vec![
            claim(1, Some("a"), 0),
            claim(2, Some("a"), 0),
            claim(3, Some("a"), 0),
            claim(4, None, 0),
            claim(5, None, 0),
            claim(6, Some("b"), 0),
            claim(7, Some("a"), 1),
        ];
        interleave(&mut claims);
        let ids: Vec<_> = claims.iter().map(|claim| claim.item.id.get()).collect();
        assert_eq!(ids, [7, 1, 4, 6, 2, 5, 3]);
    }

    fn rooms(limits: KeyLimits) -> KeyRooms {
        let claimed = HashMap::from([("busy".to_owned(), 3), ("free".to_owned(), 1)]);
        let mut rooms = KeyRooms::new(limits, NOW, claimed);
        rooms.look_up("spent".to_owned(), (0.5, NOW));
        rooms.look_up("some".to_owned(), (2.0, NOW));
        rooms
    }

    #[test]
    fn a_key_has_room_up_to_its_concurrency_and_its_rate() {
        let rooms = rooms(KeyLimits { concurrency: Some(3), rate: Some(10.0) });
        let of = ["busy", "free", "spent", "some", "new", NO_KEY].map(|key| rooms.room(key));
        assert_eq!(of, [0, 2, 0, 2, 3, MANY], "items without a key have no limit of a key");
        assert_eq!(rooms.full(), ["busy", "spent"]);
        assert_eq!(rooms.until_next_token(), Some(Duration::from_millis(50)));
        assert_eq!((rooms.tokens_left("some", 2), rooms.tokens_left(NO_KEY, 2)), (Some(0.0), None));
        assert_eq!(rooms.until_token_of("some", 2), Some(Duration::from_millis(100)));
        assert_eq!((rooms.until_token_of("some", 1), rooms.until_token_of(NO_KEY, 9)), (None, None));
    }

    #[test]
    fn without_limits_every_key_has_room() {
        let rooms = rooms(KeyLimits::default());
        assert_eq!((rooms.room("busy"), rooms.full().len(), rooms.until_next_token()), (MANY, 0, None));
        assert_eq!(rooms.tokens_left("some", 1), None);
    }

    #[test]
    fn a_bucket_is_full_after_the_time_that_it_takes_to_fill_from_its_lowest_level() {
        for rate in [10.0, 0.5] {
            let lowest = Some((f64::MIN, full_since(rate, NOW)));
            assert!(available_tokens(rate, lowest, NOW) >= rate.max(1.0), "{rate}");
        }
    }
}
