//! Exhibits about several calls in one attempt.

use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, http};
use serde_json::json;

use crate::{Twin, post, url};

/// Charges a card at a receiver that ignores idempotency keys, then records the charge. A crash between the two calls
/// causes a second charge. The twin first asks whether the card was charged.
pub(crate) fn charge_then_record(item: &Item, twin: Twin) -> Result<(), Failure> {
    if twin == Twin::Broken || !is_found(&format!("/charges?order={}", item.idem_key))? {
        post("/charges", json!({ "order": item.idem_key, "amount": 5 }).to_string())?;
    }
    let record = json!({ "order": item.idem_key, "paid": true }).to_string();
    http::Request::new("PUT", url("/records")).body(record).send()?.ok_or_failure()?;
    Ok(())
}

/// Sends two different bookings to one URL and skips a booking that exists already. When the first one is skipped, the
/// second one gets the key of the first. The twin names both effects.
pub(crate) fn shared_url(item: &Item, twin: Twin) -> Result<(), Failure> {
    for leg in ["debit", "credit"] {
        if is_found(&format!("/bookings?leg={leg}"))? {
            continue;
        }
        let booking = http::post(url("/bookings")).body(json!({ "order": item.idem_key, "leg": leg }).to_string());
        let booking = if twin == Twin::Fixed { booking.effect(leg) } else { booking };
        booking.send()?.ok_or_failure()?;
    }
    Ok(())
}

/// Ships, and notifies a message queue that ignores idempotency keys. The twin emits a follow-up instead.
pub(crate) fn emits_outside(item: &Item, twin: Twin) -> Result<(), Failure> {
    let receipt = json!({ "order": item.idem_key });
    post("/shipments", receipt.to_string())?;
    match twin {
        Twin::Broken => post("/queue/receipts", receipt.to_string()).map(drop),
        Twin::Fixed => followups::emit(&NewItem::json("receipt", &receipt)?),
    }
}

/// Twenty calls, each with an effect of its own.
pub(crate) fn twenty_calls(item: &Item) -> Result<(), Failure> {
    (1..=20).try_for_each(|call| post(&format!("/parts/{call}"), item.idem_key.clone()).map(drop))
}

fn is_found(path: &str) -> Result<bool, Failure> {
    Ok(http::get(url(path)).send()?.ok_or_failure()?.body == b"yes")
}

/// Adds to a stock with a PUT that its receiver does not take for idempotent. The twin emits a follow-up instead.
pub(crate) fn put_that_adds(item: &Item, twin: Twin) -> Result<(), Failure> {
    match twin {
        Twin::Broken => http::Request::new("PUT", url("/stock")).body("+1").send()?.ok_or_failure().map(drop),
        Twin::Fixed => followups::emit(&NewItem::json("receipt", &item.idem_key)?),
    }
}

/// Creates a customer unless there is one, at a receiver that ignores keys. Two attempts at the same time create two.
pub(crate) fn creates_if_missing(item: &Item) -> Result<(), Failure> {
    if !is_found(&format!("/customers?ref={}", item.idem_key))? {
        post("/customers", item.idem_key.clone())?;
    }
    Ok(())
}

/// Charges, then fails for good because time has passed. The twin looks at the time only before its first effect.
pub(crate) fn too_late_midway(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_late = crate::keys::now() > item.created_at / 1000 + 90;
    let may_still_stop = twin == Twin::Fixed && !item.maybe_executed;
    if may_still_stop && is_late {
        return Err(Failure::permanent("order.late", "the order is too old"));
    }
    post("/charges", item.idem_key.clone())?;
    if twin == Twin::Broken && is_late {
        return Err(Failure::permanent("order.late", "the order is too old"));
    }
    post("/shipments", item.idem_key.clone()).map(drop)
}

/// Asks for a token with a POST that has no effect, then sends a message.
pub(crate) fn asks_for_token(item: &Item) -> Result<(), Failure> {
    post("/token", "grant_type=client_credentials".to_owned())?;
    post("/messages", item.idem_key.clone()).map(drop)
}

/// Sets a state at its receiver before and after its work.
pub(crate) fn sets_a_url_twice(item: &Item) -> Result<(), Failure> {
    let set = |state: &str| http::Request::new("PUT", url("/state")).body(state).send()?.ok_or_failure().map(drop);
    set("busy")?;
    post("/work", item.idem_key.clone())?;
    set("ready")
}

/// Sends a message with a token. Its name keeps its key the same, however often an attempt has sent it before.
pub(crate) fn send_with(token: &str, item: &Item) -> Result<http::Response, Failure> {
    http::post(url("/messages")).effect("message").header("x-token", token).body(item.idem_key.clone()).send()
}
