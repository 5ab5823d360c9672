//! The judge finds each kind of fault in notes that contain it, and none in notes that are right.

use outbox::item::{ItemId, Millis};

use super::judge::judge;
use super::ledger::{Ending, Enqueued, Ledger, Note, Order, Position};

const LEASE: Millis = Millis::new(60_000);

/// Notes of items with the key `k`.
#[derive(Default)]
struct Story(Ledger);

impl Story {
    /// A story in which items 1 and 2 were committed in this order.
    fn of_two() -> Self {
        let story = Self::default();
        story.commits(&[(1, None)], 0).commits(&[(2, None)], 1)
    }

    /// Commits items, each with a version of the application's row.
    fn commits(self, items: &[(i64, Option<i64>)], begun: Position) -> Self {
        let item = |&(id, version): &(i64, Option<i64>)| Enqueued { id: id.into(), key: Some("k".into()), version };
        self.0.note(Note::Committed { begun, items: items.iter().map(item).collect() });
        self
    }

    fn claims(&self, id: i64, now: i64) -> Position {
        let (begun, lease_until) = (self.0.position(), LEASE);
        self.0.note(Note::Claimed { begun, id: id.into(), lease_until, now: Millis::new(now), behind: Vec::new() })
    }

    /// Begins an attempt at an item that was claimed with those in front of it.
    fn follows(&self, id: i64, behind: &[i64], claimed: Position) -> Position {
        let behind = behind.iter().map(|id| ItemId::new(*id)).collect();
        let (id, lease_until, now) = (id.into(), LEASE, Millis::new(0));
        self.0.note(Note::Claimed { begun: claimed, id, lease_until, now, behind })
    }

    /// A worker asks the store to settle a claim, and never hears of it.
    fn settling(&self, claim: Position) {
        self.0.note(Note::Settling { claim, ending: Ending::Done });
    }

    fn settles(&self, claim: Position, ending: Ending) {
        let begun = self.0.note(Note::Settling { claim, ending });
        self.0.note(Note::Settled { begun, claim, ending, is_accepted: true });
    }

    fn handles(&self, id: i64, ending: Ending) {
        self.settles(self.claims(id, 0), ending);
    }

    fn orders(&self, order: Order) {
        let begun = self.0.note(Note::Ordering { order: order.clone() });
        self.0.note(Note::Ordered { begun, order, is_changed: true });
    }

    #[track_caller]
    fn is_right(&self) {
        assert_eq!(judge(&self.0.notes()).faults, [""; 0]);
    }

    #[track_caller]
    fn is_wrong(&self, words: &str) {
        let faults = judge(&self.0.notes()).faults;
        assert!(faults.len() == 1 && faults[0].contains(words), "{faults:?}");
    }
}

#[test]
fn items_that_are_handled_one_after_the_other_in_the_order_of_commits_are_right() {
    let story = Story::of_two();
    story.handles(1, Ending::Retry);
    story.handles(1, Ending::Done);
    story.handles(2, Ending::Done);
    story.is_right();
}

#[test]
fn an_item_that_is_claimed_before_an_earlier_commit_is_found() {
    let story = Story::of_two();
    story.handles(2, Ending::Done);
    story.is_wrong("item 2 of key k was claimed before item 1");
}

#[test]
fn commits_that_were_simultaneous_may_come_in_either_order() {
    let story = Story::default().commits(&[(1, None)], 0).commits(&[(2, None)], 0);
    story.handles(2, Ending::Done);
    story.handles(1, Ending::Done);
    story.is_right();
}

#[test]
fn the_applications_row_orders_commits_that_the_notes_do_not() {
    let story = Story::default().commits(&[(1, Some(8))], 0).commits(&[(2, Some(7))], 0);
    story.handles(1, Ending::Done);
    story.is_wrong("item 1 of key k was claimed before item 2");
}

#[test]
fn the_inserts_of_one_transaction_are_ordered() {
    let story = Story::default().commits(&[(1, None), (2, None)], 0);
    story.handles(2, Ending::Done);
    story.is_wrong("item 2 of key k was claimed before item 1");
}

#[test]
fn two_of_a_key_at_once_are_found_until_the_lease_of_the_first_ends() {
    let story = Story::default().commits(&[(1, None)], 0).commits(&[(2, None)], 0);
    story.claims(1, 0);
    story.claims(2, LEASE.get());
    story.is_right();
    let story = Story::default().commits(&[(1, None)], 0).commits(&[(2, None)], 0);
    story.claims(1, 0);
    story.claims(2, LEASE.get() - 1);
    story.is_wrong("items 2 and 1 of key k were claimed at once");
}

#[test]
fn a_claim_that_is_noted_when_its_lease_has_ended_is_compared_with_claims_from_before_it() {
    let claim = |story: &Story, begun: Position, id: i64, now: i64| {
        let (id, lease_until, now) = (id.into(), Millis::new(LEASE.get() + now), Millis::new(LEASE.get()));
        story.0.note(Note::Claimed { begun, id, lease_until, now, behind: Vec::new() });
    };
    let story = Story::default().commits(&[(1, None)], 0).commits(&[(2, None)], 0);
    let begun = story.0.position();
    claim(&story, begun, 2, 1);
    claim(&story, begun, 1, 0);
    story.is_right();
    claim(&story, story.0.position(), 1, 0);
    story.is_wrong("items 1 and 2 of key k were claimed at once");
}

#[test]
fn an_item_that_is_handled_twice_is_found_unless_it_was_replayed() {
    let story = Story::of_two();
    story.handles(1, Ending::Done);
    story.orders(Order::Revive(ItemId::new(1)));
    story.handles(1, Ending::Done);
    story.is_right();
    story.handles(1, Ending::Done);
    story.is_wrong("item 1 was claimed after it was finished");
}

#[test]
fn a_dead_item_that_blocks_holds_the_others_until_it_is_unblocked() {
    let story = Story::of_two();
    story.handles(1, Ending::DeadBlock);
    story.orders(Order::Unblock("k".into()));
    story.handles(2, Ending::Done);
    story.is_right();
    let story = Story::of_two();
    story.handles(1, Ending::DeadBlock);
    story.handles(2, Ending::Done);
    story.is_wrong("item 2 of key k was claimed before item 1");
}

#[test]
fn an_item_that_comes_back_goes_before_those_behind_it() {
    let story = Story::of_two();
    story.handles(1, Ending::DeadSkip);
    story.handles(2, Ending::Retry);
    story.orders(Order::Revive(ItemId::new(1)));
    story.handles(2, Ending::Done);
    story.is_wrong("item 2 of key k was claimed before item 1");
}

#[test]
fn a_claim_that_began_before_an_item_came_back_is_not_judged_by_it() {
    let story = Story::of_two();
    story.handles(1, Ending::Done);
    let order = Order::Revive(ItemId::new(1));
    let ordering = story.0.note(Note::Ordering { order: order.clone() });
    let begun = story.0.position();
    story.0.note(Note::Ordered { begun: ordering, order, is_changed: true });
    story.0.note(Note::Claimed {
        begun,
        id: ItemId::new(2),
        lease_until: LEASE,
        now: Millis::new(0),
        behind: Vec::new(),
    });
    story.is_right();
}

#[test]
fn what_a_call_that_is_under_way_may_have_changed_is_not_judged() {
    let story = Story::of_two();
    let claim = story.claims(1, 0);
    story.0.note(Note::Settling { claim, ending: Ending::Done });
    story.handles(2, Ending::Done);
    story.is_right();
}

#[test]
fn an_item_that_nobody_committed_is_found() {
    let story = Story::of_two();
    story.handles(3, Ending::Done);
    story.is_wrong("item 3 was claimed and never committed");
}

#[test]
fn an_item_of_a_streak_that_begins_while_the_one_before_it_is_settled_is_right() {
    let story = Story::of_two();
    let first = story.claims(1, 0);
    story.settling(first);
    story.settles(story.follows(2, &[1], 2), Ending::Done);
    story.is_right();
}

#[test]
fn two_of_a_streak_at_once_are_found() {
    let story = Story::of_two();
    story.claims(1, 0);
    story.follows(2, &[1], 2);
    let faults = judge(&story.0.notes()).faults;
    assert!(faults.iter().any(|fault| fault.contains("items 2 and 1 of key k were claimed at once")), "{faults:?}");
}

#[test]
fn a_streak_that_is_repeated_as_a_whole_is_right() {
    let story = Story::of_two();
    story.settling(story.claims(1, 0));
    story.settling(story.follows(2, &[1], 2));
    story.handles(1, Ending::Done);
    story.handles(2, Ending::Done);
    story.is_right();
}

#[test]
fn an_item_that_is_repeated_after_a_later_one_was_settled_is_found() {
    let story = Story::of_two();
    story.settling(story.claims(1, 0));
    story.settles(story.follows(2, &[1], 2), Ending::Done);
    story.handles(1, Ending::Done);
    story.is_wrong("item 1 of key k was claimed again after item 2, which is DONE");
}

#[test]
fn a_streak_that_an_operator_ended_is_not_judged() {
    let story = Story::of_two();
    let claim = story.claims(1, 0);
    story.orders(Order::DeadSkip(ItemId::new(1)));
    story.claims(2, 0);
    story.follows(2, &[1], claim);
    story.is_right();
}
