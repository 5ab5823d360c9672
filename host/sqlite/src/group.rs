//! Which requests share a commit, and how they run in one transaction.
//!
//! It does not know what a request does, except that new items share statements, and so do completions. The group runs
//! without savepoints, which cost more than most requests. If a request fails after a change, the writer rolls the
//! group back and reruns it with one savepoint per request, so that a failed request changes nothing and the others
//! commit.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use outbox_item::NewItem;
use outbox_store::StoreError;

use crate::complete::{self, CompletionRow};
use crate::enqueue::{self, Created};
use crate::error::full_disk;
use crate::write_op::{PendingReply, WriteOp};
use crate::write_tx::WriteTx;

/// A request in the writer's queue. The two commonest kinds share statements with others of their kind.
pub(crate) enum QueuedRequest {
    Enqueue(BatchedRequest<NewItem, Created>),
    Complete(BatchedRequest<CompletionRow, ()>),
    Op(Box<dyn WriteOp>),
}

/// A request of a kind that runs for many callers at once.
pub(crate) struct BatchedRequest<I, T> {
    pub(crate) input: I,
    pub(crate) pending: PendingReply<T>,
}

/// Why a transaction was rolled back.
pub(crate) enum GroupError {
    /// A request failed after it had changed something.
    PartlyApplied,
    /// SQLite failed.
    Engine(rusqlite::Error),
}

impl From<rusqlite::Error> for GroupError {
    fn from(err: rusqlite::Error) -> Self {
        Self::Engine(err)
    }
}

/// The requests of one transaction. Requests that wait at the same time have no order among them, so those of one kind
/// run together.
#[derive(Default)]
pub(crate) struct Group {
    items: Vec<BatchedRequest<NewItem, Created>>,
    completions: Vec<BatchedRequest<CompletionRow, ()>>,
    ops: Vec<Box<dyn WriteOp>>,
}

impl Group {
    /// Waits for requests that belong together with `first`, and takes them. Returns the group and the number of its
    /// clients that may send another request.
    pub(crate) fn collect(
        first: QueuedRequest,
        queue: &Receiver<QueuedRequest>,
        previous: PreviousGroup,
    ) -> (Self, usize) {
        let mut group = Self::default();
        let callers = collect_group(first, queue, previous, |request| group.add(request));
        (group, callers)
    }

    /// Returns how many requests enqueue one item: their clients may send another soon. A worker's next request depends
    /// on its attempts instead.
    fn add(&mut self, request: QueuedRequest) -> usize {
        match request {
            QueuedRequest::Enqueue(request) => self.items.push(request),
            QueuedRequest::Complete(request) => self.completions.push(request),
            QueuedRequest::Op(op) => self.ops.push(op),
        }
        self.items.len()
    }

    /// Runs the requests, and the claim of the long poll if they make work. A request may fail as long as it has
    /// changed nothing.
    pub(crate) fn run_without_savepoints(
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

    /// Runs each request in a savepoint: a request that fails changes nothing.
    pub(crate) fn run_with_savepoints(&mut self, tx: &mut WriteTx<'_>) -> rusqlite::Result<()> {
        tx.is_apart = true;
        for request in &mut self.items {
            run_in_savepoint(tx, |tx| request.run(tx, enqueue::create))?;
        }
        for request in &mut self.completions {
            run_in_savepoint(tx, |tx| request.run(tx, complete::complete))?;
        }
        self.ops.iter_mut().try_for_each(|op| run_in_savepoint(tx, |tx| op.run(tx)))
    }

    /// Why one of the requests found no room on the disk, if one did.
    pub(crate) fn full_disk(&self) -> Option<&rusqlite::Error> {
        let items = self.items.iter().filter_map(|request| request.pending.failure());
        let completions = self.completions.iter().filter_map(|request| request.pending.failure());
        let ops = self.ops.iter().filter_map(|op| op.failure());
        items.chain(completions).chain(ops).find_map(full_disk)
    }

    /// Sends each request's result to its caller, after the commit or with its error.
    pub(crate) fn send_reply(self, committed: Result<(), &str>) {
        let items: Vec<_> = self.items.into_iter().map(|request| request.send_reply(committed)).collect();
        let completions: Vec<_> = self.completions.into_iter().map(|request| request.send_reply(committed)).collect();
        self.ops.into_iter().for_each(|op| op.send_reply(committed));
        // Freed after all replies are sent, so that the clients do not wait for it.
        drop((items, completions));
    }
}

/// Runs many requests of one kind; each has its own result, in the order given.
type BatchFn<I, T> = fn(&mut WriteTx<'_>, &[&I]) -> Vec<Result<T, StoreError>>;

impl<I, T> BatchedRequest<I, T> {
    fn run(&mut self, tx: &mut WriteTx<'_>, run_all: BatchFn<I, T>) -> bool {
        self.pending.result = run_all(tx, &[&self.input]).pop();
        matches!(self.pending.result, Some(Ok(_)))
    }

    /// Returns the input, which the caller frees later.
    fn send_reply(self, committed: Result<(), &str>) -> I {
        self.pending.send_reply(committed);
        self.input
    }
}

/// A refused request has changed nothing. After a failure of SQLite it is unknown what was changed.
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
    let is_full = op.failure().is_some_and(|err| full_disk(err).is_some());
    if tx.asks_apart || is_full || tx.connection.is_autocommit() || tx.connection.total_changes() != changes {
        return Err(GroupError::PartlyApplied);
    }
    tx.rewind_to(mark);
    Ok(())
}

fn run_in_savepoint(tx: &mut WriteTx<'_>, run: impl FnOnce(&mut WriteTx<'_>) -> bool) -> rusqlite::Result<()> {
    // Why the request failed is in its reply.
    tx.in_savepoint(|tx| run(tx).then_some(()).ok_or(())).map(drop)
}

/// The most requests in one transaction, so that the first request does not wait long for its reply.
const GROUP_MAX: usize = 1024;

/// The longest run and commit from which the next wait is derived. A longer one was not the disk alone (another
/// process's transaction, for example), so it does not predict the next commit.
const TOOK_MAX: Duration = Duration::from_millis(20);

/// What the last group predicts about the next one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PreviousGroup {
    callers: usize,
    took: Duration,
}

impl PreviousGroup {
    /// `callers`: clients in the group that may send their next request now. `took`: how long the group ran, with its
    /// commit.
    pub(crate) fn new(callers: usize, took: Duration) -> Self {
        Self { callers, took: took.min(TOOK_MAX) }
    }

    /// Whether a group of `callers` clients waits for another request. Clients answered by one commit tend to send
    /// their next requests together; a short wait lets those share a commit too. A group never waits for a client that
    /// was alone, nor longer than half of the last commit in all and an eighth of it after the newest request.
    fn should_wait(self, callers: usize, since_first: Duration, since_newest: Duration) -> bool {
        self.callers > 1 && callers < self.callers && since_newest < self.took / 8 && since_first < self.took / 2
    }
}

/// Takes `first`, and the requests that belong in one group with it, from the queue. `take` returns how many clients
/// that may send another request are in the group now; so does this function.
fn collect_group<T>(first: T, queue: &Receiver<T>, previous: PreviousGroup, mut take: impl FnMut(T) -> usize) -> usize {
    let begun = Instant::now();
    let mut callers = take(first);
    let (mut taken, mut newest) = (1, begun);
    loop {
        let before = callers;
        for request in queue.try_iter().take(GROUP_MAX - taken) {
            callers = take(request);
            taken += 1;
        }
        let now = Instant::now();
        if callers > before {
            newest = now;
        }
        if taken == GROUP_MAX || !previous.should_wait(callers, now - begun, now - newest) {
            return callers;
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const NONE: Duration = Duration::ZERO;
    const PREVIOUS: PreviousGroup = PreviousGroup { callers: 8, took: Duration::from_millis(16) };

    #[test]
    fn a_group_waits_until_all_clients_of_the_last_group_have_sent_a_request() {
        assert!(PREVIOUS.should_wait(1, NONE, NONE));
        assert!(PREVIOUS.should_wait(7, NONE, NONE));
        assert!(!PREVIOUS.should_wait(8, NONE, NONE));
    }

    #[test]
    fn a_group_does_not_wait_for_a_client_that_was_alone() {
        assert!(!PreviousGroup { callers: 1, ..PREVIOUS }.should_wait(0, NONE, NONE), "the request is a worker's");
        assert!(!PreviousGroup::default().should_wait(1, NONE, NONE));
    }

    #[test]
    fn a_group_waits_only_a_part_of_a_commit_for_clients_that_send_nothing() {
        let ms = Duration::from_millis;
        assert!(PREVIOUS.should_wait(1, ms(1), ms(1)));
        assert!(!PREVIOUS.should_wait(1, ms(2), ms(2)), "no request for a while");
        assert!(PREVIOUS.should_wait(7, ms(7), ms(1)));
        assert!(!PREVIOUS.should_wait(7, ms(8), NONE), "the first request has waited long");
    }

    #[test]
    fn one_slow_commit_does_not_lengthen_the_next_wait_without_bound() {
        let hung = PreviousGroup::new(8, Duration::from_mins(1));
        assert!(!hung.should_wait(1, TOOK_MAX, NONE));
    }

    #[test]
    fn a_group_takes_the_queued_requests_up_to_its_limit() {
        let (send, queue) = mpsc::channel();
        (1..2_000).for_each(|number| send.send(number).expect("the queue is open"));
        let mut taken = Vec::new();
        let size = collect_group(0, &queue, PreviousGroup::default(), |number| {
            taken.push(number);
            taken.len()
        });
        assert_eq!(size, GROUP_MAX);
        assert_eq!(taken, (0..1_024).collect::<Vec<_>>());
    }

    #[test]
    fn a_group_takes_requests_that_arrive_while_it_waits() {
        let (send, queue) = mpsc::channel();
        let previous = PreviousGroup { took: Duration::from_hours(1), ..PREVIOUS };
        let asking = std::thread::spawn(move || (1..8).try_for_each(|number| send.send(number)));
        let mut callers = 0;
        let size = collect_group(0, &queue, previous, |_| {
            callers += 1;
            callers
        });
        assert_eq!(size, 8);
        assert_eq!(asking.join().expect("no panic"), Ok(()));
    }
}
