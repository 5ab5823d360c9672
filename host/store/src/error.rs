//! The errors of a store: one variant for each case to which callers react differently.
//!
//! This file does not know how an engine reports its failures.

use outbox_core::STATE_VALUE_MAX;
use outbox_item::{InvalidAt, ItemId};

/// The source of the [`StoreError::Unavailable`] of a probe: the disk of the database has no room for writes.
#[derive(Debug, thiserror::Error)]
#[error("the disk is full")]
pub struct DiskFull;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The claim's token is no longer on the row: the lease ended and another process claimed the item, or an operator
    /// took it. The caller logs it and goes on.
    #[error("the claim was lost before it was settled")]
    ClaimLost,
    /// The claim holds, and an earlier item of its streak is not settled. Nothing was changed. The caller settles the
    /// earlier item first, or gives this one back.
    #[error("an earlier item with the same ordering key is not settled")]
    OutOfTurn,
    /// Another item has the key, with other content. Nothing was stored.
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
    /// Another attempt changed state that this attempt had used. Nothing was stored.
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
    /// The plugin would keep more than it may. The same settlement cannot succeed unless its state shrinks or its
    /// manifest allows more.
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
    /// More items would descend from one root than may. The same settlement cannot succeed unless the manifest allows
    /// more, or until earlier ones are a day old.
    #[error(
        "{max} items descend from item {root} within 24 hours, which is the most that `limits.descendants` allows: its \
         follow-ups enqueue follow-ups"
    )]
    Descendants {
        /// The item from which the others descend.
        root: ItemId,
        /// The most items.
        max: u32,
    },
    /// Another transaction holds a lock that the call needs. Nothing was changed. The caller tries again: the lock goes
    /// when that transaction ends.
    #[error("{tried}: another transaction holds a lock that this needs")]
    Locked {
        /// What was tried.
        tried: &'static str,
    },
    /// The engine did not answer, or reported a failure that may pass. The caller may try again.
    #[error("{tried}: {source}")]
    Unavailable {
        /// What was tried.
        tried: &'static str,
        /// The engine's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database cannot be used as it is: not a database, a newer schema, a missing table.
    #[error("{0}")]
    Unusable(String),
}

impl StoreError {
    /// Whether a probe found that the disk of the database has no room for writes.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Unavailable { source, .. } if source.is::<DiskFull>())
    }

    /// The same error, for the item at this index of the call.
    #[must_use]
    pub fn at_index(self, index: usize) -> Self {
        match self {
            Self::Conflict { idem_key, first, .. } => Self::Conflict { index, idem_key, first },
            other => other,
        }
    }
}
