//! Which plugin owns a type: what changes when a process tells which plugins its folder has.
//!
//! Pure; the engines read and write the rows.

use std::time::Duration;

use outbox_core::PresentPlugin;
use outbox_item::Millis;

/// How long the file of an owner is gone from the folders of all processes of its role before the type is free. Long
/// enough for a file that is replaced in two steps, and for a deployment that copies files one after the other.
pub const OWNER_GONE: Duration = Duration::from_mins(2);

/// The owner of a type in one role, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRow {
    /// The type.
    pub item_type: String,
    /// The plugin.
    pub plugin: String,
    /// Since when no process reports it; `None` while one does.
    pub gone_since: Option<Millis>,
}

/// A change of the owner of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerChange {
    /// The owner is absent since now.
    Gone(String),
    /// The owner is back.
    Back(String),
    /// The owner was absent for too long.
    Free(String),
    /// The plugin takes a type without an owner.
    Take {
        /// The type.
        item_type: String,
        /// The plugin.
        plugin: String,
    },
}

/// The changes at `now`, in the order in which they are made.
pub fn owner_changes(rows: &[OwnerRow], present: &[PresentPlugin], now: Millis) -> Vec<OwnerChange> {
    let mut changes: Vec<_> = rows.iter().filter_map(|row| change_of(row, present, now)).collect();
    let mut owned: Vec<&str> = rows
        .iter()
        .filter(|row| !changes.contains(&OwnerChange::Free(row.item_type.clone())))
        .map(|row| row.item_type.as_str())
        .collect();
    for PresentPlugin { plugin, types } in present {
        for item_type in types.iter().flatten() {
            if !owned.contains(&item_type.as_str()) {
                owned.push(item_type);
                changes.push(OwnerChange::Take { item_type: item_type.clone(), plugin: plugin.clone() });
            }
        }
    }
    changes
}

fn change_of(row: &OwnerRow, present: &[PresentPlugin], now: Millis) -> Option<OwnerChange> {
    let may_handle = |plugin: &PresentPlugin| {
        plugin.plugin == row.plugin && plugin.types.as_ref().is_none_or(|types| types.contains(&row.item_type))
    };
    let item_type = row.item_type.clone();
    match (present.iter().any(may_handle), row.gone_since) {
        (true, Some(_)) => Some(OwnerChange::Back(item_type)),
        (false, None) => Some(OwnerChange::Gone(item_type)),
        (false, Some(since)) if now.since(since) >= OWNER_GONE => Some(OwnerChange::Free(item_type)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis::new(1_000_000);

    fn row(gone_since: Option<Millis>) -> OwnerRow {
        OwnerRow { item_type: "mail".into(), plugin: "webhook".into(), gone_since }
    }

    fn plugin(name: &str, types: Option<&[&str]>) -> PresentPlugin {
        let types = types.map(|types| types.iter().map(|word| (*word).to_owned()).collect());
        PresentPlugin { plugin: name.into(), types }
    }

    fn take(plugin: &str) -> OwnerChange {
        OwnerChange::Take { item_type: "mail".into(), plugin: plugin.into() }
    }

    #[test]
    fn a_type_without_an_owner_goes_to_the_first_plugin_and_stays_with_it() {
        let both = [plugin("another", Some(&["mail"])), plugin("webhook", Some(&["mail"]))];
        assert_eq!(owner_changes(&[], &both, NOW), [take("another")]);
        assert_eq!(owner_changes(&[row(None)], &both, NOW), []);
    }

    #[test]
    fn an_owner_that_is_gone_keeps_the_type_for_a_while_and_one_that_is_not_loaded_yet_for_good() {
        let newcomer = [plugin("another", Some(&["mail"]))];
        assert_eq!(owner_changes(&[row(None)], &newcomer, NOW), [OwnerChange::Gone("mail".into())]);
        let just_before = NOW.saturating_add(OWNER_GONE.saturating_sub(Duration::from_millis(1)));
        assert_eq!(owner_changes(&[row(Some(NOW))], &newcomer, just_before), []);
        let free = [OwnerChange::Free("mail".into()), take("another")];
        assert_eq!(owner_changes(&[row(Some(NOW))], &newcomer, NOW.saturating_add(OWNER_GONE)), free);
        let back = [plugin("another", Some(&["mail"])), plugin("webhook", None)];
        assert_eq!(owner_changes(&[row(Some(NOW))], &back, just_before), [OwnerChange::Back("mail".into())]);
        assert_eq!(owner_changes(&[row(None)], &back, NOW), []);
    }

    #[test]
    fn an_owner_whose_new_version_does_not_handle_the_type_counts_as_gone() {
        let changed = [plugin("webhook", Some(&["fax"]))];
        let fax = OwnerChange::Take { item_type: "fax".into(), plugin: "webhook".into() };
        assert_eq!(owner_changes(&[row(None)], &changed, NOW), [OwnerChange::Gone("mail".into()), fax]);
    }
}
