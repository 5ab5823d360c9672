//! What operators do to types, keys, jobs and ids rather than to items.
//!
//! The requests and their reports; what they change in a database is the engine's.

use serde::Serialize;

use outbox_item::{InvalidAt, ItemId, Millis, validate_key, validate_type};

use crate::action::Execution;
use crate::ids::JobId;
use crate::jobs::BATCH_SIZE;

/// An operator's request about a type, an ordering key, a job or ids.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlRequest {
    /// What the operator wants.
    pub control: Control,
    /// Who asks: `user@host`, or a name that the operator gave.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Whether it is done or only looked at.
    pub execution: Execution,
}

/// What an operator does to a type, an ordering key, a job or ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// No worker claims items of the type any more; running attempts go on.
    Pause {
        /// The type, whether or not there are items of it.
        item_type: String,
    },
    /// Workers claim items of the type again.
    Resume {
        /// The type.
        item_type: String,
    },
    /// No worker claims items with the fairness key any more; running attempts go on.
    PauseKey {
        /// The fairness key.
        fairness_key: String,
        /// Only items of this type; `None` for those of every type.
        item_type: Option<String>,
    },
    /// Workers claim items with the fairness key again.
    ResumeKey {
        /// The fairness key.
        fairness_key: String,
        /// Ends the pause of this type; `None` ends every pause of the key.
        item_type: Option<String>,
    },
    /// Items that wait behind dead-lettered items of the ordering key go on without them. The dead-lettered items
    /// stay in the DLQ, and a replay of one puts it in front again.
    Unblock {
        /// The ordering key.
        ordering_key: String,
    },
    /// A plugin owns a type from now on, whichever owned it before.
    Switch {
        /// The role; `None` for processes without one.
        role: Option<String>,
        /// The type.
        item_type: String,
        /// The plugin's name.
        plugin: String,
    },
    /// Stops a job; what it has changed stays changed.
    Cancel {
        /// The job.
        job: JobId,
    },
    /// No process runs the component any more, so that each returns to the version before it.
    RollBack {
        /// The name of its plugin.
        plugin: String,
        /// The SHA-256 of the component in hex.
        digest: String,
    },
    /// New items get ids above this one, so that an import of ids up to it finds them free.
    ReserveIds {
        /// The last id that is kept free.
        up_to: ItemId,
    },
}

impl Control {
    /// The word in the audit trail and on the command line, and the text of its target.
    pub fn action_and_target(&self) -> (&'static str, String) {
        match self {
            Self::Pause { item_type } => ("pause", item_type.clone()),
            Self::Resume { item_type } => ("resume", item_type.clone()),
            Self::PauseKey { fairness_key, item_type } => ("pause", key_and_type(fairness_key, item_type.as_deref())),
            Self::ResumeKey { fairness_key, item_type } => ("resume", key_and_type(fairness_key, item_type.as_deref())),
            Self::Unblock { ordering_key } => ("unblock", ordering_key.clone()),
            Self::Switch { role, item_type, plugin } => {
                let role = role.as_ref().map(|role| format!(" in role {role}")).unwrap_or_default();
                ("switch", format!("{item_type} to {plugin}{role}"))
            }
            Self::Cancel { job } => ("cancel", job.to_string()),
            Self::RollBack { plugin, digest } => ("rollback", format!("{plugin} {digest}")),
            Self::ReserveIds { up_to } => ("reserve", up_to.to_string()),
        }
    }

    /// Errors when the target breaks a rule for its kind. Engines call it before they change anything.
    pub fn validate(&self) -> Result<(), InvalidAt> {
        match self {
            Self::Pause { item_type } | Self::Resume { item_type } | Self::Switch { item_type, .. } => {
                validate_type(item_type)
            }
            Self::PauseKey { fairness_key, item_type } | Self::ResumeKey { fairness_key, item_type } => {
                let key = validate_key("fairness_key", fairness_key);
                key.and(item_type.as_deref().map_or(Ok(()), validate_type))
            }
            Self::Unblock { ordering_key } => validate_key("ordering_key", ordering_key),
            Self::Cancel { .. } | Self::RollBack { .. } | Self::ReserveIds { .. } => Ok(()),
        }
        .map_err(|source| InvalidAt { index: 0, source })
    }
}

fn key_and_type(fairness_key: &str, item_type: Option<&str>) -> String {
    let of_type = item_type.map(|item_type| format!(" of {item_type}")).unwrap_or_default();
    format!("key {fairness_key}{of_type}")
}

impl ControlRequest {
    /// Why a component that an operator rolls back is quarantined.
    pub fn rollback_reason(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        format!("rolled back by {}: {reason}", self.actor)
    }
}

/// What a [`ControlRequest`] changed. [`Control::Unblock`] is carried out in steps of [`BATCH_SIZE`] items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ControlReport {
    /// Whether anything was, or would be, different from before.
    pub changed: bool,
    /// For [`Control::Unblock`]: the dead-lettered items that no longer block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ItemId>,
}

impl ControlReport {
    /// Adds what the next step of the same command changed. Returns whether another step follows.
    pub fn add_step(&mut self, step: Self, request: &ControlRequest) -> bool {
        let is_full = step.items.len() >= BATCH_SIZE as usize;
        self.changed |= step.changed;
        self.items.extend(step.items);
        is_full && request.execution == Execution::Apply
    }
}

/// A type that no worker claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// The type.
    pub r#type: String,
    /// Since when.
    pub paused_at: Millis,
    /// Who paused it.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
}

/// A fairness key of which no worker claims items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyPause {
    /// The key.
    pub fairness_key: String,
    /// The type whose items are paused; `None` for those of every type.
    pub r#type: Option<String>,
    /// Since when.
    pub paused_at: Millis,
    /// Who paused it.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
}
