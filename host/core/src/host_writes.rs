//! What a handler asks the host to store for it: committed with the item's completion, or not at all.

use outbox_item::NewItem;

/// The version of a stored state value: a new one for every write, never reused, so that a value that
/// was deleted and written again is noticed. `None` stands for a key that is absent.
pub type StateVersion = Option<i64>;

/// The longest key of a plugin's state, in bytes.
pub const STATE_KEY_MAX: usize = 512;

/// The largest value of a plugin's state, in bytes.
pub const STATE_VALUE_MAX: usize = 256 << 10;

/// The host-owned effects of one successful attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostWrites {
    /// The plugin that owns the state.
    pub plugin: String,
    /// Every state key that the attempt read or wrote, each once.
    pub state: Vec<StateKeyChange>,
    /// The most bytes of keys and values that the plugin's state may have after the commit.
    pub state_quota: u64,
    /// The items to enqueue, with their keys already derived.
    pub followups: Vec<NewItem>,
}

impl HostWrites {
    /// Whether there is nothing to commit and no read to confirm.
    pub fn is_empty(&self) -> bool {
        self.state.is_empty() && self.followups.is_empty()
    }
}

/// One key of a plugin's state that an attempt touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateKeyChange {
    /// The key.
    pub key: String,
    /// The version that the attempt's first read of the key saw. The commit is refused when another
    /// version is there by then.
    pub read_version: StateVersion,
    /// What to do with the key.
    pub change: StateChange,
}

/// What an attempt did to a state key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// It was only read.
    None,
    /// It got a new value.
    Put(Vec<u8>),
    /// It was removed.
    Delete,
}
