//! Long polls: a claim that waits at the store for work.
//!
//! Without a long poll, a worker wakes after the commit of new work, and its claim is a second commit. With one, the
//! transaction that makes the work claims it too. This file does not know when a store fulfils a long poll.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use outbox_core::SuspectRoom;

use crate::claim::{ClaimBatch, ClaimRequest};
use crate::error::StoreError;
use crate::ids::ClaimToken;

/// The worker's end of a long poll. The store claims nothing more for it after it is dropped.
#[derive(Debug)]
pub struct LongPoll {
    /// The request. The first side to take it wins: the worker, which cancels, or the store, which fulfils.
    slot: Arc<Mutex<Option<ClaimRequest>>>,
    tokens: Vec<ClaimToken>,
    room: SuspectRoom,
    answer: Option<oneshot::Receiver<LongPollResult>>,
    result: Option<LongPollResult>,
}

/// What was claimed for a long poll, with an instant before its leases began.
pub type LongPollResult = Result<(Instant, ClaimBatch), StoreError>;

/// The store's end of a long poll.
#[derive(Debug)]
pub struct LongPollSlot {
    slot: Arc<Mutex<Option<ClaimRequest>>>,
    reply: oneshot::Sender<LongPollResult>,
}

fn take(slot: &Mutex<Option<ClaimRequest>>) -> Option<ClaimRequest> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The two ends of a long poll for this claim.
pub fn long_poll(request: ClaimRequest) -> (LongPoll, LongPollSlot) {
    let (tokens, room) = (request.tokens(), request.suspects.room);
    let slot = Arc::new(Mutex::new(Some(request)));
    let (reply, answer) = oneshot::channel();
    (
        LongPoll { slot: Arc::clone(&slot), tokens, room, answer: Some(answer), result: None },
        LongPollSlot { slot, reply },
    )
}

impl LongPoll {
    /// The tokens of the leases that fulfilling the long poll can create.
    pub fn tokens(&self) -> &[ClaimToken] {
        &self.tokens
    }

    /// What the request says of suspects.
    pub fn room(&self) -> SuspectRoom {
        self.room
    }

    /// Returns once the store has fulfilled the long poll, which may never happen. Safe to cancel.
    pub async fn fulfilled(&mut self) {
        if let Some(answer) = &mut self.answer {
            self.result = answer.await.ok();
            self.answer = None;
        }
        if self.result.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the long poll. Returns what the store had claimed for it, if anything.
    pub async fn cancel(mut self) -> Option<LongPollResult> {
        if take(&self.slot).is_none()
            && let Some(answer) = self.answer.take()
        {
            self.result = answer.await.ok();
        }
        self.result.take()
    }
}

impl Drop for LongPoll {
    fn drop(&mut self) {
        take(&self.slot);
    }
}

impl LongPollSlot {
    /// The request to claim for, and where to send the result after the commit; `None` when the worker has cancelled.
    pub fn fulfil(self) -> Option<(ClaimRequest, oneshot::Sender<LongPollResult>)> {
        Some((take(&self.slot)?, self.reply))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_core::CrashBudget;

    use super::*;
    use crate::claim::SuspectTerms;

    fn request() -> ClaimRequest {
        let suspects = SuspectTerms::new(SuspectRoom::None, CrashBudget::default());
        ClaimRequest { claimed_by: "pod-1".into(), limit: 1, types: Vec::new(), suspects }
    }

    #[tokio::test]
    async fn a_long_poll_that_is_fulfilled_tells_what_was_claimed() {
        let asked = request();
        let (mut poll, slot) = long_poll(asked.clone());
        let (claim, reply) = slot.fulfil().expect("the long poll waits");
        assert_eq!(claim, asked);
        let since = Instant::now();
        reply.send(Ok((since, ClaimBatch::default()))).expect("the worker waits");
        poll.fulfilled().await;
        poll.fulfilled().await;
        assert_eq!(poll.cancel().await.expect("it was fulfilled").expect("no error"), (since, ClaimBatch::default()));
    }

    #[tokio::test]
    async fn nothing_is_claimed_for_a_long_poll_that_was_cancelled_or_dropped() {
        let (poll, slot) = long_poll(request());
        assert!(poll.cancel().await.is_none());
        assert!(slot.fulfil().is_none());
        let (dropped, slot) = long_poll(request());
        drop(dropped);
        assert!(slot.fulfil().is_none());
    }

    #[tokio::test]
    async fn a_long_poll_that_is_being_fulfilled_when_it_is_cancelled_tells_what_was_claimed() {
        let (poll, slot) = long_poll(request());
        let (_, reply) = slot.fulfil().expect("the long poll waits");
        let cancelled = tokio::spawn(poll.cancel());
        reply.send(Ok((Instant::now(), ClaimBatch::default()))).expect("the worker waits");
        assert!(cancelled.await.expect("no panic").is_some());
    }

    #[tokio::test]
    async fn a_long_poll_that_the_store_has_dropped_wakes_nobody() {
        let (mut poll, slot) = long_poll(request());
        drop(slot);
        for _ in 0..2 {
            assert!(tokio::time::timeout(Duration::ZERO, poll.fulfilled()).await.is_err());
        }
        assert!(poll.cancel().await.is_none());
    }
}
