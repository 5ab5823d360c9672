//! Exhibits that send a different request under the same idempotency key when an attempt is repeated.

use std::collections::HashSet;

use outbox_handler::{Failure, Item, http};
use serde_json::json;

use crate::keys::{now, random};
use crate::{Twin, post, put, url};

/// Sends a random number. The twin derives the value from the item.
pub(crate) fn random_body(item: &Item, twin: Twin) -> Result<(), Failure> {
    let nonce = random().to_string();
    let nonce = twin.choose(nonce, item.idem_key.clone()); // guard
    post("/orders", json!({ "nonce": nonce }).to_string())
}

/// Sends the current time. The twin sends the time at which the item was enqueued.
pub(crate) fn clock_in_body(item: &Item, twin: Twin) -> Result<(), Failure> {
    let at = now();
    let at = twin.choose(at, item.created_at / 1000); // guard
    post("/orders", json!({ "at": at }).to_string())
}

/// Sends the number of the attempt. The twin leaves it out.
pub(crate) fn attempt_in_body(item: &Item, twin: Twin) -> Result<(), Failure> {
    let body = json!({ "order": item.idem_key, "attempt": item.attempt });
    let body = twin.choose(body, json!({ "order": item.idem_key })); // guard
    post("/orders", body.to_string())
}

/// Writes lines in the order of a hash set, which differs between instances. The twin sorts them.
pub(crate) fn unsorted_body(_: &Item, twin: Twin) -> Result<(), Failure> {
    let lines: HashSet<String> = (1..=9).map(|line| format!("line {line}")).collect();
    let mut lines: Vec<String> = lines.into_iter().collect();
    // guard begin
    if twin.is_fixed() {
        lines.sort();
    }
    // guard end
    post("/orders", lines.join("\n"))
}

/// Reads a balance and sends the new value. The twin sends the difference.
pub(crate) fn read_modify_write(_: &Item, twin: Twin) -> Result<(), Failure> {
    // guard begin
    if twin.is_fixed() {
        return post("/balance", json!({ "add": 5 }).to_string());
    }
    // guard end
    let balance: i64 = http::get(url("/balance")).send()?.ok_or_failure()?.json()?;
    post("/balance", json!({ "set": balance + 5 }).to_string())
}

/// Sends a sum at the rate of the moment. The twin sends the sum of the item.
pub(crate) fn rate_of_the_moment(_: &Item, twin: Twin) -> Result<(), Failure> {
    let rate: f64 = http::get(url("/rates/usd")).send()?.ok_or_failure()?.json()?;
    let rate = twin.choose(rate, 1.5); // guard
    post("/charges", json!({ "amount": rate * 100.0 }).to_string())
}

/// Reads a counter and sets it to one more. The twin adds an entry of its own.
pub(crate) fn counts_at_receiver(item: &Item, twin: Twin) -> Result<(), Failure> {
    // guard begin
    if twin.is_fixed() {
        return put(&format!("/counter/{}", item.idem_key), "1");
    }
    // guard end
    let count: u64 = http::get(url("/counter")).send()?.ok_or_failure()?.json()?;
    put("/counter", (count + 1).to_string())
}

/// Books a seat if one is free, and fails for good if none is: its own booking may have been the last. The twin leaves
/// the decision to the receiver.
pub(crate) fn takes_the_last_seat(item: &Item, twin: Twin) -> Result<(), Failure> {
    let free: u64 = http::get(url("/seats")).send()?.ok_or_failure()?.json()?;
    let free = twin.choose(free, 1); // guard
    if free == 0 {
        return Err(Failure::permanent("seats.none", "every seat is taken"));
    }
    post("/bookings", item.idem_key.clone())
}

/// Sets the time of its last work at a receiver that ignores keys. Any time of an attempt is right.
pub(crate) fn says_when_it_was_seen(_: &Item, _: Twin) -> Result<(), Failure> {
    put("/seen", now().to_string())
}
