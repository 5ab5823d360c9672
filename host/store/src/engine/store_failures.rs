//! The failures of attempts that a store finds by itself, with their codes and words.
//!
//! It does not know what becomes of the item.

use outbox_core::{Failure, FailureClass};

/// The lease of the process `pod` ran out before the attempt was settled.
pub fn lease_expired(pod: &str) -> Failure {
    let message = format!("the lease ended before {pod} settled the attempt: it died or was suspended");
    Failure::new(FailureClass::Lost, "lease.expired", message)
}

/// A claim found an item without an attempt left. `last_error` is the message of the item's last failure.
pub fn retries_exhausted(last_error: Option<&str>) -> Failure {
    let message = last_error.unwrap_or("no retries are left");
    Failure::new(FailureClass::Lost, "retries.exhausted", message)
}

/// A claim found an item that was in too many leases which ran out.
pub fn crashes_exhausted(losses: u32) -> Failure {
    let message = format!(
        "{losses} claims were lost, at last with nothing else in the process: the process died, was suspended or could \
         not reach the store each time, perhaps because of this item"
    );
    Failure::new(FailureClass::Lost, "crashes.exhausted", message)
}

/// A claim found an item whose row cannot be read; `defect` says why.
pub fn row_undecodable(defect: String) -> Failure {
    Failure::new(FailureClass::Undecodable, "row.undecodable", defect)
}
