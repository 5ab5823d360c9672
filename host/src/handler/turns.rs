//! Turns at state that many attempts want at once: which attempt of this process goes on, which wait.
//!
//! State is committed optimistically: of several attempts that touched a key the first to commit wins, and
//! the others have worked in vain and are given back. That is the cheaper way while it is rare. From the
//! second conflict over a key on, the attempts of this process that touch it take turns instead: each from
//! its first touch until it is settled.
//!
//! Nothing correct depends on it. The commit checks all the same, so processes need not agree: at most one
//! attempt of each contends for the key, and one of them always wins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Gate, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

/// So many conflicts over a key, within the time that they are remembered, make attempts take turns.
const CONFLICTS: u32 = 2;
/// A key is forgotten so long after its last conflict. Forgetting too early costs two more conflicts,
/// remembering for ever would hold up attempts that only read what was contended once.
const REMEMBERED: Duration = Duration::from_mins(1);

/// The contended keys of one process.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<HashMap<Key, Contended>>>);

/// A plugin and a key of its state.
type Key = (String, String);

#[derive(Debug)]
struct Contended {
    conflicts: u32,
    last: Instant,
    gate: Arc<Gate<()>>,
}

impl Turns {
    /// The turns of one attempt, none of them taken.
    pub fn of_attempt(&self) -> Arc<Turn> {
        Arc::new(Turn { turns: self.clone(), taken: Mutex::default() })
    }

    /// Notes that a settlement was refused because another attempt had changed the key.
    pub fn note_conflict(&self, plugin: &str, key: &str) {
        self.note(plugin, key, Instant::now());
    }

    fn note(&self, plugin: &str, key: &str, now: Instant) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, known| known.is_remembered(now));
        let new = || Contended { conflicts: 0, last: now, gate: Arc::default() };
        let known = keys.entry((plugin.to_owned(), key.to_owned())).or_insert_with(new);
        known.conflicts += 1;
        known.last = now;
    }

    /// What attempts pass one at a time, if the key is contended.
    fn gate(&self, plugin: &str, key: &str, now: Instant) -> Option<Arc<Gate<()>>> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = keys.get(&(plugin.to_owned(), key.to_owned()))?;
        let is_contended = known.conflicts >= CONFLICTS && known.is_remembered(now);
        is_contended.then(|| Arc::clone(&known.gate))
    }
}

impl Contended {
    fn is_remembered(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < REMEMBERED
    }
}

/// What one attempt holds. Whoever settles it keeps this until the settlement is committed; dropping it
/// lets the next attempt go on.
#[derive(Debug, Default)]
pub struct Turn {
    turns: Turns,
    taken: Mutex<Vec<OwnedMutexGuard<()>>>,
}

impl Turn {
    /// Returns when the attempt may go on to the key: at once unless the key is contended. Errors when
    /// its turn did not come by `latest`.
    pub async fn take(&self, plugin: &str, key: &str, latest: Instant) -> Result<(), TurnOverdue> {
        let Some(gate) = self.turns.gate(plugin, key, Instant::now()) else { return Ok(()) };
        let overdue = |_| TurnOverdue { plugin: plugin.to_owned(), key: key.to_owned() };
        if self.has_taken() {
            // Two attempts that each wait for what the other holds would both wait in vain.
            if let Ok(guard) = gate.try_lock_owned() {
                self.keep(guard);
            }
            return Ok(());
        }
        self.keep(timeout_at(latest, gate.lock_owned()).await.map_err(overdue)?);
        Ok(())
    }

    fn has_taken(&self) -> bool {
        !self.taken.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn keep(&self, guard: OwnedMutexGuard<()>) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(guard);
    }
}

/// So many attempts want the same state that one's turn did not come in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("many attempts want state key {key:?} of plugin {plugin:?}: the turn of this one did not come in time")]
pub struct TurnOverdue {
    /// The plugin.
    pub plugin: String,
    /// The key.
    pub key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn contended() -> Turns {
        let turns = Turns::default();
        turns.note_conflict("p", "k");
        turns.note_conflict("p", "k");
        turns
    }

    #[tokio::test]
    async fn attempts_wait_for_each_other_from_the_second_conflict_on() {
        let turns = Turns::default();
        turns.note_conflict("p", "k");
        let (first, second) = (turns.of_attempt(), turns.of_attempt());
        first.take("p", "k", soon()).await.unwrap();
        second.take("p", "k", soon()).await.unwrap();
        turns.note_conflict("p", "k");
        let (third, fourth) = (turns.of_attempt(), turns.of_attempt());
        third.take("p", "k", soon()).await.unwrap();
        let overdue = fourth.take("p", "k", soon()).await.unwrap_err();
        assert_eq!(overdue, TurnOverdue { plugin: "p".into(), key: "k".into() });
        fourth.take("q", "k", soon()).await.unwrap();
        drop(third);
        fourth.take("p", "k", soon()).await.unwrap();
    }

    #[tokio::test]
    async fn an_attempt_that_holds_one_key_never_waits_for_another() {
        let turns = contended();
        turns.note_conflict("p", "other");
        turns.note_conflict("p", "other");
        let (one, two) = (turns.of_attempt(), turns.of_attempt());
        one.take("p", "k", soon()).await.unwrap();
        two.take("p", "other", soon()).await.unwrap();
        one.take("p", "other", soon()).await.unwrap();
        two.take("p", "k", soon()).await.unwrap();
    }

    #[test]
    fn a_key_is_forgotten_a_minute_after_its_last_conflict() {
        let (turns, now) = (Turns::default(), Instant::now());
        turns.note("p", "k", now);
        turns.note("p", "k", now);
        assert!(turns.gate("p", "k", now + REMEMBERED - Duration::from_millis(1)).is_some());
        assert!(turns.gate("p", "k", now + REMEMBERED).is_none());
        turns.note("p", "other", now + REMEMBERED);
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
