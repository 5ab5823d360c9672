//! How far one page of a list looks.
//!
//! Where no index finds the items of a filter, a page looks at a bounded number of the newest ones, and the next page goes
//! on from there. So every page takes a bounded time, and all pages together find every item. How an engine reads is not
//! known here.

use std::time::Duration;

use outbox_item::{ItemId, Millis, Status};

use crate::filter::Filter;

/// Items of each status that one page looks at.
pub const LOOKED_AT_MAX: u32 = 20_000;

/// Items whose content one page reads.
pub const READ_MAX: u32 = 5_000;

/// Items that may be found by the beginning of a key and sorted. Where more have it, a page looks for them in the order
/// of ids.
pub const KEYS_SORTED_MAX: u32 = 10_000;

/// How much earlier than an item with a smaller number an item may say that it was enqueued: a transaction was open so
/// long, or a clock was set back so far.
const DISORDER_MAX: Duration = Duration::from_hours(1);

/// Where a page stops to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookEnd {
    /// The oldest item that it looks at.
    pub last: ItemId,
    /// How many items it looks at, at most, of each status.
    pub looked_at: u32,
    /// Whether older items cannot match.
    pub is_all: bool,
}

impl LookEnd {
    /// The end of a look at [`LOOKED_AT_MAX`] items, whose oldest was enqueued then.
    pub fn at_row(filter: &Filter, last: ItemId, enqueued_at: Option<Millis>) -> Self {
        let is_before = |from: Millis, at: Millis| at < from.saturating_sub(DISORDER_MAX);
        let is_all = filter.created_from.zip(enqueued_at).is_some_and(|(from, at)| is_before(from, at));
        Self { last, looked_at: LOOKED_AT_MAX, is_all }
    }

    /// The end of a look at the content of [`READ_MAX`] items.
    pub const fn at_content(last: ItemId) -> Self {
        Self { last, looked_at: READ_MAX, is_all: false }
    }
}

/// Whether a page has to look for the items of the filter. Keys and correlation ids have an index, and so have the ordering
/// keys of items that are not DONE; of a filter with statuses alone, every item matches.
pub fn needs_look(filter: &Filter) -> bool {
    let is_named = filter.idem_key.is_some() || filter.cid.is_some() || !filter.ids.is_empty();
    let may_be_done = filter.status.is_empty() || filter.status.contains(&Status::Done);
    let is_in_line = filter.ordering_key.is_some() && !may_be_done;
    !(is_named || is_in_line || filter.is_status_alone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_looks_for_what_no_index_finds() {
        let some = || Some("x".to_owned());
        let with = |status: &[Status], filter: Filter| Filter { status: status.to_vec(), ..filter };
        for (filter, expected) in [
            (Filter::default(), false),
            (with(&[Status::Done], Filter::default()), false),
            (Filter { cid: some(), error: some(), ..Filter::default() }, false),
            (Filter { ordering_key: some(), ..Filter::default() }, true),
            (with(&[Status::Dlq, Status::Pending], Filter { ordering_key: some(), ..Filter::default() }), false),
            (Filter { saga: some(), ..Filter::default() }, true),
            (Filter { created_from: Some(Millis::new(1)), ..Filter::default() }, true),
            (with(&[Status::Done], Filter { r#type: some(), ..Filter::default() }), true),
        ] {
            assert_eq!(needs_look(&filter), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_look_for_new_items_ends_well_before_the_time_they_are_newer_than() {
        let hours = |hours: i64| Millis::new(hours * 3_600_000);
        let recent = Filter { created_from: Some(hours(10)), ..Filter::default() };
        let is_all = |filter: &Filter, at: i64| LookEnd::at_row(filter, ItemId::new(1), Some(hours(at))).is_all;
        assert!(is_all(&recent, 8) && !is_all(&recent, 9) && !is_all(&recent, 11));
        assert!(!is_all(&Filter::default(), 0));
    }
}
