//! What forms the next group: everything that waits, and, behind a large group, what arrives within a moment.
//!
//! Attempts of one claim end one after the other. Without the moment, the first of them would be a group of its own, so
//! that every second transaction would settle one item. A request behind a small group waits for nothing, so an idle
//! process commits a single item at once. This file does not know what the requests are.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

/// The size of a group behind which requests are waited for.
const LARGE: usize = 8;
/// How long they are waited for: less than the shortest commit that flushes to a disk of its own takes with its
/// statements.
const MOMENT: Duration = Duration::from_millis(1);

/// The requests that wait, and the size of the group before.
pub(crate) struct Gatherer<T> {
    waiting: UnboundedReceiver<T>,
    last_size: usize,
}

impl<T> Gatherer<T> {
    pub(crate) fn new(waiting: UnboundedReceiver<T>) -> Self {
        Self { waiting, last_size: 0 }
    }

    /// The next group, of at most `most` requests. Empty when nothing waits and every sender was dropped.
    pub(crate) async fn next(&mut self, most: usize) -> Vec<T> {
        let mut group = Vec::new();
        if self.waiting.recv_many(&mut group, most).await > 0 && self.last_size >= LARGE {
            let wanted = (self.last_size / 2).min(most);
            // A group that stays smaller is complete after the moment.
            drop(timeout(MOMENT, self.fill(&mut group, wanted, most)).await);
        }
        self.last_size = group.len();
        group
    }

    async fn fill(&mut self, group: &mut Vec<T>, wanted: usize, most: usize) {
        while group.len() < wanted {
            let room = most - group.len();
            if self.waiting.recv_many(group, room).await == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tokio::time::{Instant, sleep};

    use super::*;

    fn gatherer() -> (UnboundedSender<usize>, Gatherer<usize>) {
        let (sender, waiting) = unbounded_channel();
        (sender, Gatherer::new(waiting))
    }

    fn send(sender: &UnboundedSender<usize>, count: usize) {
        (0..count).for_each(|request| sender.send(request).unwrap());
    }

    /// Sends 20 requests before each of the delays, behind a group of `size`. Returns the size of the next group and how
    /// long it was waited for.
    async fn after_a_group_of(size: usize, delays: &'static [Duration]) -> (usize, Duration) {
        let (sender, mut gatherer) = gatherer();
        send(&sender, size);
        assert_eq!(gatherer.next(512).await.len(), size);
        let began = Instant::now();
        tokio::spawn(async move {
            for delay in delays {
                send(&sender, 20);
                sleep(*delay).await;
            }
            std::future::pending::<()>().await;
        });
        (gatherer.next(512).await.len(), began.elapsed())
    }

    const SOON: Duration = Duration::from_micros(100);
    const LATE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn behind_a_large_group_a_request_waits_until_half_as_many_have_come() {
        assert_eq!(after_a_group_of(100, &[Duration::ZERO, Duration::ZERO, SOON, SOON]).await.0, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_a_moment_only() {
        let (size, waited) = after_a_group_of(100, &[LATE]).await;
        assert_eq!(size, 20);
        assert!(waited <= 2 * MOMENT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_small_group_a_request_waits_for_nothing() {
        assert_eq!(after_a_group_of(LARGE - 1, &[SOON, SOON]).await, (20, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_has_at_most_as_many_requests_as_it_may_have() {
        let (sender, mut gatherer) = gatherer();
        send(&sender, 30);
        drop(sender);
        let mut sizes = Vec::new();
        loop {
            let group = gatherer.next(12).await;
            sizes.push(group.len());
            if group.is_empty() {
                break;
            }
        }
        assert_eq!(sizes, [12, 12, 6, 0]);
    }
}
