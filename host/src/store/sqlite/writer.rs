//! The one thread that writes: it commits what has queued in groups.
//!
//! It does not know what the requests do. One that fails takes nothing of the others with it, and each
//! learns its own result after the commit of all.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use super::step::{Session, Step, execute};
use super::{SqliteOptions, unavailable};
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
        let session = Session::open(path, options).map_err(unavailable("opening the database for writing"))?;
        let (queue, requests) = mpsc::channel();
        let group = Group { session, changes };
        let thread = std::thread::Builder::new()
            .name("outbox-writer".into())
            .spawn(move || group.serve(&requests))
            .map_err(|source| StoreError::Unavailable { tried: "starting the writer", source: source.into() })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Runs `work` inside the next group commit and returns its result once that has been committed.
    /// `tried` says in an error what was being done. The work may be done twice, when a first transaction
    /// is taken back.
    pub(super) async fn run<T, F>(&self, tried: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Step<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request = Work { tried, run: work, result: None, reply };
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

/// What stands in the queue.
trait Request: Send {
    /// Does the work and keeps its result. Returns whether it may be committed.
    fn run(&mut self, step: &mut Step<'_>) -> bool;
    /// Sends the result after the commit, or the commit's own failure.
    fn answer(self: Box<Self>, committed: Result<(), &str>);
}

struct Work<T, F> {
    tried: &'static str,
    run: F,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Request for Work<T, F>
where
    T: Send,
    F: FnMut(&mut Step<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, step: &mut Step<'_>) -> bool {
        self.result.insert((self.run)(step)).is_ok()
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

/// Why a transaction was taken back.
enum Broken {
    /// A request failed after it had changed something.
    Spoilt,
    /// The engine failed.
    Engine(rusqlite::Error),
}

impl From<rusqlite::Error> for Broken {
    fn from(err: rusqlite::Error) -> Self {
        Self::Engine(err)
    }
}

/// The writing thread's own data.
struct Group {
    session: Session,
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

    /// Savepoints cost more than most requests do. So the group runs without them, and once more with
    /// them when one of it has failed half-way, which is rare.
    fn commit(&self, group: &mut [Box<dyn Request>]) -> rusqlite::Result<()> {
        let committed = match self.session.transact(|step| run_bare(group, step)) {
            Ok(committed) => committed,
            Err(Broken::Spoilt) => self.session.transact(|step| run_apart(group, step))?,
            Err(Broken::Engine(err)) => return Err(err),
        };
        if committed.makes_work {
            self.changes.send_modify(|version| *version += 1);
        }
        Ok(())
    }
}

/// Runs the requests. One may fail, as long as it has changed nothing.
fn run_bare(group: &mut [Box<dyn Request>], step: &mut Step<'_>) -> Result<(), Broken> {
    for request in group {
        let (mark, changes) = (step.mark(), step.tx.total_changes());
        if request.run(step) {
            continue;
        }
        if step.tx.is_autocommit() || step.tx.total_changes() != changes {
            return Err(Broken::Spoilt);
        }
        step.reset(mark);
    }
    Ok(())
}

/// Runs each request in a savepoint: one that fails leaves nothing behind.
fn run_apart(group: &mut [Box<dyn Request>], step: &mut Step<'_>) -> rusqlite::Result<()> {
    for request in group {
        let mark = step.mark();
        execute(step.tx, "SAVEPOINT request")?;
        if !request.run(step) {
            step.reset(mark);
            execute(step.tx, "ROLLBACK TO request")?;
        }
        execute(step.tx, "RELEASE request")?;
    }
    Ok(())
}
