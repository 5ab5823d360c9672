//! Locks of contended state keys within one process.
//!
//! The store commits plugin state optimistically: of several attempts that touched a key, the first commit wins, and
//! the worker gives the others back. That is cheap while conflicts are rare. After the second conflict over a
//! key, the attempts of this process lock the key: each from its first touch of the key until its settlement.
//!
//! Correctness does not depend on these locks, because the store checks versions at every commit. Processes do not
//! share the locks: at most one attempt of each process contends for a key, and one of them always commits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as KeyLock, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

/// The number of remembered conflicts over a key from which attempts lock it. One conflict may be a coincidence.
const CONTENDED_AFTER_CONFLICTS: u32 = 2;
/// How long after its last conflict a key stays contended. A short time costs two more conflicts; a long time delays
/// attempts that only read a key which was contended once.
const CONTENDED_FOR: Duration = Duration::from_mins(1);

/// The contended keys of one process.
#[derive(Clone, Debug, Default)]
pub struct KeyLocks(Arc<Mutex<HashMap<PluginKey, ContendedKey>>>);

/// A plugin and a key of its state.
type PluginKey = (String, String);

#[derive(Debug)]
struct ContendedKey {
    conflicts: u32,
    last: Instant,
    key_lock: Arc<KeyLock<()>>,
}

impl KeyLocks {
    /// The locks of one attempt, none of them held.
    pub fn for_attempt(&self) -> Arc<AttemptLocks> {
        Arc::new(AttemptLocks { key_locks: self.clone(), held: Mutex::default() })
    }

    /// Records that the store refused a settlement because another attempt had changed the key.
    pub fn record_conflict(&self, plugin: &str, key: &str) {
        self.record(plugin, key, Instant::now());
    }

    fn record(&self, plugin: &str, key: &str, now: Instant) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, known| known.is_recent(now));
        let new = || ContendedKey { conflicts: 0, last: now, key_lock: Arc::default() };
        let known = keys.entry((plugin.to_owned(), key.to_owned())).or_insert_with(new);
        known.conflicts += 1;
        known.last = now;
    }

    /// The lock of the key, if the key is contended.
    fn lock_if_contended(&self, plugin: &str, key: &str, now: Instant) -> Option<Arc<KeyLock<()>>> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = keys.get(&(plugin.to_owned(), key.to_owned()))?;
        let is_contended = known.conflicts >= CONTENDED_AFTER_CONFLICTS && known.is_recent(now);
        is_contended.then(|| Arc::clone(&known.key_lock))
    }
}

impl ContendedKey {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < CONTENDED_FOR
    }
}

/// The locks that one attempt holds. The worker keeps them until the settlement is committed; dropping them lets the
/// next attempt proceed.
#[derive(Debug, Default)]
pub struct AttemptLocks {
    key_locks: KeyLocks,
    held: Mutex<Vec<OwnedMutexGuard<()>>>,
}

impl AttemptLocks {
    /// Waits until the attempt may touch the key: not at all unless the key is contended. Errors when the attempt does
    /// not get the lock by `deadline`.
    pub async fn lock(&self, plugin: &str, key: &str, deadline: Instant) -> Result<(), KeyLockTimeout> {
        let Some(key_lock) = self.key_locks.lock_if_contended(plugin, key, Instant::now()) else { return Ok(()) };
        let timed_out = |_| KeyLockTimeout { plugin: plugin.to_owned(), key: key.to_owned() };
        if self.holds_any() {
            // Waiting while holding another lock could deadlock: two attempts could each wait for the other.
            if let Ok(guard) = key_lock.try_lock_owned() {
                self.hold(guard);
            }
            return Ok(());
        }
        self.hold(timeout_at(deadline, key_lock.lock_owned()).await.map_err(timed_out)?);
        Ok(())
    }

    fn holds_any(&self) -> bool {
        !self.held.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn hold(&self, guard: OwnedMutexGuard<()>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(guard);
    }
}

/// An attempt did not get the lock of a contended state key by its deadline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("many attempts want state key {key:?} of plugin {plugin:?}: the turn of this one did not come in time")]
pub struct KeyLockTimeout {
    /// The plugin that owns the state.
    pub plugin: String,
    /// The contended key.
    pub key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn contended() -> KeyLocks {
        let key_locks = KeyLocks::default();
        key_locks.record_conflict("p", "k");
        key_locks.record_conflict("p", "k");
        key_locks
    }

    #[tokio::test]
    async fn attempts_wait_for_each_other_from_the_second_conflict_on() {
        let key_locks = KeyLocks::default();
        key_locks.record_conflict("p", "k");
        let (first, second) = (key_locks.for_attempt(), key_locks.for_attempt());
        first.lock("p", "k", soon()).await.unwrap();
        second.lock("p", "k", soon()).await.unwrap();
        key_locks.record_conflict("p", "k");
        let (third, fourth) = (key_locks.for_attempt(), key_locks.for_attempt());
        third.lock("p", "k", soon()).await.unwrap();
        let timed_out = fourth.lock("p", "k", soon()).await.unwrap_err();
        assert_eq!(timed_out, KeyLockTimeout { plugin: "p".into(), key: "k".into() });
        fourth.lock("q", "k", soon()).await.unwrap();
        drop(third);
        fourth.lock("p", "k", soon()).await.unwrap();
    }

    #[tokio::test]
    async fn an_attempt_that_holds_one_key_never_waits_for_another() {
        let key_locks = contended();
        key_locks.record_conflict("p", "other");
        key_locks.record_conflict("p", "other");
        let (one, two) = (key_locks.for_attempt(), key_locks.for_attempt());
        one.lock("p", "k", soon()).await.unwrap();
        two.lock("p", "other", soon()).await.unwrap();
        one.lock("p", "other", soon()).await.unwrap();
        two.lock("p", "k", soon()).await.unwrap();
    }

    #[test]
    fn a_key_is_forgotten_a_minute_after_its_last_conflict() {
        let (key_locks, now) = (KeyLocks::default(), Instant::now());
        key_locks.record("p", "k", now);
        key_locks.record("p", "k", now);
        assert!(key_locks.lock_if_contended("p", "k", now + CONTENDED_FOR - Duration::from_millis(1)).is_some());
        assert!(key_locks.lock_if_contended("p", "k", now + CONTENDED_FOR).is_none());
        key_locks.record("p", "other", now + CONTENDED_FOR);
        assert_eq!(key_locks.0.lock().unwrap().len(), 1);
    }
}
