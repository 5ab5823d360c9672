//! The long poll that waits at the writer: how a worker registers it, and how a commit fulfils it.
//!
//! It knows no worker, and it does not decide when there is work: the writer asks for the claim when there is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use outbox_store::engine::{LongPollSlot, long_poll};
use outbox_store::{ClaimBatch, ClaimRequest, LongPoll, StoreError};

use crate::bad_rows::claim;
use crate::write_op::{ClosureOp, PendingReply, WriteOp};
use crate::write_tx::WriteTx;

/// The place for one long poll, which waits here until a transaction makes work. When a process has several workers,
/// the last one that registers is served by commits, and the others claim after a change notification.
#[derive(Clone, Debug, Default)]
pub(crate) struct LongPolls(Arc<Mutex<Option<LongPollSlot>>>);

impl LongPolls {
    /// The claim of the waiting long poll, unless the worker has cancelled it. `since` is a moment before the
    /// transaction that runs the claim; leases count from it.
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

/// A claim that registers a long poll for the part of its request that it did not get.
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

    fn failure(&self) -> Option<&StoreError> {
        self.claimed.as_ref()?.as_ref().err()
    }

    /// Registers the long poll before the worker gets its reply, so that no commit in between is missed.
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
