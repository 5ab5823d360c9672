//! A plugin's state as one attempt sees it. The first read of a key goes to the store; writes stay here until the item
//! is settled.
//!
//! The buffer keeps the version of every key that it read, so that the store can refuse the settlement if another
//! attempt changed the key meanwhile. It does not know the total size of the plugin's state: the settlement checks it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use outbox_core::{
    AttemptLocks, DeliveryMode, STATE_KEY_MAX, STATE_VALUE_MAX, StateChange, StateKeyChange, StateReader, StateVersion,
};

use crate::bindings::outbox::handler::state::Error;
use crate::load::manifest::value::show_size;
use crate::outgoing::grant::Grants;
use crate::sandbox::observations::Denial;

/// Bytes of all values that one attempt may write. They are committed in one transaction.
const WRITES_MAX: usize = 1 << 20;
/// Keys that one attempt may touch. Each is checked in the settling transaction.
const KEYS_MAX: usize = 256;

/// The keys that one attempt has touched.
pub(crate) struct StateBuffer {
    plugin: String,
    reader: Arc<dyn StateReader>,
    access: StateAccess,
    locks: Arc<AttemptLocks>,
    lock_deadline: Instant,
    keys: BTreeMap<String, BufferedKey>,
}

/// Whether an attempt can use state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateAccess {
    /// It can. The plugin may store `quota` bytes in total.
    Granted { quota: u64 },
    /// It cannot.
    Denied,
}

impl StateAccess {
    /// The access of an attempt. Inline attempts have none, because nothing of them is settled.
    pub(crate) fn new(grants: &Grants, mode: DeliveryMode, quota: u64) -> Self {
        if grants.state && mode == DeliveryMode::Durable { Self::Granted { quota } } else { Self::Denied }
    }
}

struct BufferedKey {
    read_version: StateVersion,
    stored: Option<Vec<u8>>,
    change: StateChange,
}

impl BufferedKey {
    fn value(&self) -> Option<&Vec<u8>> {
        match &self.change {
            StateChange::None => self.stored.as_ref(),
            StateChange::Put(value) => Some(value),
            StateChange::Delete => None,
        }
    }
}

impl StateBuffer {
    /// An empty buffer over the state of a plugin.
    pub(crate) fn new(plugin: &str, reader: Arc<dyn StateReader>, access: StateAccess) -> Self {
        let (locks, lock_deadline) = (Arc::default(), Instant::now());
        Self { plugin: plugin.to_owned(), reader, access, locks, lock_deadline, keys: BTreeMap::new() }
    }

    /// The same buffer with locks for contended keys. It waits for one until `lock_deadline`.
    pub(crate) fn with_locks(self, locks: Arc<AttemptLocks>, lock_deadline: Instant) -> Self {
        Self { locks, lock_deadline, ..self }
    }

    /// The touched keys with their changes, for the settlement.
    pub(crate) fn into_changes(self) -> Vec<StateKeyChange> {
        let change = |(key, buffered): (String, BufferedKey)| StateKeyChange {
            key,
            read_version: buffered.read_version,
            change: buffered.change,
        };
        self.keys.into_iter().map(change).collect()
    }

    /// The value of a key as the attempt sees it. The outer error is a fault of the host and ends the attempt.
    pub(crate) async fn get(&mut self, key: &str) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        Ok(self.buffered(key).await?.map(|buffered| buffered.value().cloned()))
    }

    /// Buffers a change of a key. The outer error is a fault of the host and ends the attempt.
    pub(crate) async fn change(&mut self, key: &str, change: StateChange) -> wasmtime::Result<Result<(), Error>> {
        if let Err(refusal) = self.check_room(&change) {
            return Ok(Err(refusal));
        }
        Ok(self.buffered(key).await?.map(|buffered| buffered.change = change))
    }

    /// The denial behind a refusal, with the limit that it names, unless the refusal already names what to grant.
    pub(crate) fn denial(&self, refusal: &Error) -> Option<Denial> {
        match refusal {
            Error::TooLarge => Some(Denial { what: too_large(), lines: None }),
            Error::Quota => {
                let StateAccess::Granted { quota } = self.access else { return None };
                let what = format!("the plugin may keep {} (`limits.state_bytes`)", show_size(quota));
                let lines = format!("[limits]\nstate_bytes = {:?}", show_size(quota.saturating_mul(2)));
                Some(Denial { what, lines: Some(lines) })
            }
            Error::Other(reason) => Some(Denial { what: reason.clone(), lines: None }),
            Error::Denied => None,
        }
    }

    fn check_room(&self, change: &StateChange) -> Result<(), Error> {
        let StateChange::Put(value) = change else { return Ok(()) };
        let StateAccess::Granted { quota } = self.access else { return Err(Error::Denied) };
        if value.len() > STATE_VALUE_MAX || self.written_bytes() + value.len() > WRITES_MAX {
            return Err(Error::TooLarge);
        }
        // Only the settlement knows the total; a value that exceeds the quota alone is refused here.
        if value.len() as u64 > quota { Err(Error::Quota) } else { Ok(()) }
    }

    fn written_bytes(&self) -> usize {
        let size = |buffered: &BufferedKey| match &buffered.change {
            StateChange::Put(value) => value.len(),
            StateChange::None | StateChange::Delete => 0,
        };
        self.keys.values().map(size).sum()
    }

    async fn buffered(&mut self, key: &str) -> wasmtime::Result<Result<&mut BufferedKey, Error>> {
        if let Err(refusal) = self.check_key(key) {
            return Ok(Err(refusal));
        }
        if !self.keys.contains_key(key) {
            self.locks.lock(&self.plugin, key, self.lock_deadline).await?;
            let (stored, read_version) = self.reader.read(&self.plugin, key).await?;
            self.keys.insert(key.to_owned(), BufferedKey { read_version, stored, change: StateChange::None });
        }
        let gone = || Error::Other("the key was not kept".to_owned());
        Ok(self.keys.get_mut(key).ok_or_else(gone))
    }

    fn check_key(&self, key: &str) -> Result<(), Error> {
        if self.access == StateAccess::Denied {
            return Err(Error::Denied);
        }
        if key.is_empty() {
            return Err(Error::Other("the empty key is no key".to_owned()));
        }
        if key.len() > STATE_KEY_MAX {
            return Err(Error::TooLarge);
        }
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(key) {
            return Err(Error::Other(format!("one attempt may touch {KEYS_MAX} keys")));
        }
        Ok(())
    }
}

fn too_large() -> String {
    let [key, value, writes] = [STATE_KEY_MAX, STATE_VALUE_MAX, WRITES_MAX].map(|most| show_size(most as u64));
    format!("a key of the state may have {key}, a value {value}, all values that an attempt writes {writes}")
}

#[cfg(test)]
mod tests {
    use outbox_core::StateReadError;

    use super::*;

    struct FakeState;

    #[async_trait::async_trait]
    impl StateReader for FakeState {
        async fn read(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
            match key {
                "there" => Ok((Some(plugin.as_bytes().to_vec()), Some(7))),
                "broken" => return Err(StateReadError::new("the store is away")),
                _ => Ok((None, None)),
            }
        }
    }

    fn buffer(access: StateAccess) -> StateBuffer {
        StateBuffer::new("p", Arc::new(FakeState), access)
    }

    const GRANTED: StateAccess = StateAccess::Granted { quota: 1000 };

    #[tokio::test]
    async fn an_attempt_reads_its_own_writes_and_every_first_version_is_kept() {
        let mut state = buffer(GRANTED);
        assert_eq!(state.get("there").await.unwrap().unwrap(), Some(b"p".to_vec()));
        state.change("there", StateChange::Put(b"new".to_vec())).await.unwrap().unwrap();
        assert_eq!(state.get("there").await.unwrap().unwrap(), Some(b"new".to_vec()));
        state.change("there", StateChange::Delete).await.unwrap().unwrap();
        assert_eq!(state.get("there").await.unwrap().unwrap(), None);
        state.change("blind", StateChange::Put(vec![1])).await.unwrap().unwrap();
        assert_eq!(
            state.into_changes(),
            [
                StateKeyChange { key: "blind".into(), read_version: None, change: StateChange::Put(vec![1]) },
                StateKeyChange { key: "there".into(), read_version: Some(7), change: StateChange::Delete },
            ]
        );
    }

    #[tokio::test]
    async fn what_is_not_granted_or_too_much_is_refused_and_leaves_no_trace() {
        let granted = Grants { state: true, ..Grants::default() };
        let mut denied = buffer(StateAccess::new(&granted, DeliveryMode::Inline, 1000));
        assert!(matches!(denied.get("there").await.unwrap(), Err(Error::Denied)));
        let mut state = buffer(GRANTED);
        let put = |bytes: usize| StateChange::Put(vec![0; bytes]);
        assert!(matches!(state.change("k", put(STATE_VALUE_MAX + 1)).await.unwrap(), Err(Error::TooLarge)));
        assert!(matches!(state.change("k", put(1001)).await.unwrap(), Err(Error::Quota)));
        assert!(matches!(state.get(&"k".repeat(STATE_KEY_MAX + 1)).await.unwrap(), Err(Error::TooLarge)));
        assert!(state.into_changes().is_empty());
    }

    #[tokio::test]
    async fn a_store_that_fails_is_a_fault_of_the_host_and_no_answer_to_the_guest() {
        let fault = buffer(GRANTED).get("broken").await.unwrap_err();
        assert!(fault.downcast_ref::<StateReadError>().is_some());
    }
}
