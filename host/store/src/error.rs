//! What a store answers when it cannot do what it was asked. It names what a caller may do something
//! about; how an engine says so is the engine's own.

use outbox_core::STATE_VALUE_MAX;
use outbox_item::{IllegalTransition, InvalidItem, ItemId};

/// What a caller may do something about.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The claim's token is no longer on the row: the lease ended and somebody else took over, or an
    /// operator did. Log it and go on.
    #[error("the claim was lost before it was settled")]
    ClaimLost,
    /// The key is taken by an item with other content. Nothing was stored.
    #[error("idem_key {idem_key:?} is already used by item {first} with other content")]
    Conflict {
        /// Which of the items, from 0.
        index: usize,
        /// The key.
        idem_key: String,
        /// The item that has it.
        first: ItemId,
    },
    /// A field breaks a rule. Nothing was stored.
    #[error(transparent)]
    Invalid(#[from] InvalidAt),
    /// The item's status does not allow the action.
    #[error("item {id}: {source}")]
    Illegal {
        /// The item.
        id: ItemId,
        /// What was tried.
        source: IllegalTransition,
    },
    /// What the settlement wanted to commit no longer fits the plugin's state.
    #[error("state key {key:?} of plugin {plugin:?} was changed by another attempt")]
    StateConflict {
        /// The plugin.
        plugin: String,
        /// The key.
        key: String,
    },
    /// One value is larger than a plugin may keep. The same settlement cannot succeed later.
    #[error("state key {key:?} of plugin {plugin:?} would have {bytes} bytes: the most is {STATE_VALUE_MAX}")]
    StateValueTooLarge {
        /// The plugin.
        plugin: String,
        /// The key.
        key: String,
        /// The size of the value.
        bytes: usize,
    },
    /// The plugin would keep more than it may. The same settlement cannot succeed unless its state shrinks
    /// or its manifest allows more.
    #[error(
        "the state of plugin {plugin:?} would have {wanted} bytes, {used} are used: `limits.state_bytes` is {quota}"
    )]
    StateQuota {
        /// The plugin.
        plugin: String,
        /// The bytes of its keys and values before the commit.
        used: u64,
        /// The bytes that they would have after it.
        wanted: u64,
        /// The bytes that they may have.
        quota: u64,
    },
    /// The engine did not answer, or answered with a fault that may pass. Worth trying again.
    #[error("{tried}: {source}")]
    Unavailable {
        /// What was tried.
        tried: &'static str,
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database cannot be used as it is: not a database, a newer schema, a missing table.
    #[error("{0}")]
    Unusable(String),
}

impl StoreError {
    /// The same error, of the item at this index of several.
    pub fn at_index(self, index: usize) -> Self {
        match self {
            Self::Conflict { idem_key, first, .. } => Self::Conflict { index, idem_key, first },
            other => other,
        }
    }
}

/// One of several new items breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source}")]
pub struct InvalidAt {
    /// Which of the items, from 0.
    pub index: usize,
    /// The broken rule.
    pub source: InvalidItem,
}
