//! What an action or a control of an operator changed, or would change.

use serde::Serialize;
use utoipa::ToSchema;

use crate::description::{Id, ItemGroupForm, RefusedItemForm, UnixMillis};
use outbox_item::{ItemId, Millis};
use outbox_store::{ControlReport, ItemGroup, JobId, OperateReport, RefusedItem};

/// What an action changed.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct OperateReportView {
    /// How many items the request named, or how many matched.
    matched: u64,
    /// How many were changed, or would be.
    changed: u64,
    /// The first of them.
    #[schema(value_type = Vec<Id>)]
    sample: Vec<ItemId>,
    /// The first items that the action does not apply to, with the reason.
    #[schema(value_type = Vec<RefusedItemForm>)]
    refused: Vec<RefusedItem>,
    /// Of a dry run with a filter: what would be changed, by status and type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<ItemGroupForm>, required = false)]
    groups: Vec<ItemGroup>,
    /// Of a dry run: how many ordering keys would go on, because a dead item no longer blocks them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    unblocked_keys: Option<u64>,
    /// The job that carried it out, where a filter named the items.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>, required = false)]
    job: Option<JobId>,
}

impl From<OperateReport> for OperateReportView {
    fn from(report: OperateReport) -> Self {
        let OperateReport { matched, changed, sample, refused, groups, unblocked_keys, job } = report;
        let unblocked_keys = (unblocked_keys > 0).then_some(unblocked_keys);
        Self { matched, changed, sample, refused, groups, unblocked_keys, job }
    }
}

/// What a dry run with a filter answers.
#[derive(Serialize)]
pub(crate) struct PreviewView {
    #[serde(flatten)]
    pub(crate) report: OperateReportView,
    /// How many items the action would change.
    pub(crate) count: u64,
    /// The time for which this holds.
    pub(crate) as_of: Millis,
    /// What the action needs, to be carried out on these items and no later ones.
    pub(crate) confirm: String,
}

/// What a control changed.
#[derive(Serialize, ToSchema)]
pub(crate) struct ControlReportView {
    /// Whether anything is, or would be, different from before.
    changed: bool,
    /// Of `unblock`: the dead items that no longer block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Id>, required = false)]
    items: Vec<ItemId>,
}

impl From<ControlReport> for ControlReportView {
    fn from(ControlReport { changed, items }: ControlReport) -> Self {
        Self { changed, items }
    }
}

/// What an action on all items that match answers: a report, and after a dry run with a filter what the action needs.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct MatchingReport {
    #[serde(flatten)]
    report: OperateReportView,
    /// Of a dry run with a filter: how many items the action would change.
    #[schema(required = false)]
    count: Option<u64>,
    /// Of a dry run with a filter: the time for which this holds.
    #[schema(required = false)]
    as_of: Option<UnixMillis>,
    /// Of a dry run with a filter: what the action needs, to be carried out on these items and no later ones.
    #[schema(required = false)]
    confirm: Option<String>,
}
