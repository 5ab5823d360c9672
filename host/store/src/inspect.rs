//! Looking at items: which ones, which part of them, and one with all that is known of it.

use serde::{Deserialize, Serialize};

use crate::operations::AuditEntry;
use outbox_core::FailedAttempt;
use outbox_item::{Item, ItemId, Millis, Status};

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
    /// In this group of like failures: see [`super::FailureGroup`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// Which part of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many.
    pub limit: u32,
    /// Only items with a smaller id: the last id of the page before.
    pub before: Option<ItemId>,
}

/// An item with its history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemDetails {
    /// The item.
    #[serde(flatten)]
    pub item: Item,
    /// Its attempts of all lives that did not end DONE, oldest first.
    pub failed_attempts: Vec<FailedAttempt>,
    /// What operators did to it, oldest first.
    pub audit: Vec<AuditEntry>,
}
