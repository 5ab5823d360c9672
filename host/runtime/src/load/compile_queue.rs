//! Whose turn it is to compile: one component at a time, and of those that wait the smallest. Small components compile
//! in milliseconds, those of interpreters in up to a minute.
//!
//! It does not know what is compiled, nor what becomes of the code.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The size of a component in bytes, and a number that no other place has, so that equal sizes keep their order.
type PlaceId = (usize, u64);

/// The components that wait for being compiled.
#[derive(Default)]
pub(crate) struct CompileQueue {
    state: Mutex<CompileState>,
    changed: Notify,
}

#[derive(Default)]
struct CompileState {
    waiting: BTreeSet<PlaceId>,
    compiling: Option<PlaceId>,
    last_number: u64,
}

impl CompileQueue {
    /// A place in the queue for a component of so many bytes. Larger components wait until the place is dropped, also
    /// while its owner still reads or checks the component.
    pub(crate) fn join(self: &Arc<Self>, bytes: usize) -> QueuePlace {
        let mut state = self.state();
        state.last_number += 1;
        let id = (bytes, state.last_number);
        state.waiting.insert(id);
        QueuePlace { queue: Arc::clone(self), id }
    }

    fn state(&self) -> MutexGuard<'_, CompileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the turn to the place, if it is the first one and no other has the turn.
    fn try_begin(&self, id: PlaceId) -> bool {
        let mut state = self.state();
        let may_begin = state.compiling.is_none() && state.waiting.first() == Some(&id);
        if may_begin {
            state.waiting.remove(&id);
            state.compiling = Some(id);
        }
        may_begin
    }
}

/// A place in the queue. Dropping it lets the next one have its turn.
pub(crate) struct QueuePlace {
    queue: Arc<CompileQueue>,
    id: PlaceId,
}

impl QueuePlace {
    /// Waits for the turn of this place. The turn ends when the place is dropped.
    pub(crate) async fn turn(&self) {
        loop {
            // Registered before the state is looked at, so that no change in between is missed.
            let mut changed = std::pin::pin!(self.queue.changed.notified());
            changed.as_mut().enable();
            if self.queue.try_begin(self.id) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.waiting.remove(&self.id);
        if state.compiling == Some(self.id) {
            state.compiling = None;
        }
        drop(state);
        self.queue.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn has_turn(place: &QueuePlace) -> bool {
        place.turn().now_or_never().is_some()
    }

    #[test]
    fn the_smallest_that_waits_is_next_and_equal_sizes_keep_their_order() {
        let queue = Arc::new(CompileQueue::default());
        let [large, small, also_small] = [9, 1, 1].map(|bytes| queue.join(bytes));
        assert!(!has_turn(&large), "a smaller one waits");
        assert!(!has_turn(&also_small), "it came later");
        assert!(has_turn(&small));
        drop(small);
        assert!(!has_turn(&large));
        assert!(has_turn(&also_small));
    }

    #[test]
    fn one_compiles_at_a_time_also_when_a_smaller_one_comes() {
        let queue = Arc::new(CompileQueue::default());
        let large = queue.join(9);
        assert!(has_turn(&large));
        let small = queue.join(1);
        assert!(!has_turn(&small));
        drop(large);
        assert!(has_turn(&small));
    }

    #[tokio::test]
    async fn one_that_leaves_without_its_turn_lets_the_next_one_through() {
        let queue = Arc::new(CompileQueue::default());
        let (small, large) = (queue.join(1), queue.join(9));
        let waiting = tokio::spawn(async move { large.turn().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(small);
        waiting.await.unwrap();
    }
}
