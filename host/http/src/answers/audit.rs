//! The audit trail.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use outbox_item::Millis;
use outbox_store::{AuditEntry, JobId};

use crate::answers::sight::Sight;
use crate::description::{ChangesForm, Id, SelectionForm, UnixMillis};

/// One thing that an operator did.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntryView {
    /// Ascending in the order of commits.
    #[schema(value_type = Id)]
    seq: i64,
    /// When.
    #[schema(value_type = UnixMillis)]
    at: Millis,
    /// Who: the name of a token, `user@host` of a command, or a name that was claimed, which is marked.
    actor: String,
    /// What: the word of the action.
    action: String,
    /// To what: ids, a filter, or the target of a control.
    #[schema(value_type = SelectionForm)]
    selection: Value,
    /// Why.
    #[schema(required = true)]
    reason: Option<String>,
    /// The job that it is a batch of.
    #[schema(value_type = Option<Id>, required = true)]
    job: Option<JobId>,
    /// How many items.
    count: u64,
    /// The items with what changed of each, before and after.
    #[schema(value_type = ChangesForm)]
    changes: Value,
    /// The members of which a part is left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl AuditEntryView {
    /// The entry as its reader sees it.
    pub(crate) fn of(entry: AuditEntry, sight: &Sight) -> Self {
        let AuditEntry { seq, at, actor, action, selection, reason, job, count, changes } = entry;
        let ((selection, selection_is_cut), (changes, changes_are_cut)) = (sight.json(selection), sight.json(changes));
        let cut = [("selection", selection_is_cut), ("changes", changes_are_cut)];
        let hidden = cut.into_iter().filter(|(_, is_cut)| *is_cut).map(|(name, _)| name).collect();
        Self { seq, at, actor, action, selection, reason, job, count, changes, hidden }
    }
}

/// A part of the audit trail.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditPage {
    /// The entries, newest first.
    entries: Vec<AuditEntryView>,
}

impl AuditPage {
    /// The entries as their reader sees them.
    pub(crate) fn of(entries: Vec<AuditEntry>, sight: &Sight) -> Self {
        Self { entries: entries.into_iter().map(|entry| AuditEntryView::of(entry, sight)).collect() }
    }
}
