//! Why something is done, and by whom: two fields of every form that acts. The audit trail keeps both.

use crate::page::form::FormFields;
use crate::page::visit::Visit;
use crate::problem::ApiError;

/// The fields, as `reason.html` shows them.
pub(super) struct ReasonFields {
    pub(super) reason: String,
    pub(super) actor: String,
    /// Whether nothing proves who sends the form, so that it asks for a name.
    pub(super) asks_name: bool,
}

impl ReasonFields {
    /// The fields with what was typed into them before.
    pub(super) fn of(visit: &Visit, fields: &FormFields) -> Self {
        let text = |name| fields.get(name).unwrap_or_default().to_owned();
        Self { reason: text("reason"), actor: text("actor"), asks_name: visit.caller.name().is_none() }
    }
}

/// The reason that the form gives.
pub(super) fn reason(fields: &FormFields) -> Result<&str, ApiError> {
    fields.get("reason").ok_or_else(|| ApiError::Invalid("say why: the audit trail keeps it".into()))
}

/// The name in the audit trail: the proven one, or the one of the form.
pub(super) fn actor(visit: &Visit, fields: &FormFields) -> String {
    visit.caller.actor(fields.get("actor").map(str::to_owned))
}
