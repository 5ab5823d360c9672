//! Work that callers ask for by a key. Callers of one key share the work that is under way, which goes on when all of
//! them have stopped waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What work that is under way will have come to, by key.
type WorkUnderWay<T> = HashMap<String, watch::Receiver<Option<T>>>;

/// The work that is under way.
pub(crate) struct JoinedWork<T> {
    running: Arc<Mutex<WorkUnderWay<T>>>,
}

impl<T> Default for JoinedWork<T> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> JoinedWork<T> {
    /// What the work of this key comes to: that of an earlier caller if it is under way, else `work`. `None` when it
    /// panicked.
    pub(crate) async fn result(&self, key: &str, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut ended = self.join(key, work);
        ended.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn join(&self, key: &str, work: impl Future<Output = T> + Send + 'static) -> watch::Receiver<Option<T>> {
        let mut running = locked(&self.running);
        // Work that panicked has closed its channel.
        if let Some(known) = running.get(key).filter(|known| known.has_changed().is_ok()) {
            return known.clone();
        }
        let (tell, ended) = watch::channel(None);
        running.insert(key.to_owned(), ended.clone());
        let (all, key) = (Arc::clone(&self.running), key.to_owned());
        tokio::spawn(async move {
            let done = work.await;
            locked(&all).remove(&key);
            tell.send_replace(Some(done));
        });
        ended
    }
}

fn locked<T>(running: &Mutex<T>) -> MutexGuard<'_, T> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    /// Work that counts how often it began, and ends when it is told to.
    struct Slow {
        begun: AtomicU32,
        go_on: Notify,
    }

    fn slow() -> Arc<Slow> {
        Arc::new(Slow { begun: AtomicU32::new(0), go_on: Notify::new() })
    }

    fn work(slow: &Arc<Slow>) -> impl Future<Output = u32> + Send + 'static {
        let slow = Arc::clone(slow);
        async move {
            let begun = slow.begun.fetch_add(1, Ordering::SeqCst) + 1;
            slow.go_on.notified().await;
            begun
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_joins_the_work_that_somebody_gave_up() {
        let (all, slow) = (JoinedWork::default(), slow());
        for _ in 0..2 {
            let given_up = tokio::time::timeout(Duration::from_secs(30), all.result("a", work(&slow))).await;
            assert!(given_up.is_err());
        }
        slow.go_on.notify_one();
        assert_eq!(all.result("a", work(&slow)).await, Some(1));
        slow.go_on.notify_one();
        assert_eq!(all.result("a", work(&slow)).await, Some(2), "the first has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn other_keys_and_those_of_work_that_panicked_begin_their_own() {
        let (all, slow) = (JoinedWork::default(), slow());
        assert_eq!(all.result("a", async { panic!("a bug") }).await, None);
        slow.go_on.notify_one();
        assert_eq!(all.result("a", work(&slow)).await, Some(1));
        let mut first = all.join("a", work(&slow));
        let other = all.join("b", async { 7 });
        assert_eq!(other.clone().wait_for(Option::is_some).await.unwrap().unwrap(), 7);
        slow.go_on.notify_one();
        assert_eq!(first.wait_for(Option::is_some).await.unwrap().unwrap(), 2);
    }
}
