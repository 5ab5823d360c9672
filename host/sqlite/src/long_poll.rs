//! The long poll that waits at the writer: who registers it, and what fulfils it.
//!
//! It knows no worker, nor what makes work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::claim::claim;
use crate::write_tx::WriteTx;
use crate::writer::{ClosureOp, PendingReply, WriteOp};
use outbox_store::engine::{LongPollSlot, long_poll};
use outbox_store::{ClaimBatch, ClaimRequest, LongPoll, StoreError};

/// Where a long poll waits until a transaction makes work. There is room for one: of several workers in a process the
/// last has its work brought, and the others look for theirs when something has changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct LongPolls(Arc<Mutex<Option<LongPollSlot>>>);

impl LongPolls {
    /// The claim that waits, unless it has been cancelled. `since` is before the transaction that runs it.
    pub(crate) fn fulfil(&self, since: Instant) -> Option<Box<dyn WriteOp>> {
        let (request, reply) = self.lock().take()?.fulfil()?;
        let run = move |tx: &mut WriteTx<'_>| claim(tx, &request).map(|claimed| (since, claimed));
        Some(Box::new(ClosureOp { run, pending: PendingReply::new("claiming what was offered", reply) }))
    }

    fn register(&self, request: ClaimRequest) -> LongPoll {
        let (poll, slot) = long_poll(request);
        *self.lock() = Some(slot);
        poll
    }

    fn lock(&self) -> MutexGuard<'_, Option<LongPollSlot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim that registers a long poll for what it did not get.
pub(crate) struct ClaimOp {
    request: ClaimRequest,
    claimed: Option<Result<ClaimBatch, StoreError>>,
    long_polls: LongPolls,
    pending: PendingReply<(ClaimBatch, Option<LongPoll>)>,
}

impl ClaimOp {
    pub(crate) fn new(
        request: ClaimRequest,
        long_polls: LongPolls,
        pending: PendingReply<(ClaimBatch, Option<LongPoll>)>,
    ) -> Self {
        Self { request, claimed: None, long_polls, pending }
    }
}

impl WriteOp for ClaimOp {
    fn run(&mut self, tx: &mut WriteTx<'_>) -> bool {
        self.claimed.insert(claim(tx, &self.request)).is_ok()
    }

    /// The long poll waits before the worker knows, so that no work comes in between.
    fn send_reply(self: Box<Self>, committed: Result<(), &str>) {
        let Self { request, claimed, long_polls, mut pending } = *self;
        let with_poll = |claimed: ClaimBatch| {
            let rest = request.remainder_after(&claimed).filter(|_| committed.is_ok());
            let poll = rest.map(|rest| long_polls.register(rest));
            (claimed, poll)
        };
        pending.result = claimed.map(|claimed| claimed.map(with_poll));
        pending.send_reply(committed);
    }
}
