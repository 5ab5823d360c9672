//! The one thread that writes: it commits what has queued in groups.
//!
//! It does not know what the requests do, but for the commonest: new items share statements, and so do completions.
//! One that fails takes nothing of the others with it, and each learns its own result after the commit of all.
//! What makes work for a worker whose long poll waits is followed by its claim, in the same commit.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{oneshot, watch};

use crate::complete::CompletionRow;
use crate::enqueue::Created;
use crate::group::{PreviousGroup, collect_group};
use crate::long_poll::{ClaimOp, LongPolls};
use crate::write_tx::{WriteConnection, WriteTx, execute};
use crate::{SqliteOptions, complete, enqueue};
use outbox_item::NewItem;
use outbox_store::{ClaimBatch, ClaimRequest, LongPoll, StoreError};

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
            WriteConnection::open(path, options).map_err(super::unavailable("opening the database for writing"))?;
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

    /// Runs `op` inside the next group commit and returns its result once that has been committed.
    /// `tried` says in an error what was being done. The work may be done twice, when a first transaction
    /// is taken back.
    pub(crate) async fn run<T, F>(&self, tried: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut WriteTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.submit(tried, |pending| QueuedRequest::Op(Box::new(ClosureOp { run, pending }))).await
    }

    /// Enqueues one valid item in the next group commit, together with the others of that.
    pub(crate) async fn enqueue(&self, item: NewItem) -> Result<Created, StoreError> {
        self.submit("enqueueing items", |pending| QueuedRequest::Enqueue(BatchedRequest { input: item, pending })).await
    }

    /// Settles one claim in the next group commit, together with the others of that.
    pub(crate) async fn complete(&self, completion: CompletionRow) -> Result<(), StoreError> {
        self.submit("settling a claim", |pending| {
            QueuedRequest::Complete(BatchedRequest { input: completion, pending })
        })
        .await
    }

    /// Claims in the next group commit. What the request has not got then is waited for by a long poll.
    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<(ClaimBatch, Option<LongPoll>), StoreError> {
        let claim_op = |pending| QueuedRequest::Op(Box::new(ClaimOp::new(request, self.long_polls.clone(), pending)));
        self.submit("claiming items", claim_op).await
    }

    /// A request that cannot be queued is dropped, and its caller notices.
    async fn submit<T>(
        &self,
        tried: &'static str,
        request: impl FnOnce(PendingReply<T>) -> QueuedRequest,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        if let Some(queue) = &self.queue {
            drop(queue.send(request(PendingReply::new(tried, reply))));
        }
        answer.await.unwrap_or_else(|_| Err(unavailable(tried, "the writer has stopped")))
    }
}

fn unavailable(tried: &'static str, why: &str) -> StoreError {
    StoreError::Unavailable { tried, source: why.into() }
}

impl Drop for Writer {
    /// Closes the queue and waits until what was in it is committed.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer thread panicked");
        }
    }
}

/// What stands in the queue. The commonest requests share statements with their like.
enum QueuedRequest {
    Enqueue(BatchedRequest<NewItem, Created>),
    Complete(BatchedRequest<CompletionRow, ()>),
    Op(Box<dyn WriteOp>),
}

/// A request of a kind that is done for many at once.
struct BatchedRequest<I, T> {
    input: I,
    pending: PendingReply<T>,
}

/// A request that nothing is known of.
pub(crate) trait WriteOp: Send {
    /// Does the work and keeps its result. Returns whether it may be committed.
    fn run(&mut self, tx: &mut WriteTx<'_>) -> bool;
    /// Sends the result after the commit, or the commit's own failure.
    fn send_reply(self: Box<Self>, committed: Result<(), &str>);
}

/// A request that is a closure.
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

    fn send_reply(self: Box<Self>, committed: Result<(), &str>) {
        self.pending.send_reply(committed);
    }
}

/// A result that waits for the commit.
pub(crate) struct PendingReply<T> {
    tried: &'static str,
    pub(crate) result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T> PendingReply<T> {
    pub(crate) fn new(tried: &'static str, reply: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { tried, result: None, reply }
    }

    pub(crate) fn send_reply(self, committed: Result<(), &str>) {
        let result = match (self.result, committed) {
            (Some(Err(err)), _) => Err(err),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(why)) => Err(unavailable(self.tried, why)),
            (None, Ok(())) => Err(unavailable(self.tried, "the request was not run")),
        };
        // A caller that no longer waits has dropped the receiver; its work is committed all the same.
        drop(self.reply.send(result));
    }
}

/// Why a transaction was taken back.
enum GroupError {
    /// A request failed after it had changed something.
    PartlyApplied,
    /// The engine failed.
    Engine(rusqlite::Error),
}

impl From<rusqlite::Error> for GroupError {
    fn from(err: rusqlite::Error) -> Self {
        Self::Engine(err)
    }
}

/// The writing thread's own data.
struct WriterThread {
    connection: WriteConnection,
    changes: Arc<watch::Sender<u64>>,
    long_polls: LongPolls,
}

impl WriterThread {
    fn serve(self, requests: &Receiver<QueuedRequest>) {
        let mut previous = PreviousGroup::default();
        while let Ok(first) = requests.recv() {
            // Before the transaction begins, and so before every lease of it.
            let since = Instant::now();
            let mut group = Group::default();
            let callers = collect_group(first, requests, previous, |request| group.add(request));
            let begun = Instant::now();
            let committed = self.commit(&mut group, since).map_err(|err| err.to_string());
            previous = PreviousGroup::new(callers, begun.elapsed());
            group.send_reply(committed.as_ref().copied().map_err(String::as_str));
        }
    }

    /// Savepoints cost more than most requests do. So the group runs without them, and once more with
    /// them when one of it has failed half-way, which is rare.
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

/// The requests of one transaction. Who asks at the same time has no order to keep.
#[derive(Default)]
struct Group {
    items: Vec<BatchedRequest<NewItem, Created>>,
    completions: Vec<BatchedRequest<CompletionRow, ()>>,
    ops: Vec<Box<dyn WriteOp>>,
}

impl Group {
    /// Answers how many enqueue one item so far: they may ask again, while a worker's next steps depend on others'.
    fn add(&mut self, request: QueuedRequest) -> usize {
        match request {
            QueuedRequest::Enqueue(request) => self.items.push(request),
            QueuedRequest::Complete(request) => self.completions.push(request),
            QueuedRequest::Op(op) => self.ops.push(op),
        }
        self.items.len()
    }

    /// Runs the requests, those of a kind together, and the long poll's claim if they make work. One may fail, as long
    /// as it has changed nothing.
    fn run_without_savepoints(
        &mut self,
        tx: &mut WriteTx<'_>,
        long_poll: impl FnOnce() -> Option<Box<dyn WriteOp>>,
    ) -> Result<(), GroupError> {
        run_batched(tx, &mut self.items, enqueue::create)?;
        run_batched(tx, &mut self.completions, complete::complete)?;
        self.ops.iter_mut().try_for_each(|op| run_unguarded(tx, &mut **op))?;
        if tx.wakes_workers
            && let Some(claim) = long_poll()
        {
            self.ops.push(claim);
            self.ops.last_mut().map_or(Ok(()), |claim| run_unguarded(tx, &mut **claim))?;
        }
        Ok(())
    }

    /// Runs each request in a savepoint: one that fails leaves nothing behind.
    fn run_with_savepoints(&mut self, tx: &mut WriteTx<'_>) -> rusqlite::Result<()> {
        for request in &mut self.items {
            run_in_savepoint(tx, |tx| request.run(tx, enqueue::create))?;
        }
        for request in &mut self.completions {
            run_in_savepoint(tx, |tx| request.run(tx, complete::complete))?;
        }
        self.ops.iter_mut().try_for_each(|op| run_in_savepoint(tx, |tx| op.run(tx)))
    }

    fn send_reply(self, committed: Result<(), &str>) {
        let items: Vec<_> = self.items.into_iter().map(|request| request.send_reply(committed)).collect();
        let completions: Vec<_> = self.completions.into_iter().map(|request| request.send_reply(committed)).collect();
        self.ops.into_iter().for_each(|op| op.send_reply(committed));
        // Freed when all know: they ask again meanwhile, and are in the next group.
        drop((items, completions));
    }
}

/// Does many requests of a kind; each keeps its own result.
type BatchFn<I, T> = fn(&mut WriteTx<'_>, &[&I]) -> Vec<Result<T, StoreError>>;

impl<I, T> BatchedRequest<I, T> {
    fn run(&mut self, tx: &mut WriteTx<'_>, run_all: BatchFn<I, T>) -> bool {
        self.pending.result = run_all(tx, &[&self.input]).pop();
        matches!(self.pending.result, Some(Ok(_)))
    }

    /// Leaves what was asked for.
    fn send_reply(self, committed: Result<(), &str>) -> I {
        self.pending.send_reply(committed);
        self.input
    }
}

/// Those that are refused have changed nothing. What an engine's failure has left behind is not known.
fn run_batched<I, T>(
    tx: &mut WriteTx<'_>,
    requests: &mut [BatchedRequest<I, T>],
    run_all: BatchFn<I, T>,
) -> Result<(), GroupError> {
    let inputs: Vec<_> = requests.iter().map(|request| &request.input).collect();
    let results = run_all(tx, &inputs);
    let has_engine_failure = |result: &Result<T, StoreError>| matches!(result, Err(StoreError::Unavailable { .. }));
    if tx.connection.is_autocommit() || results.iter().any(has_engine_failure) {
        return Err(GroupError::PartlyApplied);
    }
    requests.iter_mut().zip(results).for_each(|(request, result)| request.pending.result = Some(result));
    Ok(())
}

fn run_unguarded(tx: &mut WriteTx<'_>, op: &mut dyn WriteOp) -> Result<(), GroupError> {
    let (mark, changes) = (tx.mark(), tx.connection.total_changes());
    if op.run(tx) {
        return Ok(());
    }
    if tx.connection.is_autocommit() || tx.connection.total_changes() != changes {
        return Err(GroupError::PartlyApplied);
    }
    tx.rewind_to(mark);
    Ok(())
}

fn run_in_savepoint(tx: &mut WriteTx<'_>, run: impl FnOnce(&mut WriteTx<'_>) -> bool) -> rusqlite::Result<()> {
    let mark = tx.mark();
    execute(tx.connection, "SAVEPOINT request")?;
    if !run(tx) {
        tx.rewind_to(mark);
        execute(tx.connection, "ROLLBACK TO request")?;
    }
    execute(tx.connection, "RELEASE request")
}
