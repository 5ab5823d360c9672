//! Writes rates in words, and judges which of them hold claims back.
//!
//! This file reads nothing: the engines find the buckets and the items that are due.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_item::Millis;

use crate::engine::token_bucket::{is_of_future, until_next_token};

/// The most due items of a type whose fairness keys [`Inspect::reached_rates`](crate::Inspect::reached_rates) looks at.
pub const DUE_KEYS_LOOKED_AT: u32 = 1_000;

/// How long after it has a token again a type or a key still counts as held back by its rate: until a worker has come to
/// it.
const CLAIMED_WITHIN: Duration = Duration::from_mins(1);

/// A rate in the unit in which it is no fraction, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateText {
    number: String,
    /// The unit as a manifest writes it, and in words.
    unit: (&'static str, &'static str),
}

impl RateText {
    /// The rate of so many items in each second.
    pub fn of(per_second: f64) -> Self {
        const UNITS: [(f64, (&str, &str)); 3] =
            [(1.0, ("s", "a second")), (60.0, ("m", "a minute")), (3_600.0, ("h", "an hour"))];
        let whole = UNITS.into_iter().find(|(seconds, _)| per_second * seconds >= 1.0);
        let (seconds, unit) = whole.unwrap_or(UNITS[2]);
        let number = format!("{:.2}", per_second * seconds);
        Self { number: number.trim_end_matches('0').trim_end_matches('.').to_owned(), unit }
    }

    /// As a manifest writes it: `5/h`.
    pub fn short(&self) -> String {
        format!("{}/{}", self.number, self.unit.0)
    }

    /// As people say it: `5 an hour`.
    pub fn in_words(&self) -> String {
        format!("{} {}", self.number, self.unit.1)
    }
}

/// The token bucket of a type or of a fairness key with a rate, as its last claim left it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateBucket {
    /// The tokens.
    pub tokens: f64,
    /// When it had them.
    pub filled_at: Millis,
    /// How many flow in each second; `None` where a version before wrote the row.
    pub per_second: Option<f64>,
}

impl RateBucket {
    /// Whether the rate holds due items back at `now`. A bucket that was filled before the clock was set back does not:
    /// claims take it as full.
    pub fn is_used_up(&self, now: Millis) -> bool {
        let refill = self.per_second.map_or(Duration::ZERO, |rate| until_next_token(rate, self.tokens));
        let is_held_back = self.tokens < 1.0 && !is_of_future(self.filled_at, now);
        is_held_back && now.since(self.filled_at) < refill.saturating_add(CLAIMED_WITHIN)
    }
}

/// A type whose claims have a rate, or a rate for each fairness key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RatedType {
    /// The type.
    pub item_type: String,
    /// How many of its items may be claimed in each second.
    pub rate: Option<f64>,
    /// How many items of each fairness key may be claimed in each second.
    pub rate_per_key: Option<f64>,
}

/// The fairness key of due items, as an engine found it.
#[derive(Clone, Debug, PartialEq)]
pub struct DueKey {
    /// The key; `None` for items without one.
    pub key: Option<String>,
    /// The tokens that its last claim left, and when; `None` where its bucket is full.
    pub left: Option<(f64, Millis)>,
}

/// The rates of a type that hold due items back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReachedRates {
    /// Whether the rate of the type does.
    pub is_of_type: bool,
    /// The fairness keys whose rate does, of the items that were looked at.
    pub keys: BTreeSet<String>,
    /// Whether these are the keys of all items that were looked at.
    pub are_all_keys: bool,
}

impl ReachedRates {
    /// Judges what an engine found of the type at `now`: the bucket of the type, where an item is due, and the keys of
    /// due items that are not paused. `None` when no rate is reached.
    pub fn judge(rated: &RatedType, bucket: Option<RateBucket>, due: &[DueKey], now: Millis) -> Option<Self> {
        let is_of_type = rated.rate.is_some() && bucket.is_some_and(|bucket| bucket.is_used_up(now));
        let is_used_up = |left: (f64, Millis)| {
            RateBucket { tokens: left.0, filled_at: left.1, per_second: rated.rate_per_key }.is_used_up(now)
        };
        let used_up = |due: &DueKey| due.key.clone().filter(|_| due.left.is_some_and(is_used_up));
        let keys: BTreeSet<String> = due.iter().filter_map(used_up).collect();
        let are_all_keys = !keys.is_empty() && keys.len() == due.len();
        (is_of_type || !keys.is_empty()).then_some(Self { is_of_type, keys, are_all_keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_in_the_unit_in_which_it_is_no_fraction() {
        for (per_second, short, words) in [
            (0.5, "30/m", "30 a minute"),
            (5.0 / 3_600.0, "5/h", "5 an hour"),
            (1.0 / 60.0, "1/m", "1 a minute"),
            (2.5, "2.5/s", "2.5 a second"),
            (0.1 / 3_600.0, "0.1/h", "0.1 an hour"),
        ] {
            let text = RateText::of(per_second);
            assert_eq!((text.short().as_str(), text.in_words().as_str()), (short, words));
        }
    }

    #[test]
    fn a_type_is_held_back_by_its_keys_only_when_no_due_item_has_another_one() {
        let now = Millis::new(1_000_000);
        let rated = RatedType { rate_per_key: Some(0.5), ..RatedType::default() };
        let due = |key: Option<&str>, left| DueKey { key: key.map(str::to_owned), left };
        let empty = Some((0.0, now));
        let judge = |due: &[DueKey]| ReachedRates::judge(&rated, None, due, now).map(|found| found.are_all_keys);
        assert_eq!(judge(&[due(Some("a"), empty), due(Some("b"), empty)]), Some(true));
        assert_eq!(judge(&[due(Some("a"), empty), due(Some("b"), None)]), Some(false));
        assert_eq!(judge(&[due(Some("a"), empty), due(None, None)]), Some(false));
        assert_eq!(judge(&[due(Some("a"), Some((3.0, now)))]), None);
        assert_eq!(judge(&[]), None);
    }
}
