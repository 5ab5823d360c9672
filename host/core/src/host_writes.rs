//! What a successful handler asks the host to store: changes of plugin state and follow-up items.
//!
//! Pure data. The store commits it in the transaction that makes the item DONE, or not at all.

use std::time::Duration;

use outbox_item::NewItem;

/// The version of a stored state value. Every write gets a new version that the store never uses again, so a reader
/// notices that a value was deleted and written again. `None` means that the key does not exist.
pub type StateVersion = Option<i64>;

/// The longest key of a plugin's state, in bytes.
pub const STATE_KEY_MAX: usize = 512;

/// The largest value of a plugin's state, in bytes.
pub const STATE_VALUE_MAX: usize = 256 << 10;

/// How far back a store counts the items that descend from one root. A chain of follow-ups that goes on for ever, such
/// as an item that enqueues itself each minute, is allowed; one that grows fast is not.
pub const DESCENDANTS_PERIOD: Duration = Duration::from_hours(24);

/// The code of an attempt that failed because too many items descend from one root.
pub const DESCENDANTS_CODE: &str = "followups.descendants";

/// The writes of one successful attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostWrites {
    /// The plugin that owns the state.
    pub plugin: String,
    /// Every state key that the attempt read or wrote, each once.
    pub state: Vec<StateKeyChange>,
    /// The quota of the plugin's state: bytes of all keys and values after the commit.
    pub state_quota: u64,
    /// The items to enqueue. Their idempotency keys are already derived.
    pub followups: Vec<NewItem>,
    /// The most items that may descend from one root within [`DESCENDANTS_PERIOD`]: its follow-ups, theirs, and so on.
    /// `None` is without a bound.
    pub descendants_max: Option<u32>,
}

impl HostWrites {
    /// Whether there is nothing to commit and no read to check.
    pub fn is_empty(&self) -> bool {
        self.state.is_empty() && self.followups.is_empty()
    }
}

/// One state key that an attempt read or wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateKeyChange {
    /// The key.
    pub key: String,
    /// The version that the attempt read first. The store refuses the commit when the key has another version.
    pub read_version: StateVersion,
    /// What the store does with the key.
    pub change: StateChange,
}

/// The change of one state key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// The attempt only read the key.
    None,
    /// The key gets this value.
    Put(Vec<u8>),
    /// The key is removed.
    Delete,
}
