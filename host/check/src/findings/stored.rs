//! `State` and `Followups`: what the outbox holds at the end differs from the undisturbed run.
//!
//! A key that differs between the two undisturbed runs already is not compared.

use std::collections::{BTreeMap, BTreeSet};

use outbox_item::NewItem;
use outbox_runtime::simulation::GuestCall;

use crate::check_report::FindingKind;
use crate::display::displayed;
use crate::findings::comparison::{Comparison, RunFinding};
use crate::in_memory_outbox::OutboxSnapshot;

/// What of a follow-up is compared: its payload and its ordering key.
type ComparedFollowup<'a> = (&'a [u8], Option<&'a str>);

/// The differences in state, then those in follow-ups.
pub(super) fn stored_differences(run: &Comparison<'_>) -> Vec<RunFinding> {
    if !run.result.is_done() || !run.baseline.result.is_done() {
        return Vec::new();
    }
    let mut found = state_differences(run);
    found.extend(followup_differences(run));
    found
}

fn state_differences(run: &Comparison<'_>) -> Vec<RunFinding> {
    let stored = Stored::of(run, state);
    stored.wrong_keys().into_iter().map(|key| state_difference(run, &stored, key)).collect()
}

fn state_difference(run: &Comparison<'_>, stored: &Stored<'_, &[u8]>, key: &str) -> RunFinding {
    let shown = |of: &BTreeMap<&str, &[u8]>| of.get(key).map_or_else(|| "absent".to_owned(), |value| displayed(value));
    let (found, expected) = (shown(&stored.found), shown(&stored.expected));
    let writes_key = |call: &GuestCall| match call {
        GuestCall::Put { key: written, .. } | GuestCall::Delete { key: written } => written == key,
        _ => false,
    };
    let what = format!("the state {key} ends as {found}, and without the disturbance as {expected}");
    let fix = "write to the state what does not depend on the attempt";
    run.finding(FindingKind::State, run.baseline.position_of(writes_key), what, fix)
}

fn followup_differences(run: &Comparison<'_>) -> Vec<RunFinding> {
    let stored = Stored::of(run, followups);
    stored.wrong_keys().into_iter().map(|key| followup_difference(run, &stored, key)).collect()
}

fn followup_difference(run: &Comparison<'_>, stored: &Stored<'_, ComparedFollowup<'_>>, key: &str) -> RunFinding {
    let mut emitted = run.baseline.result.snapshot.followups.iter().chain(&run.result.snapshot.followups);
    let item_type = emitted.find(|item| item.idem_key == key).map_or("", |item| &item.item_type);
    let emits_type =
        |call: &GuestCall| matches!(call, GuestCall::Emit { item_type: emitted, .. } if emitted == item_type);
    let how = match (stored.expected.get(key), stored.found.get(key)) {
        (Some(_), None) => "is missing",
        (None, _) => "is one too many",
        (Some(expected), Some(found)) if expected.0 == found.0 => "has another ordering key",
        _ => "has another payload",
    };
    let what = format!("the follow-up {key} {how}, compared with the undisturbed run");
    let fix = "emit the same in every attempt: follow-ups come with the commit, once";
    run.finding(FindingKind::Followups, run.baseline.position_of(emits_type), what, fix)
}

/// The same part of three outboxes, by key.
struct Stored<'a, V> {
    expected: BTreeMap<&'a str, V>,
    repeat: BTreeMap<&'a str, V>,
    found: BTreeMap<&'a str, V>,
}

impl<'a, V: PartialEq> Stored<'a, V> {
    fn of(run: &Comparison<'a>, part: fn(&'a OutboxSnapshot) -> BTreeMap<&'a str, V>) -> Self {
        Self {
            expected: part(&run.baseline.result.snapshot),
            repeat: part(&run.baseline.repeat.snapshot),
            found: part(&run.result.snapshot),
        }
    }

    /// The keys whose values differ from the undisturbed run and are the same in both undisturbed runs.
    fn wrong_keys(&self) -> BTreeSet<&'a str> {
        let is_wrong = |key: &&str| {
            self.found.get(key) != self.expected.get(key) && self.expected.get(key) == self.repeat.get(key)
        };
        self.expected.keys().chain(self.found.keys()).copied().filter(is_wrong).collect()
    }
}

fn state(snapshot: &OutboxSnapshot) -> BTreeMap<&str, &[u8]> {
    snapshot.state.iter().map(|(key, (value, _))| (key.as_str(), value.as_slice())).collect()
}

fn followups(snapshot: &OutboxSnapshot) -> BTreeMap<&str, ComparedFollowup<'_>> {
    snapshot.followups.iter().map(|item| (item.idem_key.as_str(), compared(item))).collect()
}

fn compared(item: &NewItem) -> ComparedFollowup<'_> {
    (&item.payload, item.ordering_key.as_deref())
}
