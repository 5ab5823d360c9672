//! What a campaign notes while it runs, in one order for all threads.
//!
//! The position of a note is the campaign's clock. A thread notes the end of something before it asks the store for it,
//! and the beginning after the store has confirmed it. So whatever the notes show as simultaneous was simultaneous; a
//! campaign can miss a fault but cannot invent one. This file does not judge the notes.

use std::sync::{Arc, Mutex, PoisonError};

use outbox::item::{ItemId, Millis};

/// The number of notes that were made before something.
pub(super) type Position = usize;

/// An item of a transaction that committed.
#[derive(Clone, Debug)]
pub(super) struct Enqueued {
    pub(super) id: ItemId,
    pub(super) key: Option<String>,
    /// The version of the application's own row of the key in this transaction, if the transaction updated the row.
    pub(super) version: Option<i64>,
}

/// How a worker ends a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Done,
    Retry,
    DeadBlock,
    DeadSkip,
}

/// What an operator changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Replay or restore: the item is PENDING again.
    Revive(ItemId),
    DeadBlock(ItemId),
    DeadSkip(ItemId),
    /// The dead items of the key no longer block it.
    Unblock(String),
}

/// One note.
#[derive(Clone, Debug)]
pub(super) enum Note {
    /// A transaction has committed these items, in the order of their inserts. Its commit began at `begun`.
    Committed { begun: Position, items: Vec<Enqueued> },
    /// A call that began at `begun` has claimed the item. It is `now` on the store's clock. An item that follows others
    /// in a streak, `behind`, is noted when its attempt begins.
    Claimed { begun: Position, id: ItemId, lease_until: Millis, now: Millis, behind: Vec<ItemId> },
    /// A worker is about to end the claim that was noted at `claim`.
    Settling { claim: Position, ending: Ending },
    /// The store has accepted what was noted at `begun`, or refused it because the claim was lost.
    Settled { begun: Position, claim: Position, ending: Ending, is_accepted: bool },
    /// An operator is about to give this order.
    Ordering { order: Order },
    /// The order that was noted at `begun` changed something, or nothing.
    Ordered { begun: Position, order: Order, is_changed: bool },
}

/// The notes of all threads.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Vec<Note>>>);

impl Ledger {
    /// The position of the next note.
    pub(super) fn position(&self) -> Position {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Makes a note, and returns its position.
    pub(super) fn note(&self, note: Note) -> Position {
        self.note_with(|| note)
    }

    /// Makes a note that contains the time, which is read at the position of the note: a thread that waits between the
    /// two would note a lease as held that has ended.
    pub(super) fn note_with(&self, note: impl FnOnce() -> Note) -> Position {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(note());
        notes.len() - 1
    }

    /// The items of the last ten transactions.
    pub(super) fn newest_items(&self) -> Vec<ItemId> {
        let notes = self.notes();
        let committed = notes.iter().rev().filter_map(|note| match note {
            Note::Committed { items, .. } => Some(items),
            _ => None,
        });
        committed.take(10).flatten().map(|item| item.id).collect()
    }

    /// The items of the last twenty notes about something that may have finished an item.
    pub(super) fn finished_items(&self) -> Vec<ItemId> {
        let notes = self.notes();
        let claimed = |claim: Position| match &notes[claim] {
            Note::Claimed { id, .. } => Some(*id),
            _ => None,
        };
        let finished = notes.iter().rev().filter_map(|note| match note {
            Note::Settled { claim, ending, is_accepted: true, .. } if *ending != Ending::Retry => claimed(*claim),
            Note::Ordered { order: Order::DeadBlock(id) | Order::DeadSkip(id), is_changed: true, .. } => Some(*id),
            _ => None,
        });
        finished.take(20).collect()
    }

    /// A copy of all notes.
    pub(super) fn notes(&self) -> Vec<Note> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
