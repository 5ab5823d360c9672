//! Which attempts may run: at most as many at a time as the operator allows, and a few more of types that have almost
//! none running meanwhile.
//!
//! Attempts of one type begin in the order in which they came. It knows no item.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use tokio::sync::oneshot;

use outbox_core::ServedType;

use crate::floor::{Floor, most_attempts};

/// The run permits of a worker.
#[derive(Debug)]
pub(crate) struct RunPermits {
    permits: usize,
    state: Mutex<RunState>,
}

#[derive(Debug, Default)]
struct RunState {
    room: Room,
    /// How many attempts have had to wait.
    arrivals: u64,
    types: HashMap<String, TypeRuns>,
}

/// What decides whether one more attempt may run.
#[derive(Debug, Default)]
struct Room {
    floor: Floor,
    running: usize,
}

impl Room {
    /// Whether an attempt may run of a type that has so many running.
    fn is_for(&self, permits: usize, running_of_type: usize) -> bool {
        let is_below_floor = self.floor.missing(running_of_type) > 0 && self.running < most_attempts(permits);
        self.running < permits || is_below_floor
    }
}

/// The attempts of one type.
#[derive(Debug, Default)]
struct TypeRuns {
    running: usize,
    waiting: VecDeque<WaitingRun>,
}

impl TypeRuns {
    fn begin(&mut self, room: &mut Room) {
        room.running += 1;
        self.running += 1;
    }
}

#[derive(Debug)]
struct WaitingRun {
    arrival: u64,
    served_type: Arc<ServedType>,
    grant: oneshot::Sender<RunPermit>,
}

/// The right to run one attempt. Dropping it lets another one run.
#[derive(Debug)]
pub(crate) struct RunPermit {
    permits: Arc<RunPermits>,
    served_type: Arc<ServedType>,
}

impl RunPermits {
    pub(crate) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self { permits, state: Mutex::default() })
    }

    /// Shares the permits out among so many types from now on.
    pub(crate) fn serve(&self, types: usize) {
        self.lock().room.floor = Floor::new(self.permits, types);
    }

    /// Waits for a permit. Safe to cancel.
    pub(crate) async fn acquire(self: &Arc<Self>, served_type: &Arc<ServedType>) -> RunPermit {
        let granted = self.lock().begin_or_wait(self.permits, served_type);
        let Some(granted) = granted else { return self.permit(Arc::clone(served_type)) };
        match granted.await {
            Ok(permit) => permit,
            Err(_) => unreachable!("whoever takes a waiting attempt out of the line grants it a permit"),
        }
    }

    fn permit(self: &Arc<Self>, served_type: Arc<ServedType>) -> RunPermit {
        RunPermit { permits: Arc::clone(self), served_type }
    }

    /// Grants permits to those that wait and may run.
    fn admit(self: &Arc<Self>) {
        loop {
            let Some(WaitingRun { served_type, grant, .. }) = self.lock().next(self.permits) else { return };
            // Outside of the lock: an attempt that waits no more returns its permit at once.
            drop(grant.send(self.permit(served_type)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, RunState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunState {
    /// Begins an attempt, or puts it in line.
    fn begin_or_wait(&mut self, permits: usize, served_type: &Arc<ServedType>) -> Option<oneshot::Receiver<RunPermit>> {
        let runs = self.types.entry_ref(served_type.item_type.as_str()).or_default();
        if runs.waiting.is_empty() && self.room.is_for(permits, runs.running) {
            runs.begin(&mut self.room);
            return None;
        }
        let (grant, granted) = oneshot::channel();
        self.arrivals += 1;
        let waiting = WaitingRun { arrival: self.arrivals, served_type: Arc::clone(served_type), grant };
        runs.waiting.push_back(waiting);
        Some(granted)
    }

    /// Takes the attempt out of the line that has waited for the longest time, of those that may run.
    fn next(&mut self, permits: usize) -> Option<WaitingRun> {
        let may_run = self.types.values_mut().filter(|runs| self.room.is_for(permits, runs.running));
        let first = |runs: &TypeRuns| runs.waiting.front().map(|waiting| waiting.arrival);
        let (_, runs) = may_run.filter_map(|runs| Some((first(runs)?, runs))).min_by_key(|(arrival, _)| *arrival)?;
        runs.begin(&mut self.room);
        runs.waiting.pop_front()
    }

    fn end(&mut self, item_type: &str) {
        self.room.running -= 1;
        if let Some(runs) = self.types.get_mut(item_type) {
            runs.running -= 1;
        }
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        self.permits.lock().end(&self.served_type.item_type);
        self.permits.admit();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn served(item_type: &str) -> Arc<ServedType> {
        Arc::new(ServedType::new(item_type))
    }

    /// Permits for these types, with as many attempts of the first one as may run.
    fn full_of_slow(permits: usize, types: &[Arc<ServedType>]) -> (Arc<RunPermits>, Vec<RunPermit>) {
        let all = RunPermits::new(permits);
        all.serve(types.len());
        let held = as_many_as_run(&all, &types[0]);
        (all, held)
    }

    fn as_many_as_run(all: &Arc<RunPermits>, served_type: &Arc<ServedType>) -> Vec<RunPermit> {
        std::iter::from_fn(|| all.acquire(served_type).now_or_never()).collect()
    }

    #[test]
    fn a_slow_type_has_all_permits_and_the_others_get_a_few_more() {
        let types = [served("slow"), served("quick"), served("other")];
        assert_eq!(full_of_slow(24, &types[..1]).1.len(), 24);
        let (all, slow) = full_of_slow(24, &types);
        let (quick, other) = (as_many_as_run(&all, &types[1]), as_many_as_run(&all, &types[2]));
        assert_eq!((slow.len(), quick.len(), other.len()), (24, 2, 2));
    }

    #[tokio::test]
    async fn who_waits_is_admitted_in_order_and_a_type_in_line_does_not_hold_up_another() {
        let types = [served("slow"), served("quick")];
        let (all, mut held) = full_of_slow(8, &types);
        let mut first = Box::pin(all.acquire(&types[0]));
        let mut second = Box::pin(all.acquire(&types[0]));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        let quick = all.acquire(&types[1]).now_or_never().expect("it is below its floor");
        assert!(all.acquire(&types[1]).now_or_never().is_none());
        held.pop();
        assert!(first.as_mut().now_or_never().is_none(), "nine run, and eight may");
        drop(quick);
        assert!(second.as_mut().now_or_never().is_none());
        let first = first.await;
        held.pop();
        drop((first, second.await));
    }

    #[test]
    fn a_permit_for_an_attempt_that_waits_no_more_goes_to_the_next() {
        let types = [served("slow")];
        let (all, mut held) = full_of_slow(1, &types);
        let mut gone = Box::pin(all.acquire(&types[0]));
        let mut next = Box::pin(all.acquire(&types[0]));
        assert!(gone.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(gone);
        held.clear();
        assert!(next.now_or_never().is_some());
    }
}
