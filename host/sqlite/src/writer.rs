//! The one thread that writes, and its queue.
//!
//! It does not know what the requests do, nor which of them share a commit (`group`). Each caller gets its own result
//! after the commit of its group, and after a look whether the file is still the one that was opened. When a group makes work for a worker whose long poll waits, the claim of that long
//! poll is part of the same commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use tokio::sync::{oneshot, watch};

use outbox_item::NewItem;
use outbox_store::{ClaimBatch, ClaimRequest, DiskFull, LongPoll, StoreError};

use crate::complete::CompletionRow;
use crate::database_file::DatabaseFile;
use crate::enqueue::Created;
use crate::error::needs_new_connection;
use crate::group::{BatchedRequest, Group, GroupError, PreviousGroup, QueuedRequest};
use crate::long_poll::{ClaimOp, LongPolls};
use crate::migrate;
use crate::options::SqliteOptions;
use crate::write_op::{ClosureOp, PendingReply, not_written};
use crate::write_tx::{WriteConnection, WriteTx};

/// The handle of the writing thread.
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<QueuedRequest>>,
    long_polls: LongPolls,
    refusal: GroupRefusal,
    largest: Arc<LargestTransaction>,
    thread: Option<JoinHandle<()>>,
}

/// The largest transactions, for measurements.
#[derive(Default)]
struct LargestTransaction {
    changes: AtomicU64,
    micros: AtomicU64,
}

impl LargestTransaction {
    fn record(&self, changes: u64, took: Duration) {
        self.changes.fetch_max(changes, Ordering::Relaxed);
        self.micros.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Why the database did not take the last group; `None` once it has taken one.
type GroupRefusal = Arc<Mutex<Option<Refused>>>;

/// How long the store reports a full disk after a group found no room. A small one may find room sooner.
const DISK_FULL_PERIOD: Duration = Duration::from_secs(10);

/// A group that the database did not take.
#[derive(Clone)]
struct Refused {
    why: String,
    is_disk_full: bool,
    at: Instant,
}

impl Refused {
    fn new(err: &rusqlite::Error) -> Self {
        let is_disk_full = err.sqlite_error_code() == Some(ErrorCode::DiskFull);
        Self { why: err.to_string(), is_disk_full, at: Instant::now() }
    }

    /// Whether a group that was taken since shows that the next one will be.
    fn may_have_passed(&self) -> bool {
        !self.is_disk_full || self.at.elapsed() >= DISK_FULL_PERIOD
    }
}

impl Writer {
    /// Starts the thread, with a connection to this file.
    pub(crate) fn start(
        connection: WriteConnection,
        file: Arc<DatabaseFile>,
        options: SqliteOptions,
        changes: Arc<watch::Sender<u64>>,
    ) -> Result<Self, StoreError> {
        let (queue, requests) = mpsc::channel();
        let (long_polls, refusal) = (LongPolls::default(), GroupRefusal::default());
        let largest = Arc::<LargestTransaction>::default();
        let writing = WriterThread {
            connection,
            is_doubtful: false,
            file,
            options,
            changes,
            long_polls: long_polls.clone(),
            refusal: Arc::clone(&refusal),
            largest: Arc::clone(&largest),
        };
        let thread =
            std::thread::Builder::new()
                .name("outbox-writer".into())
                .spawn(move || writing.serve(&requests))
                .map_err(|source| StoreError::Unavailable { tried: "starting the writer", source: source.into() })?;
        Ok(Self { queue: Some(queue), long_polls, refusal, largest, thread: Some(thread) })
    }

    /// Errors with the reason why the database did not take the last group of writes.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        let unavailable = |source| Err(StoreError::Unavailable { tried: "writing", source });
        match &*self.refusal.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(Refused { is_disk_full: true, .. }) => unavailable(DiskFull.into()),
            Some(Refused { why, .. }) => unavailable(why.clone().into()),
        }
    }

    /// The rows that the largest transaction so far has changed.
    #[cfg(feature = "bench-support")]
    pub(crate) fn most_changes(&self) -> u64 {
        self.largest.changes.load(Ordering::Relaxed)
    }

    /// The time of the longest transaction since the last call, its commit included.
    #[cfg(feature = "bench-support")]
    pub(crate) fn take_longest(&self) -> Duration {
        Duration::from_micros(self.largest.micros.swap(0, Ordering::Relaxed))
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
        answer.await.unwrap_or_else(|_| Err(not_written(tried, "the writer has stopped, or met a fault")))
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
    /// Whether the connection failed so that another one may be better.
    is_doubtful: bool,
    file: Arc<DatabaseFile>,
    options: SqliteOptions,
    changes: Arc<watch::Sender<u64>>,
    long_polls: LongPolls,
    refusal: GroupRefusal,
    largest: Arc<LargestTransaction>,
}

impl WriterThread {
    /// Commits groups until the queue is closed. A panic ends the requests of its group, whose transaction is rolled
    /// back, and not the thread.
    fn serve(mut self, requests: &Receiver<QueuedRequest>) {
        let mut previous = PreviousGroup::default();
        while let Ok(first) = requests.recv() {
            let serve = || self.serve_group(first, requests, std::mem::take(&mut previous));
            if let Ok(served) = catch_unwind(AssertUnwindSafe(serve)) {
                previous = served;
                continue;
            }
            let rolled_back = self.connection.roll_back().err().map(|err| err.to_string());
            tracing::error!(error = rolled_back, "a group of writes panicked; its callers get an error");
        }
    }

    fn serve_group(
        &mut self,
        first: QueuedRequest,
        requests: &Receiver<QueuedRequest>,
        previous: PreviousGroup,
    ) -> PreviousGroup {
        // Read before the transaction begins, and so before the lease of each claim in it.
        let since = Instant::now();
        let (mut group, callers) = Group::collect(first, requests, previous);
        let begun = Instant::now();
        let committed = self.commit_to_file(&mut group, since);
        let served = PreviousGroup::new(callers, begun.elapsed());
        group.send_reply(committed.as_ref().copied().map_err(String::as_str));
        served
    }

    /// Commits the group to the file at the store's path, and not to one that was there before.
    fn commit_to_file(&mut self, group: &mut Group, since: Instant) -> Result<(), String> {
        self.follow_file()?;
        let committed = self.commit(group, since);
        self.is_doubtful = committed.as_ref().is_err_and(needs_new_connection);
        let committed = committed.map_err(|err| Refused::new(&err));
        match group.full_disk() {
            Some(err) => self.note_refusal(&Err(Refused::new(err))),
            None => self.note_refusal(&committed),
        }
        committed.map_err(|refused| refused.why)?;
        self.file.check().map(drop).map_err(|changed| changed.to_string())
    }

    fn note_refusal(&self, committed: &Result<bool, Refused>) {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        match committed {
            Err(refused) => *refusal = Some(refused.clone()),
            Ok(true) if refusal.as_ref().is_some_and(Refused::may_have_passed) => *refusal = None,
            // An empty transaction does not show that the disk has room.
            Ok(_) => {}
        }
    }

    /// Connects anew where the path leads to another file than before, or where the connection failed.
    fn follow_file(&mut self) -> Result<(), String> {
        if !self.is_doubtful && self.file.check().is_ok() {
            return Ok(());
        }
        if self.file.has_lost_log() {
            self.connection.checkpoint().map_err(|err| err.to_string())?;
        }
        let found = self.file.find().map_err(|changed| changed.to_string())?;
        let path = self.file.path();
        migrate::check(path).map_err(|err| err.to_string())?;
        let connection = WriteConnection::open(path, self.options.clone()).map_err(|err| err.to_string())?;
        self.file.reopened(found).map_err(|changed| changed.to_string())?;
        (self.connection, self.is_doubtful) = (connection, false);
        tracing::warn!(path = %path.display(), "the database was opened again");
        self.changes.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Commits the group: without savepoints first, and once more with them if a request failed after a change. Returns
    /// whether anything was written.
    fn commit(&self, group: &mut Group, since: Instant) -> rusqlite::Result<bool> {
        let (long_poll, begun) = (|| self.long_polls.fulfil(since), Instant::now());
        let committed = match self.connection.transact(|tx| group.run_without_savepoints(tx, long_poll)) {
            Ok(committed) => committed,
            Err(GroupError::PartlyApplied) => {
                self.connection.mend()?;
                self.connection.transact(|tx| group.run_with_savepoints(tx))?
            }
            Err(GroupError::Engine(err)) => return Err(err),
        };
        if committed.wakes_workers {
            self.changes.send_modify(|version| *version += 1);
        }
        self.largest.record(committed.changes, begun.elapsed());
        Ok(committed.changes > 0)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;
    use crate::error::unavailable;

    fn refused(code: i32) -> Refused {
        Refused::new(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    #[test]
    fn a_write_that_finds_room_shows_no_room_for_the_next_one_while_the_disk_was_full_a_moment_ago() {
        let full = refused(ffi::SQLITE_FULL);
        assert!(!full.may_have_passed());
        let earlier = Instant::now().checked_sub(DISK_FULL_PERIOD).unwrap();
        assert!(Refused { at: earlier, ..full }.may_have_passed());
        assert!(refused(ffi::SQLITE_READONLY).may_have_passed());
    }

    fn open(folder: &tempfile::TempDir) -> Arc<crate::SqliteStore> {
        crate::SqliteStore::open(&folder.path().join("outbox.sqlite"), SqliteOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_finds_no_room_is_reported_although_its_group_commits() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let failure = || rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None);
        let full = move |_: &mut WriteTx<'_>| Err::<(), _>(failure()).map_err(unavailable("adding"));
        assert!(store.writer.run("adding", full).await.is_err());
        assert!(store.writer.probe().unwrap_err().is_disk_full());
    }

    #[tokio::test]
    async fn a_write_that_panics_fails_alone_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let writer = &store.writer;
        let add = |tx: &mut WriteTx<'_>| {
            let insert = "INSERT INTO outbox_alerts (kind, subject, sent_at) VALUES ('k', 't', 1)";
            tx.connection.execute(insert, []).map_err(unavailable("adding"))
        };
        let panicking = move |tx: &mut WriteTx<'_>| -> Result<usize, StoreError> {
            add(tx)?;
            panic!("planted");
        };
        assert!(writer.run("failing", panicking).await.is_err());
        assert_eq!(writer.run("adding", add).await.unwrap(), 1, "the row of the panicking write is gone");
    }
}
