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
