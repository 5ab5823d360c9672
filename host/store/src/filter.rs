//! Which items a reader or an operator means, and which part of them.
//!
//! A filter only describes; how an engine finds the items is not known here.

use serde::{Deserialize, Serialize};

use outbox_item::{ItemId, Millis, Status};

/// Which items. Fields that are empty or `None` do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Any of these statuses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<Status>,
    /// This type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// This saga.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saga: Option<String>,
    /// This correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    /// This ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// Enqueued at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_from: Option<Millis>,
    /// Enqueued before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_to: Option<Millis>,
    /// Became DONE or DLQ at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_from: Option<Millis>,
    /// Became DONE or DLQ before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_to: Option<Millis>,
    /// Available at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_from: Option<Millis>,
    /// Available before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_to: Option<Millis>,
    /// In this group of like failures: see [`FailureGroup`](crate::FailureGroup).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// In their status since then or longer: became DONE or DLQ, or were claimed, at or before. Of PENDING items those
    /// that were enqueued by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Millis>,
}

impl Filter {
    /// Whether nothing but statuses restricts the items.
    pub fn is_status_alone(&self) -> bool {
        Self { status: Vec::new(), as_of: None, ..self.clone() } == Self::default()
    }
}

/// Which part of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The largest number of items.
    pub limit: u32,
    /// Only items with a smaller id: the last id of the page before.
    pub before: Option<ItemId>,
}
