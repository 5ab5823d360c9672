//! The order within a streak: items of one ordering key that one claim took, which are attempted one after the other.
//!
//! An item begins when the settlement of the item before it has been sent, so that many settlements of a streak share a
//! commit. The store commits no settlement before that of an earlier item. When an item of the streak ends otherwise
//! than DONE, or its end is unknown, what follows is not begun, or is interrupted. This file knows neither the
//! store nor how an attempt is made.

use std::collections::HashMap;

use tokio::sync::watch;

use outbox_item::ItemId;
use outbox_store::Claim;

/// How far an item has come, as the next item of its streak sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The next item must wait.
    Open,
    /// Its settlement as DONE has been sent, and its answer is awaited: the next item may begin.
    Sent,
    /// It is DONE.
    Done,
    /// Its claim ended otherwise, and the store has given back what follows.
    GivenBack,
    /// It is unknown how its claim ended, or what follows may still be in the lease.
    Unknown,
}

/// The place of an item in its streak. Most items are alone.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    before: Option<watch::Receiver<Progress>>,
    own: Option<watch::Sender<Progress>>,
    next: Option<ItemId>,
}

impl Turn {
    /// The turns of claimed items. Those of one ordering key are a streak, in the order given.
    pub(crate) fn of_claims(claims: &[Claim]) -> Vec<Self> {
        let mut turns: Vec<_> = claims.iter().map(|_| Self::default()).collect();
        let mut newest = HashMap::new();
        for (index, claim) in claims.iter().enumerate() {
            let Some(key) = claim.item.ordering_key.as_deref() else { continue };
            if let Some(before) = newest.insert(key, index) {
                let (own, progress) = watch::channel(Progress::Open);
                turns[before].own = Some(own);
                turns[before].next = Some(claim.item.id);
                turns[index].before = Some(progress);
            }
        }
        turns
    }

    /// Waits until the item may begin. Returns false when it must not.
    pub(crate) async fn comes(&self) -> bool {
        matches!(self.before_becomes(|before| before != Progress::Open).await, Progress::Sent | Progress::Done)
    }

    /// Waits until the item before this one has ended. Returns whether it is DONE; false for an item that is alone.
    pub(crate) async fn comes_after_done(&self) -> bool {
        let is_final = |before| !matches!(before, Progress::Open | Progress::Sent);
        self.before.is_some() && self.before_becomes(is_final).await == Progress::Done
    }

    /// Returns when the item before this one has ended, and is not DONE: this one must stop.
    pub(crate) async fn is_broken(&self) {
        if self.before.is_none() || self.comes_after_done().await {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the store has given the item back, so that its claim has ended without an attempt.
    pub(crate) fn is_given_back(&self) -> bool {
        self.before.as_ref().is_some_and(|before| *before.borrow() == Progress::GivenBack)
    }

    /// The next item of the streak.
    pub(crate) fn next(&self) -> Option<ItemId> {
        self.next
    }

    /// Tells the next item of the streak how far this one has come.
    pub(crate) fn tell(&self, progress: Progress) {
        if let Some(own) = &self.own {
            own.send_replace(progress);
        }
    }

    /// The progress of the item before this one, once it is what is waited for. An item whose task has ended without
    /// telling says nothing about its claim.
    async fn before_becomes(&self, is_awaited: impl Fn(Progress) -> bool) -> Progress {
        let Some(mut before) = self.before.clone() else { return Progress::Done };
        let found = before.wait_for(|progress| is_awaited(*progress)).await;
        found.map_or(Progress::Unknown, |progress| *progress)
    }
}

#[cfg(test)]
mod tests {
    use outbox_item::{Millis, NewItem};
    use outbox_store::ClaimToken;

    use super::*;

    fn claims(keys: &[Option<&str>]) -> Vec<Claim> {
        let claim = |(id, key): (i64, Option<&str>)| {
            let item = NewItem { ordering_key: key.map(str::to_owned), ..NewItem::new("t", &id.to_string(), "") };
            Claim { item: item.into_item(ItemId::new(id), Millis::default()), token: ClaimToken::new(1) }
        };
        (1..).zip(keys.iter().copied()).map(claim).collect()
    }

    #[tokio::test]
    async fn an_item_that_is_alone_begins_at_once_and_is_never_broken() {
        for turn in Turn::of_claims(&claims(&[None, Some("a"), None, Some("b")])) {
            assert!(turn.comes().await);
            assert!(!turn.comes_after_done().await && !turn.is_given_back());
            turn.tell(Progress::Unknown);
        }
    }

    #[tokio::test]
    async fn an_item_follows_the_one_before_it_with_the_same_key() {
        let turns = Turn::of_claims(&claims(&[Some("a"), Some("b"), Some("a"), Some("a")]));
        assert!(turns[1].comes().await, "another key");
        let waits = |turn: &Turn| turn.before.as_ref().map(|before| *before.borrow());
        assert_eq!([0, 2, 3].map(|place| waits(&turns[place])), [None, Some(Progress::Open), Some(Progress::Open)]);
        turns[0].tell(Progress::Sent);
        assert!(turns[2].comes().await, "the settlement before it is under way");
        turns[0].tell(Progress::Done);
        assert!(turns[2].comes_after_done().await);
        assert_eq!(waits(&turns[3]), Some(Progress::Open));
    }

    #[tokio::test]
    async fn an_item_does_not_begin_after_one_that_is_not_done() {
        for ended in [Progress::GivenBack, Progress::Unknown] {
            let turns = Turn::of_claims(&claims(&[Some("a"), Some("a")]));
            turns[0].tell(ended);
            turns[1].is_broken().await;
            assert_eq!((turns[1].comes().await, turns[1].is_given_back()), (false, ended == Progress::GivenBack));
        }
    }

    #[tokio::test]
    async fn an_item_whose_task_is_gone_breaks_what_follows() {
        let mut turns = Turn::of_claims(&claims(&[Some("a"), Some("a")]));
        drop(turns.remove(0));
        assert!(!turns[0].comes().await && !turns[0].is_given_back());
    }
}
