//! The one thread that writes: it commits what has queued in groups.
//!
//! Owns the transaction and its clock reading. It does not know what the requests do: each runs in a
//! savepoint of its own, so that one that fails takes nothing of the others with it, and each learns
//! its own result after the commit of all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::{oneshot, watch};

use super::{SqliteOptions, connect, unavailable};
use crate::item::Millis;
use crate::store::StoreError;

/// A transaction takes at most so many requests, so that the first of them is not kept waiting.
const GROUP_MAX: usize = 1024;

/// The handle of the writing thread.
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        path: &Path,
        options: SqliteOptions,
        changes: Arc<watch::Sender<u64>>,
    ) -> Result<Self, StoreError> {
        let connection = open(path).map_err(unavailable("opening the database for writing"))?;
        let (queue, requests) = mpsc::channel();
        let group = Group { connection, options, changes };
        let thread = std::thread::Builder::new()
            .name("outbox-writer".into())
            .spawn(move || group.serve(&requests))
            .map_err(|source| StoreError::Unavailable { tried: "starting the writer", source: source.into() })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Runs `work` inside the next group commit and returns its result once that has been committed.
    /// `tried` says in an error what was being done.
    pub(super) async fn run<T, F>(&self, tried: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Step<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request = Work { tried, run: Some(work), result: None, reply };
        let queued = self.queue.as_ref().is_some_and(|queue| queue.send(Box::new(request)).is_ok());
        let answer = if queued { answer.await.ok() } else { None };
        answer.unwrap_or_else(|| Err(StoreError::Unavailable { tried, source: "the writer has stopped".into() }))
    }
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

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Never less than FULL: an acknowledged item survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -64_000)?;
    connection.pragma_update(None, "journal_size_limit", super::upkeep::WAL_MAX)?;
    connection.pragma_update(None, "recursive_triggers", false)?;
    Ok(connection)
}

/// One transaction, as a request sees it.
pub(super) struct Step<'a> {
    /// The connection, inside the transaction.
    pub(super) tx: &'a Connection,
    /// The store's time of this transaction, read while the write lock was held.
    pub(super) now: Millis,
    /// The instance id of this process.
    pub(super) pod: &'a str,
    /// What is announced as items, if anything.
    pub(super) alerts: Option<&'a super::Alerts>,
    /// Whether the transaction makes work available, so that workers should look.
    pub(super) makes_work: bool,
    tallies: Vec<Tally>,
}

struct Tally {
    key: [String; 4],
    by: i64,
}

impl Step<'_> {
    /// Changes one of the totals in `outbox_counters`, in this transaction.
    pub(super) fn tally(&mut self, name: &str, saga: &str, item_type: &str, outcome: &str, by: i64) {
        self.tallies.push(Tally { key: [name, saga, item_type, outcome].map(str::to_owned), by });
    }

    /// Writes the totals: one statement for each that changed, however many requests changed it.
    fn flush_tallies(&mut self) -> rusqlite::Result<()> {
        let mut sums: BTreeMap<[String; 4], i64> = BTreeMap::new();
        for tally in self.tallies.drain(..) {
            *sums.entry(tally.key).or_default() += tally.by;
        }
        let mut add = self.tx.prepare_cached(
            "INSERT INTO outbox_counters (name, saga, type, outcome, total) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET total = total + excluded.total",
        )?;
        for ([name, saga, item_type, outcome], by) in sums {
            add.execute(params![name, saga, item_type, outcome, by])?;
        }
        Ok(())
    }
}

/// What stands in the queue.
trait Request: Send {
    /// Does the work and keeps its result. Returns whether it may be committed.
    fn run(&mut self, step: &mut Step<'_>) -> bool;
    /// Sends the result after the commit, or the commit's own failure.
    fn answer(self: Box<Self>, committed: Result<(), &str>);
}

struct Work<T, F> {
    tried: &'static str,
    run: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Request for Work<T, F>
where
    T: Send,
    F: FnOnce(&mut Step<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, step: &mut Step<'_>) -> bool {
        self.result = self.run.take().map(|work| work(step));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, committed: Result<(), &str>) {
        let failed = |why: &str| StoreError::Unavailable { tried: self.tried, source: why.into() };
        let result = match (self.result, committed) {
            (Some(Err(err)), _) => Err(err),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(why)) => Err(failed(why)),
            (None, Ok(())) => Err(failed("the request was not run")),
        };
        // A caller that no longer waits has dropped the receiver; its work is committed all the same.
        drop(self.reply.send(result));
    }
}

/// The writing thread's own data.
struct Group {
    connection: Connection,
    options: SqliteOptions,
    changes: Arc<watch::Sender<u64>>,
}

impl Group {
    fn serve(self, requests: &Receiver<Box<dyn Request>>) {
        while let Ok(first) = requests.recv() {
            let mut group = vec![first];
            group.extend(requests.try_iter().take(GROUP_MAX - 1));
            let committed = self.commit(&mut group).map_err(|err| err.to_string());
            for request in group {
                request.answer(committed.as_ref().copied().map_err(String::as_str));
            }
        }
    }

    fn commit(&self, group: &mut [Box<dyn Request>]) -> rusqlite::Result<()> {
        self.execute("BEGIN IMMEDIATE")?;
        match self.run(group) {
            Ok(makes_work) => {
                if makes_work {
                    self.changes.send_modify(|version| *version += 1);
                }
                Ok(())
            }
            Err(err) => {
                // Some failures have ended the transaction already.
                if !self.connection.is_autocommit() {
                    self.execute("ROLLBACK")?;
                }
                Err(err)
            }
        }
    }

    fn run(&self, group: &mut [Box<dyn Request>]) -> rusqlite::Result<bool> {
        let now = (self.options.clock)();
        let pod = &self.options.instance;
        let alerts = self.options.alerts.as_ref();
        let mut step = Step { tx: &self.connection, now, pod, alerts, makes_work: false, tallies: Vec::new() };
        for request in group {
            self.run_one(request.as_mut(), &mut step)?;
        }
        step.flush_tallies()?;
        self.execute("COMMIT")?;
        Ok(step.makes_work)
    }

    /// One request in its savepoint: a request that fails leaves nothing behind.
    fn run_one(&self, request: &mut dyn Request, step: &mut Step<'_>) -> rusqlite::Result<()> {
        let tallies = step.tallies.len();
        self.execute("SAVEPOINT request")?;
        if !request.run(step) {
            step.tallies.truncate(tallies);
            self.execute("ROLLBACK TO request")?;
        }
        self.execute("RELEASE request")
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(|_| ())
    }
}
