//! The one thread that writes: it commits what has queued in groups.
//!
//! It does not know what the requests do, but for the commonest: single new items share statements. One that
//! fails takes nothing of the others with it, and each learns its own result after the commit of all.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use super::enqueue::{self, Created};
use super::step::{Session, Step, execute};
use super::{SqliteOptions, unavailable};
use crate::item::NewItem;
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
        self.queue(Box::new(Work { run: work, pending: Pending { tried, result: None, reply } }));
        answer.await.unwrap_or_else(|_| Err(stopped(tried)))
    }

    /// Enqueues one valid item in the next group commit, together with the others of that.
    pub(super) async fn enqueue(&self, item: NewItem) -> Result<Created, StoreError> {
        let (tried, (reply, answer)) = ("enqueueing items", oneshot::channel());
        self.queue(Box::new(Arrival { item, pending: Pending { tried, result: None, reply } }));
        answer.await.unwrap_or_else(|_| Err(stopped(tried)))
    }

    /// A request that cannot be queued is dropped, and its caller notices.
    fn queue(&self, request: Box<dyn Request>) {
        if let Some(queue) = &self.queue {
            drop(queue.send(request));
        }
    }
}

fn stopped(tried: &'static str) -> StoreError {
    StoreError::Unavailable { tried, source: "the writer has stopped".into() }
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
    /// The new item, where that is all that is asked: it is created with others.
    fn item(&self) -> Option<&NewItem> {
        None
    }
    /// Keeps what became of that item.
    fn keep(&mut self, _created: Result<Created, StoreError>) {}
    /// Sends the result after the commit, or the commit's own failure.
    fn answer(self: Box<Self>, committed: Result<(), &str>);
}

/// A result that waits for the commit.
struct Pending<T> {
    tried: &'static str,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T> Pending<T> {
    fn answer(self, committed: Result<(), &str>) {
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

struct Work<T, F> {
    run: F,
    pending: Pending<T>,
}

impl<T, F> Request for Work<T, F>
where
    T: Send,
    F: FnMut(&mut Step<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, step: &mut Step<'_>) -> bool {
        self.pending.result.insert((self.run)(step)).is_ok()
    }

    fn answer(self: Box<Self>, committed: Result<(), &str>) {
        self.pending.answer(committed);
    }
}

/// One new item.
struct Arrival {
    item: NewItem,
    pending: Pending<Created>,
}

impl Request for Arrival {
    fn run(&mut self, step: &mut Step<'_>) -> bool {
        let created = enqueue::create(step, &[&self.item]).pop();
        self.pending.result = created;
        matches!(self.pending.result, Some(Ok(_)))
    }

    fn item(&self) -> Option<&NewItem> {
        Some(&self.item)
    }

    fn keep(&mut self, created: Result<Created, StoreError>) {
        self.pending.result = Some(created);
    }

    fn answer(self: Box<Self>, committed: Result<(), &str>) {
        self.pending.answer(committed);
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
            // Who asks at the same time has no order to keep.
            group.sort_by_key(|request| request.item().is_none());
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

/// Runs the requests, those for single new items first and together. One may fail, as long as it has changed
/// nothing.
fn run_bare(group: &mut [Box<dyn Request>], step: &mut Step<'_>) -> Result<(), Broken> {
    let items: Vec<_> = group.iter().map_while(|request| request.item()).collect();
    let created = enqueue::create(step, &items);
    if step.tx.is_autocommit() {
        return Err(Broken::Spoilt);
    }
    let (arrivals, others) = group.split_at_mut(created.len());
    arrivals.iter_mut().zip(created).for_each(|(request, created)| request.keep(created));
    for request in others {
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
