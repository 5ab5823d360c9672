//! How retention looks for old items in small steps: where a look begins, and how much it reads.
//!
//! Items whose saga goes on are old and stay. There can be any number of them, so a look begins where the last one
//! ended, and starts again when it has come to the end. This file knows no statement.

use std::sync::{Mutex, PoisonError};

use outbox_item::{ItemId, Millis};

/// Finished items that one look reads: a few milliseconds.
pub const ROWS_MAX: u32 = 5_000;
/// Items that one piece of maintenance deletes.
pub const ITEMS_MAX: usize = 500;
/// Items that one transaction deletes, each with everything that belongs to it.
pub const STEP_ITEMS: usize = 50;

/// The item after which a look begins: the time at which it was finished, and its id.
pub type Position = (Millis, ItemId);

/// The position before every item.
pub const START: Position = (Millis::new(i64::MIN), ItemId::new(i64::MIN));

/// A finished item that a look has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedItem {
    /// Its position.
    pub position: Position,
    /// Whether nothing keeps it: its saga, if it has one, has ended long ago.
    pub is_free: bool,
}

/// Where the next look begins in one place.
#[derive(Debug)]
pub struct RetentionLook(Mutex<Position>);

impl Default for RetentionLook {
    fn default() -> Self {
        Self(Mutex::new(START))
    }
}

impl RetentionLook {
    /// Where the next look begins.
    pub fn position(&self) -> Position {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a look has read from [`Self::position`] on, in order. Returns the items that can be deleted, at most
    /// `limit`, and remembers where the next look begins.
    pub fn take(&self, read: &[FinishedItem], limit: usize) -> Vec<ItemId> {
        let mut free = Vec::new();
        let mut next = START;
        for (index, item) in read.iter().enumerate() {
            if item.is_free {
                free.push(item.position.1);
            }
            let is_full = free.len() >= limit;
            if is_full || index + 1 == ROWS_MAX as usize {
                next = item.position;
            }
            if is_full {
                break;
            }
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = next;
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(numbers: std::ops::Range<i64>, is_free: bool) -> Vec<FinishedItem> {
        let item = |number| FinishedItem { position: (Millis::new(number), ItemId::new(number)), is_free };
        numbers.map(item).collect()
    }

    #[test]
    fn a_look_goes_on_after_what_stays_and_begins_anew_at_the_end() {
        let look = RetentionLook::default();
        let rows = i64::from(ROWS_MAX);
        assert!(look.take(&items(0..rows, false), 9).is_empty());
        assert_eq!(look.position(), (Millis::new(rows - 1), ItemId::new(rows - 1)));
        assert_eq!(look.take(&items(rows..rows + 3, true), 9).len(), 3);
        assert_eq!(look.position(), START);
    }

    #[test]
    fn a_look_ends_when_it_has_found_enough() {
        let look = RetentionLook::default();
        assert_eq!(look.take(&items(0..9, true), 4), [0, 1, 2, 3].map(ItemId::new));
        assert_eq!(look.position(), (Millis::new(3), ItemId::new(3)));
    }
}
