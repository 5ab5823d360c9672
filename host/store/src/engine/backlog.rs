//! How many items of each type wait: when a store counts its queue, and when it uses an earlier count.
//!
//! A short queue is counted whenever somebody asks. A long one is counted by the upkeep of the hosts, in a small part of
//! their time, and those who ask get the numbers that the upkeep kept. This file knows no statement.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox_item::Millis;

use crate::history::{HistoryMinute, MinuteFigures, OTHER_TYPES, TYPES_MAX, minute_of};

/// The longest queue that is counted when somebody asks, in items: it takes a few milliseconds.
pub const COUNTED_AT_ONCE: u32 = 10_000;
/// The shortest time between two counts of a long queue.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
/// The pause after a count is this many times as long as the count took, so that counting takes a twentieth of the time.
const PAUSE_FACTOR: u32 = 20;
/// No count takes so long that its pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// How long after the next count was due the kept numbers are used. Longer ago, no host is running, and whoever asks
/// counts.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// The waiting items of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeBacklog {
    /// The type.
    pub item_type: String,
    /// How many wait.
    pub waiting: u64,
    /// How many of them were claimed before.
    pub retrying: u64,
    /// When the oldest of them was enqueued.
    pub oldest_at: Millis,
}

/// The numbers of a queue that was counted part by part.
pub fn add_up(parts: Vec<TypeBacklog>) -> Vec<TypeBacklog> {
    let mut types: BTreeMap<String, TypeBacklog> = BTreeMap::new();
    for part in parts {
        match types.get_mut(&part.item_type) {
            Some(known) => {
                known.waiting += part.waiting;
                known.retrying += part.retrying;
                known.oldest_at = known.oldest_at.min(part.oldest_at);
            }
            None => drop(types.insert(part.item_type.clone(), part)),
        }
    }
    types.into_values().collect()
}

/// When the queue is to be counted again, after a count that began at `now` and took this long.
pub fn next_count(now: Millis, took: Duration) -> Millis {
    now.saturating_add(took.saturating_mul(PAUSE_FACTOR).clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
}

/// Whether numbers that are kept are used, where the next count was due at `next_at`.
pub fn is_current(next_at: Millis, now: Millis) -> bool {
    now <= next_at.saturating_add(KEPT_FOR) && next_at.since(now) <= LONGEST_PAUSE
}

/// Whether the queue is to be counted again, where that was planned for `next_at`. A later time than any plan is of a
/// clock that has been set back since.
pub fn is_due(next_at: Millis, now: Millis) -> bool {
    next_at <= now || next_at.since(now) > LONGEST_PAUSE
}

/// The rows of the history that say how much waits now: of the types of which the most items wait, and of the rest.
pub fn waiting_rows(backlog: &[TypeBacklog], now: Millis) -> Vec<HistoryMinute> {
    let mut most: Vec<_> = backlog.iter().map(|of| (of.item_type.as_str(), of.waiting)).collect();
    most.sort_by_key(|(_, waiting)| std::cmp::Reverse(*waiting));
    let rest: u64 = most.iter().skip(TYPES_MAX).map(|(_, waiting)| waiting).sum();
    most.truncate(TYPES_MAX);
    most.extend((rest > 0).then_some((OTHER_TYPES, rest)));
    let row = |(item_type, waiting): (&str, u64)| HistoryMinute {
        minute: minute_of(now),
        item_type: item_type.to_owned(),
        figures: MinuteFigures { waiting, ..MinuteFigures::default() },
    };
    most.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_takes_long_to_count_is_counted_rarely() {
        let pause = |took| next_count(Millis::new(1_000), took).since(Millis::new(1_000));
        assert_eq!(pause(Duration::from_millis(5)), SHORTEST_PAUSE);
        assert_eq!(pause(Duration::from_secs(3)), Duration::from_mins(1));
    }

    #[test]
    fn numbers_are_used_until_no_host_counts_any_more() {
        let next_at = Millis::new(10_000);
        assert!(is_current(next_at, Millis::new(5_000)) && is_current(next_at, Millis::new(70_000)));
        assert!(!is_current(next_at, Millis::new(70_001)));
    }

    #[test]
    fn the_parts_of_a_queue_add_up_by_type() {
        let of = |name: &str, waiting, retrying, oldest_at| {
            let (item_type, oldest_at) = (name.to_owned(), Millis::new(oldest_at));
            TypeBacklog { item_type, waiting, retrying, oldest_at }
        };
        let parts = vec![of("mail", 3, 1, 70), of("push", 1, 0, 10), of("mail", 4, 2, 50), of("mail", 1, 0, 60)];
        assert_eq!(add_up(parts), [of("mail", 8, 3, 50), of("push", 1, 0, 10)]);
    }

    #[test]
    fn a_plan_of_a_clock_that_was_set_back_is_due() {
        let now = Millis::new(10_000);
        assert!(is_due(now, now) && !is_due(Millis::new(12_000), now));
        assert!(is_due(Millis::MAX, now) && !is_current(Millis::MAX, now));
    }
}
