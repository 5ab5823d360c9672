//! The number of the newest signal, which all streams of signals share.
//!
//! One task asks the store for all streams, so that many clients cost it as little as one. The task runs while there is
//! a stream. This file does not know what a stream sends.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use outbox_core::Outage;
use outbox_store::{Inspect, SignalSeq};

/// How long the task waits for a change before it asks again, because the store does not announce every signal.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The shortest time between two questions, however often the store changes.
const PAUSE: Duration = Duration::from_millis(20);

/// The newest signal of a store, once somebody asks for it.
#[derive(Default)]
pub(crate) struct NewestSignal {
    followed: Mutex<Weak<Follower>>,
}

impl NewestSignal {
    /// The task that follows the signals of the store. It ends when the last of these handles is dropped.
    pub(crate) fn follow(&self, inspect: &Arc<dyn Inspect>) -> Arc<Follower> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = followed.upgrade().filter(|running| !running.task.is_finished()) {
            return running;
        }
        let started = Follower::start(Arc::clone(inspect));
        *followed = Arc::downgrade(&started);
        started
    }
}

/// Follows the signals of a store.
pub(crate) struct Follower {
    newest: watch::Sender<SignalSeq>,
    task: AbortOnDropHandle<()>,
}

impl Follower {
    fn start(inspect: Arc<dyn Inspect>) -> Arc<Self> {
        let newest = watch::Sender::new(SignalSeq::START);
        let task = AbortOnDropHandle::new(tokio::spawn(follow(inspect, newest.clone())));
        Arc::new(Self { newest, task })
    }

    /// Waits until there is a signal after this one. Returns false when the task has ended.
    pub(crate) async fn newer_than(&self, after: SignalSeq) -> bool {
        let mut newest = self.newest.subscribe();
        tokio::select! {
            _ = newest.wait_for(|newest| *newest > after) => true,
            () = self.ended() => false,
        }
    }

    /// A panic is the only end of the task while there is a handle.
    async fn ended(&self) {
        while !self.task.is_finished() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

async fn follow(inspect: Arc<dyn Inspect>, newest: watch::Sender<SignalSeq>) {
    let mut changes = inspect.subscribe();
    let outage = Outage::default();
    loop {
        match inspect.newest_signal().await {
            Ok(found) => {
                outage.succeeded();
                newest.send_if_modified(|newest| std::mem::replace(newest, found) != found);
            }
            Err(err) if outage.failed() => {
                tracing::warn!(error = %err, "streams of signals pause: the store does not answer");
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use outbox_sqlite::{SqliteOptions, SqliteStore};

    use super::*;

    #[tokio::test]
    async fn all_streams_share_one_task_which_ends_with_the_last_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Inspect> =
            SqliteStore::open(&folder.path().join("outbox.sqlite"), SqliteOptions::default()).unwrap();
        let newest = NewestSignal::default();
        let (first, second) = (newest.follow(&store), newest.follow(&store));
        assert!(Arc::ptr_eq(&first, &second));
        let ended = Arc::downgrade(&first);
        drop((first, second));
        assert!(ended.upgrade().is_none());
        assert!(!newest.follow(&store).task.is_finished(), "the next stream begins anew");
    }
}
