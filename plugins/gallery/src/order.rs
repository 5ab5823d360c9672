//! Exhibits about several calls in one attempt.

use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, http};
use serde_json::json;

use crate::keys::now;
use crate::{Twin, post, put, url};

/// Charges a card at a receiver that ignores idempotency keys, then records the charge. A crash between the two calls
/// causes a second charge. The twin first asks whether the card was charged.
pub(crate) fn charge_then_record(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_charged = false;
    let is_charged = is_charged || twin.is_fixed() && is_found(&format!("/charges?order={}", item.idem_key))?; // guard
    if !is_charged {
        post("/charges", json!({ "order": item.idem_key, "amount": 5 }).to_string())?;
    }
    put("/records", json!({ "order": item.idem_key, "paid": true }).to_string())
}

/// Sends two different bookings to one URL and skips a booking that exists already. When the first one is skipped, the
/// second one gets the key of the first. The twin names both effects.
pub(crate) fn shared_url(item: &Item, twin: Twin) -> Result<(), Failure> {
    for leg in ["debit", "credit"] {
        if is_found(&format!("/bookings?leg={leg}"))? {
            continue;
        }
        let booking = http::post(url("/bookings")).body(json!({ "order": item.idem_key, "leg": leg }).to_string());
        let booking = twin.choose(booking.clone(), booking.effect(leg)); // guard
        booking.send()?.ok_or_failure()?;
    }
    Ok(())
}

/// Ships, and notifies a message queue that ignores idempotency keys. The twin emits a follow-up instead.
pub(crate) fn emits_outside(item: &Item, twin: Twin) -> Result<(), Failure> {
    let receipt = json!({ "order": item.idem_key });
    post("/shipments", receipt.to_string())?;
    // guard begin
    if twin.is_fixed() {
        return followups::emit(&NewItem::json("receipt", &receipt)?);
    }
    // guard end
    post("/queue/receipts", receipt.to_string())
}

/// As many calls as the payload says, each with an effect of its own.
pub(crate) fn many_calls(item: &Item, _: Twin) -> Result<(), Failure> {
    let calls: u32 = item.json()?;
    (1..=calls).try_for_each(|call| post(&format!("/parts/{call}"), item.idem_key.clone()))
}

fn is_found(path: &str) -> Result<bool, Failure> {
    Ok(http::get(url(path)).send()?.ok_or_failure()?.body == b"yes")
}

/// Adds to a stock with a PUT that its receiver does not take for idempotent. The twin emits a follow-up instead.
pub(crate) fn put_that_adds(item: &Item, twin: Twin) -> Result<(), Failure> {
    // guard begin
    if twin.is_fixed() {
        return followups::emit(&NewItem::json("receipt", &item.idem_key)?);
    }
    // guard end
    put("/stock", "+1")
}

/// Creates a customer unless there is one, at a receiver that ignores keys. Two attempts at the same time create two.
pub(crate) fn creates_if_missing(item: &Item, _: Twin) -> Result<(), Failure> {
    if is_found(&format!("/customers?ref={}", item.idem_key))? {
        return Ok(());
    }
    post("/customers", item.idem_key.clone())
}

/// Charges, and fails for good when time has passed before it ships. The twin looks at the time only before its first
/// effect.
pub(crate) fn too_late_midway(item: &Item, twin: Twin) -> Result<(), Failure> {
    look_at_the_time(item, item.maybe_executed)?;
    post("/charges", item.idem_key.clone())?;
    let is_begun = false;
    let is_begun = twin.choose(is_begun, true); // guard
    look_at_the_time(item, is_begun)?;
    post("/shipments", item.idem_key.clone())
}

fn look_at_the_time(item: &Item, is_begun: bool) -> Result<(), Failure> {
    if now() <= item.created_at / 1000 + 90 || is_begun {
        return Ok(());
    }
    Err(Failure::permanent("order.late", "the order is too old"))
}

/// Asks for a token with a POST that has no effect, then sends a message.
pub(crate) fn asks_for_token(item: &Item, _: Twin) -> Result<(), Failure> {
    post("/token", "grant_type=client_credentials")?;
    post("/messages", item.idem_key.clone())
}

/// Sets a state at its receiver before and after its work.
pub(crate) fn sets_a_url_twice(item: &Item, _: Twin) -> Result<(), Failure> {
    put("/state", "busy")?;
    post("/work", item.idem_key.clone())?;
    put("/state", "ready")
}

/// Closes every order on the pages of a list, which gets shorter with each one: after a crash the pages have moved. The
/// twin closes the orders that the item names.
pub(crate) fn pages_of_a_shrinking_list(item: &Item, twin: Twin) -> Result<(), Failure> {
    // guard begin
    if twin.is_fixed() {
        return item.json::<Vec<String>>()?.iter().try_for_each(|order| close(order));
    }
    // guard end
    for offset in 0.. {
        let page: Vec<String> = http::get(url(&format!("/open?offset={offset}"))).send()?.ok_or_failure()?.json()?;
        let Some(order) = page.first() else { break };
        close(order)?;
    }
    Ok(())
}

fn close(order: &str) -> Result<(), Failure> {
    http::Request::new("DELETE", url(&format!("/open/{order}"))).send()?.ok_or_failure().map(drop)
}
