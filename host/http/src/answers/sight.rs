//! What the reader of an answer may see of what items contain.
//!
//! A member that is not shown is left out, and the member `hidden` beside it has its name. So nobody takes a hidden
//! payload for an empty one.

use serde::{Serialize, Serializer};
use serde_json::Value;

use outbox_store::{Filter, ItemDetails, Redaction, Veil};

use crate::access::{Caller, Right};
use crate::state::HttpSettings;

/// The members of an audit entry that repeat what items contain: results, and conditions of filters.
const CONTENT: [&str; 6] = ["result", "payload", "headers", "metadata", "error", "text"];

/// What a reader may see.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    has_content: bool,
    redaction: Redaction,
}

impl Sight {
    /// What the caller may see under the operator's settings.
    pub(crate) fn of(caller: &Caller, settings: &HttpSettings) -> Self {
        Self { has_content: caller.may(Right::ReadPayload), redaction: settings.redaction.clone() }
    }

    /// Everything, as the command line shows it.
    pub(crate) fn of_everything() -> Self {
        Self { has_content: true, redaction: Redaction::default() }
    }

    /// A member that shows what an item contains.
    pub(crate) fn content<T>(&self, value: T) -> Visible<T> {
        if self.has_content { Visible::Shown(value) } else { Visible::Hidden }
    }

    /// The names of the members that are left out, if any are.
    pub(crate) fn hidden(&self, names: &[&'static str]) -> Vec<&'static str> {
        if self.has_content { Vec::new() } else { names.to_vec() }
    }

    /// The item without the members that the operator hides from everybody.
    pub(crate) fn redacted(&self, details: ItemDetails) -> ItemDetails {
        self.redaction.shown(details)
    }

    /// What may be shown of an attempt that is in no history, at an item with this payload.
    pub(crate) fn veil(&self, payload: &[u8]) -> Veil {
        self.redaction.veil(payload)
    }

    /// The filter without its conditions on what items contain, and whether it had any.
    pub(crate) fn filter(&self, filter: Filter) -> (Filter, bool) {
        let is_about_content = filter.reads_content() || filter.error.is_some();
        if self.has_content || !is_about_content {
            return (filter, false);
        }
        (Filter { error: None, ..filter.without_content() }, true)
    }

    /// A value of the audit trail without what items contain, and whether something was left out.
    pub(crate) fn json(&self, mut value: Value) -> (Value, bool) {
        let is_cut = !self.has_content && leave_out(&mut value);
        (value, is_cut)
    }
}

/// Removes the members that repeat content, wherever they are. Returns whether there were any.
fn leave_out(value: &mut Value) -> bool {
    match value {
        Value::Object(members) => {
            let before = members.len();
            members.retain(|name, _| !CONTENT.contains(&name.as_str()));
            let is_cut = members.len() < before;
            members.values_mut().fold(is_cut, |is_cut, member| leave_out(member) | is_cut)
        }
        Value::Array(elements) => elements.iter_mut().fold(false, |is_cut, element| leave_out(element) | is_cut),
        _ => false,
    }
}

/// A member that some readers do not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Visible<T> {
    Shown(T),
    Hidden,
}

impl<T> Visible<T> {
    /// Whether the member is left out.
    pub(crate) fn is_hidden(&self) -> bool {
        matches!(self, Self::Hidden)
    }
}

impl<T: Serialize> Serialize for Visible<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Shown(value) => value.serialize(serializer),
            Self::Hidden => serializer.serialize_unit(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::access::Role;

    fn sight(role: Role) -> Sight {
        Sight::of(&Caller::named("ada", role.rights()), &HttpSettings::default())
    }

    #[test]
    fn what_is_left_out_of_an_entry_is_said() {
        let changes = || json!([{ "id": 1, "before": { "status": "DONE", "result": "secret" } }]);
        assert_eq!(sight(Role::Admin).json(changes()), (changes(), false));
        let (cut, is_cut) = sight(Role::Operate).json(changes());
        assert_eq!((cut, is_cut), (json!([{ "id": 1, "before": { "status": "DONE" } }]), true));
        let selection = json!({ "filter": { "payload": ["order=17"], "type": "a" } });
        assert_eq!(sight(Role::Read).json(selection), (json!({ "filter": { "type": "a" } }), true));
        assert_eq!(sight(Role::Read).json(json!({ "ids": [1] })), (json!({ "ids": [1] }), false));
    }

    #[test]
    fn a_filter_is_shown_without_its_conditions_on_content() {
        let filter = Filter { error: Some("17".into()), cid: Some("c".into()), ..Filter::default() };
        assert_eq!(sight(Role::Admin).filter(filter.clone()), (filter.clone(), false));
        let (shown, is_cut) = sight(Role::Read).filter(filter);
        assert_eq!((shown, is_cut), (Filter { cid: Some("c".into()), ..Filter::default() }, true));
    }
}
