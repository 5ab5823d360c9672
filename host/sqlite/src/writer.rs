//! The one thread that writes, and its queue.
//!
//! It does not know what the requests do, nor which of them share a commit (`group`). Each caller gets its own result
//! after the commit of its group. When a group makes work for a worker whose long poll waits, the claim of that long
//! poll is part of the same commit.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{oneshot, watch};

use outbox_item::NewItem;
use outbox_store::{ClaimBatch, ClaimRequest, LongPoll, StoreError};

use crate::complete::CompletionRow;
use crate::enqueue::Created;
use crate::error::unavailable;
use crate::group::{BatchedRequest, Group, GroupError, PreviousGroup, QueuedRequest};
use crate::long_poll::{ClaimOp, LongPolls};
use crate::options::SqliteOptions;
use crate::write_op::{ClosureOp, PendingReply, not_written};
use crate::write_tx::{WriteConnection, WriteTx};

/// The handle of the writing thread.
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<QueuedRequest>>,
    long_polls: LongPolls,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(
        path: &Path,
        options: SqliteOptions,
        changes: Arc<watch::Sender<u64>>,
    ) -> Result<Self, StoreError> {
        let connection =
            WriteConnection::open(path, options).map_err(unavailable("opening the database for writing"))?;
        let (queue, requests) = mpsc::channel();
        let long_polls = LongPolls::default();
        let writing = WriterThread { connection, changes, long_polls: long_polls.clone() };
        let thread =
            std::thread::Builder::new()
                .name("outbox-writer".into())
                .spawn(move || writing.serve(&requests))
                .map_err(|source| StoreError::Unavailable { tried: "starting the writer", source: source.into() })?;
        Ok(Self { queue: Some(queue), long_polls, thread: Some(thread) })
    }

    /// Runs `run` inside the next group commit and returns its result after the commit. `tried` says in an error what
    /// the caller was doing. `run` may be called twice, when the first transaction is rolled back.
    pub(crate) async fn run<T, F>(&self, tried: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut WriteTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.submit(tried, |pending| QueuedRequest::Op(Box::new(ClosureOp { run, pending }))).await
    }

    /// Enqueues one valid item in the next group commit, in one statement with others.
    pub(crate) async fn enqueue(&self, item: NewItem) -> Result<Created, StoreError> {
        self.submit("enqueueing items", |pending| QueuedRequest::Enqueue(BatchedRequest { input: item, pending })).await
    }

    /// Makes the item of one claim DONE in the next group commit, in one statement with others.
    pub(crate) async fn complete(&self, completion: CompletionRow) -> Result<(), StoreError> {
        self.submit("settling a claim", |pending| {
            QueuedRequest::Complete(BatchedRequest { input: completion, pending })
        })
        .await
    }

    /// Claims in the next group commit. A long poll waits for the part of the request that this claim did not get.
    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<(ClaimBatch, Option<LongPoll>), StoreError> {
        let claim_op = |pending| QueuedRequest::Op(Box::new(ClaimOp::new(request, self.long_polls.clone(), pending)));
        self.submit("claiming items", claim_op).await
    }

    /// Queues the request and waits for its reply. A request that cannot be queued is dropped, which its caller sees as
    /// [`StoreError::Unavailable`].
    async fn submit<T>(
        &self,
        tried: &'static str,
        request: impl FnOnce(PendingReply<T>) -> QueuedRequest,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        if let Some(queue) = &self.queue {
            drop(queue.send(request(PendingReply::new(tried, reply))));
        }
        answer.await.unwrap_or_else(|_| Err(not_written(tried, "the writer has stopped")))
    }
}

impl Drop for Writer {
    /// Closes the queue and waits until the requests in it are committed.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer thread panicked");
        }
    }
}

/// What the writing thread owns.
struct WriterThread {
    connection: WriteConnection,
    changes: Arc<watch::Sender<u64>>,
    long_polls: LongPolls,
}

impl WriterThread {
    fn serve(self, requests: &Receiver<QueuedRequest>) {
        let mut previous = PreviousGroup::default();
        while let Ok(first) = requests.recv() {
            // Read before the transaction begins, and so before the lease of each claim in it.
            let since = Instant::now();
            let (mut group, callers) = Group::collect(first, requests, previous);
            let begun = Instant::now();
            let committed = self.commit(&mut group, since).map_err(|err| err.to_string());
            previous = PreviousGroup::new(callers, begun.elapsed());
            group.send_reply(committed.as_ref().copied().map_err(String::as_str));
        }
    }

    /// Commits the group: without savepoints first, and once more with them if a request failed after a change.
    fn commit(&self, group: &mut Group, since: Instant) -> rusqlite::Result<()> {
        let long_poll = || self.long_polls.fulfil(since);
        let committed = match self.connection.transact(|tx| group.run_without_savepoints(tx, long_poll)) {
            Ok(committed) => committed,
            Err(GroupError::PartlyApplied) => self.connection.transact(|tx| group.run_with_savepoints(tx))?,
            Err(GroupError::Engine(err)) => return Err(err),
        };
        if committed.wakes_workers {
            self.changes.send_modify(|version| *version += 1);
        }
        Ok(())
    }
}
