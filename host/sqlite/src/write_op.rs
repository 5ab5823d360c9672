//! One queued write, and the reply that its caller waits for.
//!
//! It does not know the queue, nor which requests share a commit.

use tokio::sync::oneshot;

use outbox_store::StoreError;

use crate::write_tx::WriteTx;

/// A write that is run in a transaction together with others.
pub(crate) trait WriteOp: Send {
    /// Does the work and keeps its result. Returns whether the transaction may commit what the work wrote.
    fn run(&mut self, tx: &mut WriteTx<'_>) -> bool;
    /// Why the work failed, if it did.
    fn failure(&self) -> Option<&StoreError>;
    /// Sends the result after the commit, or the error of the commit itself.
    fn send_reply(self: Box<Self>, committed: Result<(), &str>);
}

/// A write that is a closure. The closure may run twice, when the first transaction is rolled back.
pub(crate) struct ClosureOp<T, F> {
    pub(crate) run: F,
    pub(crate) pending: PendingReply<T>,
}

impl<T, F> WriteOp for ClosureOp<T, F>
where
    T: Send,
    F: FnMut(&mut WriteTx<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, tx: &mut WriteTx<'_>) -> bool {
        self.pending.result.insert((self.run)(tx)).is_ok()
    }

    fn failure(&self) -> Option<&StoreError> {
        self.pending.failure()
    }

    fn send_reply(self: Box<Self>, committed: Result<(), &str>) {
        self.pending.send_reply(committed);
    }
}

/// A result that the caller receives after the commit.
pub(crate) struct PendingReply<T> {
    /// What the caller was doing, for the text of an error.
    tried: &'static str,
    pub(crate) result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T> PendingReply<T> {
    pub(crate) fn new(tried: &'static str, reply: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { tried, result: None, reply }
    }

    /// Why the work failed, if it did.
    pub(crate) fn failure(&self) -> Option<&StoreError> {
        self.result.as_ref()?.as_ref().err()
    }

    /// Sends the result, or why the transaction was not committed.
    pub(crate) fn send_reply(self, committed: Result<(), &str>) {
        let result = match (self.result, committed) {
            (Some(Err(err)), _) => Err(err),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(why)) => Err(not_written(self.tried, why)),
            (None, Ok(())) => Err(not_written(self.tried, "the request was not run")),
        };
        // A caller that no longer waits has dropped the receiver; its work is committed nevertheless.
        drop(self.reply.send(result));
    }
}

/// The error of a write that the writer did not commit.
pub(crate) fn not_written(tried: &'static str, why: &str) -> StoreError {
    StoreError::Unavailable { tried, source: why.into() }
}
