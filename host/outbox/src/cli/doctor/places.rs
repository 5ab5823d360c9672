//! The check that every item has exactly one status.
//!
//! A store reads an item's status from the place where the item is. Only a change by hand or a bug can leave an item in
//! no place or in several.

use outbox_store::{Inspect, MisplacedItem, StoreError};

use crate::cli::doctor::result::CheckResult;

const CHECK: &str = "places";

/// Items that the result names at most.
const SHOWN: u32 = 20;

pub(super) async fn check(store: &dyn Inspect) -> Result<CheckResult, StoreError> {
    Ok(result(&store.misplaced(SHOWN).await?))
}

fn result(misplaced: &[MisplacedItem]) -> CheckResult {
    let (lost, double): (Vec<_>, Vec<_>) = misplaced.iter().partition(|item| item.places == 0);
    match (lost.as_slice(), double.as_slice()) {
        ([], []) => CheckResult::ok(CHECK, "every item has exactly one status"),
        (lost, []) => {
            let message = format!("no process handles items that have no status: {}", ids(lost));
            let advice = format!("take them back into the queue with `outbox restore {}`", ids(lost));
            CheckResult::fail(CHECK, message, advice)
        }
        (_, double) => {
            let message = format!("items have several statuses at once: {}", ids(double));
            let advice = "stop the hosts, keep a copy of the database, and report this with `outbox show` of each item";
            CheckResult::fail(CHECK, message, advice)
        }
    }
}

fn ids(items: &[&MisplacedItem]) -> String {
    items.iter().map(|item| item.id.to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use outbox_item::ItemId;

    use super::*;
    use crate::cli::doctor::result::Severity;

    #[test]
    fn an_item_without_a_status_is_a_failure_with_the_command_that_takes_it_back() {
        let misplaced = |id, places| MisplacedItem { id: ItemId::new(id), places };
        assert_eq!(result(&[]).severity, Severity::Ok);
        let lost = result(&[misplaced(5, 0), misplaced(7, 0)]);
        assert_eq!(lost.severity, Severity::Fail);
        assert!(lost.advice.unwrap().contains("`outbox restore 5 7`"));
        let double = result(&[misplaced(5, 0), misplaced(6, 2)]);
        assert!(double.severity == Severity::Fail && double.message.ends_with(": 6"), "{double:?}");
    }
}
