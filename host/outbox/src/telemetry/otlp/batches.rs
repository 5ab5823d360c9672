//! A bounded number of things that wait to be sent, and the task that sends them in batches.
//!
//! It knows neither spans nor lines nor the protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Things that wait at most: some seconds of a busy host, and a few megabytes.
const WAITING_MAX: usize = 8_192;
/// Things in a batch at most: what collectors take without limits of their own.
const BATCH_MAX: usize = 512;

/// Where things are put that are to be sent. Clones share it.
#[derive(Debug)]
pub(super) struct Outlet<T> {
    sender: mpsc::Sender<T>,
    dropped: Arc<AtomicU64>,
}

/// Things that wait to be sent.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    receiver: mpsc::Receiver<T>,
    dropped: Arc<AtomicU64>,
}

/// Sends batches of things. What is not taken is dropped.
pub(super) trait Export<T>: Send + Sync + 'static {
    /// Sends a batch, for a bounded time. Returns whether it was taken.
    fn export_batch(&self, batch: Vec<T>) -> impl Future<Output = bool> + Send;
}

/// An outlet, and what leaves it.
pub(super) fn gather<T>() -> (Outlet<T>, Gathered<T>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let dropped = Arc::<AtomicU64>::default();
    (Outlet { sender, dropped: Arc::clone(&dropped) }, Gathered { receiver, dropped })
}

impl<T> Outlet<T> {
    /// Puts a thing in, or drops it when there is no room.
    pub(super) fn put(&self, thing: T) {
        if self.sender.try_send(thing).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends what is gathered, at the latest `delay` after it was put in, until `end` is cancelled; then what is left. Says
/// how many of `what` were dropped.
pub(super) async fn send_batches<T: Send>(
    mut gathered: Gathered<T>,
    delay: Duration,
    end: CancellationToken,
    what: &'static str,
    exporter: impl Export<T>,
) {
    let mut losses = Losses { what, dropped: Arc::clone(&gathered.dropped), refused: 0 };
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while end.run_until_cancelled(gathered.receiver.recv_many(&mut batch, BATCH_MAX)).await.is_some_and(|got| got > 0) {
        let fill = async {
            loop {
                let room = BATCH_MAX - batch.len();
                if room == 0 || gathered.receiver.recv_many(&mut batch, room).await == 0 {
                    break;
                }
            }
        };
        let filled = end.run_until_cancelled(tokio::time::timeout(delay, fill)).await;
        losses.send(&exporter, std::mem::take(&mut batch)).await;
        if filled.is_none() {
            break;
        }
    }
    gathered.receiver.close();
    while gathered.receiver.recv_many(&mut batch, BATCH_MAX).await > 0 {
        losses.send(&exporter, std::mem::take(&mut batch)).await;
    }
    losses.report_refused();
}

/// What does not reach the collector.
struct Losses {
    what: &'static str,
    /// Those that found no room.
    dropped: Arc<AtomicU64>,
    /// Those that were sent and not taken, since the last batch that was taken.
    refused: usize,
}

impl Losses {
    /// Sends a batch and reports what was lost, except that a collector takes nothing: its return tells how much that was.
    async fn send<T>(&mut self, exporter: &impl Export<T>, batch: Vec<T>) {
        let count = batch.len();
        if exporter.export_batch(batch).await {
            self.report_refused();
        } else {
            self.refused += count;
        }
        let (count, what) = (self.dropped.swap(0, Ordering::Relaxed), self.what);
        if count > 0 {
            tracing::warn!(target: "outbox::telemetry", count, "{what} were dropped: the collector takes too few");
        }
    }

    fn report_refused(&mut self) {
        let (count, what) = (std::mem::take(&mut self.refused), self.what);
        if count > 0 {
            tracing::warn!(target: "outbox::telemetry", count, "{what} were dropped while the collector took none");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sent(Arc<Mutex<Vec<Vec<usize>>>>);

    impl Export<usize> for Sent {
        async fn export_batch(&self, batch: Vec<usize>) -> bool {
            let is_taken = !batch.contains(&REFUSED);
            self.0.lock().unwrap().push(batch);
            is_taken
        }
    }

    /// What no collector takes.
    const REFUSED: usize = usize::MAX;

    #[tokio::test]
    async fn what_a_collector_did_not_take_is_counted_until_it_takes_something() {
        let mut losses = Losses { what: "numbers", dropped: Arc::new(AtomicU64::new(7)), refused: 0 };
        let sent = Sent::default();
        losses.send(&sent, vec![1, REFUSED]).await;
        losses.send(&sent, vec![REFUSED]).await;
        assert_eq!((losses.refused, losses.dropped.load(Ordering::Relaxed)), (3, 0), "the dropped ones are reported");
        losses.send(&sent, vec![1]).await;
        assert_eq!(losses.refused, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_dropped_and_the_rest_is_sent_in_batches_until_the_end() {
        let (outlet, gathered) = gather();
        for number in 0..WAITING_MAX + 5 {
            outlet.put(number);
        }
        assert_eq!(gathered.dropped.load(Ordering::Relaxed), 5);
        let (sent, end) = (Sent::default(), CancellationToken::new());
        let task = send_batches(gathered, Duration::from_secs(5), end.clone(), "numbers", sent.clone());
        let (sending, sent) = (tokio::spawn(task), sent.0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        outlet.put(1);
        assert_eq!(sent.lock().unwrap().len(), WAITING_MAX / BATCH_MAX);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(sent.lock().unwrap().last(), Some(&vec![1]), "sent without a full batch");
        outlet.put(2);
        tokio::task::yield_now().await;
        end.cancel();
        sending.await.unwrap();
        assert_eq!(sent.lock().unwrap().last(), Some(&vec![2]), "sent before the end");
    }
}
