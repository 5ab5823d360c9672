//! The one thread that writes: it commits what has queued in groups.
//!
//! It does not know what the requests do, but for the commonest: new items share statements, and so do completions.
//! One that fails takes nothing of the others with it, and each learns its own result after the commit of all.
//! What makes work for a worker that has offered to take some is followed by its claim, in the same commit.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{oneshot, watch};

use super::SqliteOptions;
use super::complete::{self, Completion};
use super::enqueue::{self, Created};
use super::gather::{Last, gather};
use super::offer::{Claiming, Offers};
use super::step::{Session, Step, execute};
use crate::item::NewItem;
use crate::store::{ClaimRequest, Claimed, Offer, StoreError};

/// The handle of the writing thread.
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Request>>,
    offers: Offers,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        path: &Path,
        options: SqliteOptions,
        changes: Arc<watch::Sender<u64>>,
    ) -> Result<Self, StoreError> {
        let session = Session::open(path, options).map_err(super::unavailable("opening the database for writing"))?;
        let (queue, requests) = mpsc::channel();
        let offers = Offers::default();
        let writing = Writing { session, changes, offers: offers.clone() };
        let thread =
            std::thread::Builder::new()
                .name("outbox-writer".into())
                .spawn(move || writing.serve(&requests))
                .map_err(|source| StoreError::Unavailable { tried: "starting the writer", source: source.into() })?;
        Ok(Self { queue: Some(queue), offers, thread: Some(thread) })
    }

    /// Runs `work` inside the next group commit and returns its result once that has been committed.
    /// `tried` says in an error what was being done. The work may be done twice, when a first transaction
    /// is taken back.
    pub(super) async fn run<T, F>(&self, tried: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Step<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.ask(tried, |pending| Request::Work(Box::new(Task { run, pending }))).await
    }

    /// Enqueues one valid item in the next group commit, together with the others of that.
    pub(super) async fn enqueue(&self, item: NewItem) -> Result<Created, StoreError> {
        self.ask("enqueueing items", |pending| Request::Enqueue(Ask { input: item, pending })).await
    }

    /// Settles one claim in the next group commit, together with the others of that.
    pub(super) async fn complete(&self, completion: Completion) -> Result<(), StoreError> {
        self.ask("settling a claim", |pending| Request::Complete(Ask { input: completion, pending })).await
    }

    /// Claims in the next group commit. What the request has not got then is offered.
    pub(super) async fn claim(&self, request: ClaimRequest) -> Result<(Claimed, Option<Offer>), StoreError> {
        let claiming = |pending| Request::Work(Box::new(Claiming::new(request, self.offers.clone(), pending)));
        self.ask("claiming items", claiming).await
    }

    /// A request that cannot be queued is dropped, and its caller notices.
    async fn ask<T>(&self, tried: &'static str, request: impl FnOnce(Pending<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        if let Some(queue) = &self.queue {
            drop(queue.send(request(Pending::new(tried, reply))));
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
enum Request {
    Enqueue(Ask<NewItem, Created>),
    Complete(Ask<Completion, ()>),
    Work(Box<dyn Work>),
}

/// A request of a kind that is done for many at once.
struct Ask<I, T> {
    input: I,
    pending: Pending<T>,
}

/// A request that nothing is known of.
pub(super) trait Work: Send {
    /// Does the work and keeps its result. Returns whether it may be committed.
    fn run(&mut self, step: &mut Step<'_>) -> bool;
    /// Sends the result after the commit, or the commit's own failure.
    fn answer(self: Box<Self>, committed: Result<(), &str>);
}

/// A request that is a closure.
pub(super) struct Task<T, F> {
    pub(super) run: F,
    pub(super) pending: Pending<T>,
}

impl<T, F> Work for Task<T, F>
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

/// A result that waits for the commit.
pub(super) struct Pending<T> {
    tried: &'static str,
    pub(super) result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T> Pending<T> {
    pub(super) fn new(tried: &'static str, reply: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { tried, result: None, reply }
    }

    pub(super) fn answer(self, committed: Result<(), &str>) {
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
struct Writing {
    session: Session,
    changes: Arc<watch::Sender<u64>>,
    offers: Offers,
}

impl Writing {
    fn serve(self, requests: &Receiver<Request>) {
        let mut last = Last::default();
        while let Ok(first) = requests.recv() {
            // Before the transaction begins, and so before every lease of it.
            let since = Instant::now();
            let mut group = Group::default();
            let callers = gather(first, requests, last, |request| group.add(request));
            let begun = Instant::now();
            let committed = self.commit(&mut group, since).map_err(|err| err.to_string());
            last = Last::new(callers, begun.elapsed());
            group.answer(committed.as_ref().copied().map_err(String::as_str));
        }
    }

    /// Savepoints cost more than most requests do. So the group runs without them, and once more with
    /// them when one of it has failed half-way, which is rare.
    fn commit(&self, group: &mut Group, since: Instant) -> rusqlite::Result<()> {
        let offered = || self.offers.take_up(since);
        let committed = match self.session.transact(|step| group.run_bare(step, offered)) {
            Ok(committed) => committed,
            Err(Broken::Spoilt) => self.session.transact(|step| group.run_apart(step))?,
            Err(Broken::Engine(err)) => return Err(err),
        };
        if committed.makes_work {
            self.changes.send_modify(|version| *version += 1);
        }
        Ok(())
    }
}

/// The requests of one transaction. Who asks at the same time has no order to keep.
#[derive(Default)]
struct Group {
    items: Vec<Ask<NewItem, Created>>,
    completions: Vec<Ask<Completion, ()>>,
    works: Vec<Box<dyn Work>>,
}

impl Group {
    /// Answers how many enqueue one item so far: they may ask again, while a worker's next steps depend on others'.
    fn add(&mut self, request: Request) -> usize {
        match request {
            Request::Enqueue(ask) => self.items.push(ask),
            Request::Complete(ask) => self.completions.push(ask),
            Request::Work(work) => self.works.push(work),
        }
        self.items.len()
    }

    /// Runs the requests, those of a kind together, and what was offered if they make work. One may fail, as long as
    /// it has changed nothing.
    fn run_bare(&mut self, step: &mut Step<'_>, offered: impl FnOnce() -> Option<Box<dyn Work>>) -> Result<(), Broken> {
        together(step, &mut self.items, enqueue::create)?;
        together(step, &mut self.completions, complete::complete)?;
        self.works.iter_mut().try_for_each(|work| bare(step, &mut **work))?;
        if step.makes_work
            && let Some(claim) = offered()
        {
            self.works.push(claim);
            self.works.last_mut().map_or(Ok(()), |claim| bare(step, &mut **claim))?;
        }
        Ok(())
    }

    /// Runs each request in a savepoint: one that fails leaves nothing behind.
    fn run_apart(&mut self, step: &mut Step<'_>) -> rusqlite::Result<()> {
        for ask in &mut self.items {
            apart(step, |step| ask.run(step, enqueue::create))?;
        }
        for ask in &mut self.completions {
            apart(step, |step| ask.run(step, complete::complete))?;
        }
        self.works.iter_mut().try_for_each(|work| apart(step, |step| work.run(step)))
    }

    fn answer(self, committed: Result<(), &str>) {
        let items: Vec<_> = self.items.into_iter().map(|ask| ask.answer(committed)).collect();
        let completions: Vec<_> = self.completions.into_iter().map(|ask| ask.answer(committed)).collect();
        self.works.into_iter().for_each(|work| work.answer(committed));
        // Freed when all know: they ask again meanwhile, and are in the next group.
        drop((items, completions));
    }
}

/// Does many requests of a kind; each keeps its own result.
type Many<I, T> = fn(&mut Step<'_>, &[&I]) -> Vec<Result<T, StoreError>>;

impl<I, T> Ask<I, T> {
    fn run(&mut self, step: &mut Step<'_>, many: Many<I, T>) -> bool {
        self.pending.result = many(step, &[&self.input]).pop();
        matches!(self.pending.result, Some(Ok(_)))
    }

    /// Leaves what was asked for.
    fn answer(self, committed: Result<(), &str>) -> I {
        self.pending.answer(committed);
        self.input
    }
}

/// Those that are refused have changed nothing. What an engine's failure has left behind is not known.
fn together<I, T>(step: &mut Step<'_>, asks: &mut [Ask<I, T>], many: Many<I, T>) -> Result<(), Broken> {
    let inputs: Vec<_> = asks.iter().map(|ask| &ask.input).collect();
    let results = many(step, &inputs);
    let is_broken = |result: &Result<T, StoreError>| matches!(result, Err(StoreError::Unavailable { .. }));
    if step.tx.is_autocommit() || results.iter().any(is_broken) {
        return Err(Broken::Spoilt);
    }
    asks.iter_mut().zip(results).for_each(|(ask, result)| ask.pending.result = Some(result));
    Ok(())
}

fn bare(step: &mut Step<'_>, work: &mut dyn Work) -> Result<(), Broken> {
    let (mark, changes) = (step.mark(), step.tx.total_changes());
    if work.run(step) {
        return Ok(());
    }
    if step.tx.is_autocommit() || step.tx.total_changes() != changes {
        return Err(Broken::Spoilt);
    }
    step.reset(mark);
    Ok(())
}

fn apart(step: &mut Step<'_>, run: impl FnOnce(&mut Step<'_>) -> bool) -> rusqlite::Result<()> {
    let mark = step.mark();
    execute(step.tx, "SAVEPOINT request")?;
    if !run(step) {
        step.reset(mark);
        execute(step.tx, "ROLLBACK TO request")?;
    }
    execute(step.tx, "RELEASE request")
}
