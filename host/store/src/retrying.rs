//! Groups the failures of items that wait for another attempt, as the stores group those of dead items.
//!
//! Which items wait, and what they failed of, is read by the engines.

use std::collections::BTreeMap;

use outbox_core::{Failure, FailureClass, fingerprint};
use outbox_item::{ItemId, Millis};

use crate::inspect::FailureGroup;

/// Waiting items of one type with the same last failure, as an engine found them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryingItems {
    /// Their type.
    pub item_type: String,
    /// The message of their last failures.
    pub message: String,
    /// The component of their last attempts.
    pub handler_digest: Option<String>,
    /// The code of their last failures.
    pub code: String,
    /// How many.
    pub count: u64,
    /// When the first of their attempts began.
    pub first_at: Millis,
    /// When the last of their attempts ended.
    pub last_at: Millis,
    /// The newest of them.
    pub sample: ItemId,
}

/// The items in groups of like failures, the largest first, at most `limit` groups.
pub fn retrying_groups(found: Vec<RetryingItems>, limit: u32) -> Vec<FailureGroup> {
    let mut groups: BTreeMap<String, FailureGroup> = BTreeMap::new();
    for items in found {
        let group = group_of(items);
        match groups.get_mut(&group.fingerprint) {
            None => drop(groups.insert(group.fingerprint.clone(), group)),
            Some(known) => merge(known, group),
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups.truncate(limit as usize);
    groups
}

fn group_of(items: RetryingItems) -> FailureGroup {
    let RetryingItems { item_type, message, handler_digest, code, count, first_at, last_at, sample } = items;
    // The class is no part of a fingerprint.
    let failure = Failure::new(FailureClass::Retryable, &code, message);
    FailureGroup {
        fingerprint: fingerprint(&item_type, &failure, handler_digest.as_deref()),
        r#type: item_type,
        count,
        first_at,
        last_at,
        sample,
        code: Some(code),
        message: Some(failure.message),
        handler_digest,
    }
}

/// The sample of the group is the newer one.
fn merge(known: &mut FailureGroup, other: FailureGroup) {
    let (count, first_at) = (known.count + other.count, known.first_at.min(other.first_at));
    let last_at = known.last_at.max(other.last_at);
    if other.sample > known.sample {
        *known = other;
    }
    (known.count, known.first_at, known.last_at) = (count, first_at, last_at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_differ_in_ids_only_are_one_group_with_the_newest_as_its_sample() {
        let items = |sample: i64, message: &str, count| RetryingItems {
            item_type: "mail".into(),
            message: message.to_owned(),
            handler_digest: None,
            code: "http".into(),
            count,
            first_at: Millis::new(100 - sample),
            last_at: Millis::new(100 + sample),
            sample: ItemId::new(sample),
        };
        let found =
            vec![items(1, "no answer for 17", 2), items(9, "another cause", 4), items(5, "no answer for 18", 3)];
        let groups = retrying_groups(found, 20);
        let about = |group: &FailureGroup| (group.count, group.sample.get(), group.first_at.get(), group.last_at.get());
        assert_eq!(groups.iter().map(about).collect::<Vec<_>>(), [(5, 5, 95, 105), (4, 9, 91, 109)]);
        assert_eq!(groups[0].message.as_deref(), Some("no answer for 18"));
    }
}
