//! What a dead-lettered item means for the queue of its ordering key.
//!
//! Holds the choice only. The stores carry it out when they claim.

use serde::{Deserialize, Serialize};

/// What a dead-lettered item means for the items that are queued behind it with the same ordering key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDead {
    /// The items wait until an operator replays, purges or unblocks the dead-lettered one.
    #[default]
    Block,
    /// The items proceed without the dead-lettered one.
    Skip,
}
