//! Which requests share a commit: those that have queued, and those that are about to.
//!
//! It does not know what a request is.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// A transaction takes at most so many requests, so that the first of them is not kept waiting.
const GROUP_MAX: usize = 1024;

/// What took longer was not the disk alone, such as another process's transaction, and tells nothing.
const TOOK_MAX: Duration = Duration::from_millis(20);

/// The last group: what it tells of the next one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PreviousGroup {
    callers: usize,
    took: Duration,
}

impl PreviousGroup {
    /// So many callers who may ask again, and how long it took to run and to commit the group.
    pub(crate) fn new(callers: usize, took: Duration) -> Self {
        Self { callers, took: took.min(TOOK_MAX) }
    }

    /// Whether a group of so many callers waits for another. Who were answered together ask again together, and a
    /// commit for each part of them is what they would wait for otherwise. Nobody waits for a caller who was alone,
    /// nor much longer than they follow each other.
    fn should_wait(self, callers: usize, since_first: Duration, since_newest: Duration) -> bool {
        self.callers > 1 && callers < self.callers && since_newest < self.took / 8 && since_first < self.took / 2
    }
}

/// Takes `first` and what belongs in one group with it from the queue. `take` answers how many callers who may ask
/// again are in the group by now, and so does this.
pub(crate) fn collect_group<T>(
    first: T,
    queue: &Receiver<T>,
    previous: PreviousGroup,
    mut take: impl FnMut(T) -> usize,
) -> usize {
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
    fn callers_who_were_answered_together_are_waited_for_until_all_have_asked() {
        assert!(PREVIOUS.should_wait(1, NONE, NONE));
        assert!(PREVIOUS.should_wait(7, NONE, NONE));
        assert!(!PREVIOUS.should_wait(8, NONE, NONE));
    }

    #[test]
    fn nobody_waits_for_a_caller_who_was_alone() {
        assert!(!PreviousGroup { callers: 1, ..PREVIOUS }.should_wait(0, NONE, NONE), "what has come is a worker's");
        assert!(!PreviousGroup::default().should_wait(1, NONE, NONE));
    }

    #[test]
    fn callers_who_do_not_ask_again_are_waited_for_a_part_of_a_commit() {
        let ms = Duration::from_millis;
        assert!(PREVIOUS.should_wait(1, ms(1), ms(1)));
        assert!(!PREVIOUS.should_wait(1, ms(2), ms(2)), "nobody has come for a while");
        assert!(PREVIOUS.should_wait(7, ms(7), ms(1)));
        assert!(!PREVIOUS.should_wait(7, ms(8), NONE), "the first has waited for long");
    }

    #[test]
    fn a_commit_that_hung_makes_nobody_wait_as_long() {
        let hung = PreviousGroup::new(8, Duration::from_mins(1));
        assert!(!hung.should_wait(1, TOOK_MAX, NONE));
    }

    #[test]
    fn a_group_takes_what_has_queued_and_no_more_than_its_most() {
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
    fn a_group_has_those_who_ask_while_it_waits() {
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
