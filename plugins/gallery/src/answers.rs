//! Exhibits that misinterpret an answer.

use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, http, log};
use serde_json::Value;

use crate::{Twin, charge, post, url};

/// Reserves, then ships, and succeeds although shipping fails. The twin returns the failure.
pub(crate) fn swallowed_error(item: &Item, twin: Twin) -> Result<(), Failure> {
    post("/reservations", item.idem_key.clone())?;
    if let Err(failure) = post("/shipments", item.idem_key.clone()) {
        log::warn(&failure.message);
        // guard begin
        if twin.is_fixed() {
            return Err(failure);
        }
        // guard end
    }
    Ok(())
}

/// Treats 409 as success. The twin fails retryably.
pub(crate) fn ignored_409(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = charge(item)?;
    let is_done = answer.status == 409;
    let is_done = twin.choose(is_done, false); // guard
    if is_done { Ok(()) } else { answer.ok_or_failure().map(drop) }
}

/// Fails permanently on 429, which asks for a later attempt. The twin fails retryably or defers.
pub(crate) fn fatal_429(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = charge(item)?;
    let is_final = answer.status == 429;
    let is_final = twin.choose(is_final, false); // guard
    if is_final {
        return Err(Failure::permanent("charge.refused", "the receiver answered 429"));
    }
    answer.ok_or_failure().map(drop)
}

/// Takes a receiver that does not answer in time for a slow one that does its work. The twin returns the failure.
pub(crate) fn timeout_for_done(item: &Item, twin: Twin) -> Result<(), Failure> {
    let charged = charge(item);
    let is_slow = charged.as_ref().is_err_and(|failure| failure.code == "upstream.timeout");
    let is_slow = twin.choose(is_slow, false); // guard
    if is_slow { Ok(()) } else { charged?.ok_or_failure().map(drop) }
}

/// Takes a receiver that cannot be reached for one that is not needed. The twin returns the failure.
pub(crate) fn refused_for_done(item: &Item, twin: Twin) -> Result<(), Failure> {
    let charged = charge(item);
    let is_away = charged.as_ref().is_err_and(|failure| failure.code == "upstream.connect");
    let is_away = twin.choose(is_away, false); // guard
    if is_away { Ok(()) } else { charged?.ok_or_failure().map(drop) }
}

/// Takes the impatience of a gateway for a receiver that is still at work. The twin fails retryably.
pub(crate) fn gateway_for_done(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = charge(item)?;
    let is_at_work = answer.status == 504;
    let is_at_work = twin.choose(is_at_work, false); // guard
    if is_at_work { Ok(()) } else { answer.ok_or_failure().map(drop) }
}

/// Refunds a charge whenever the shipment fails. The twin refunds only what is refused for good, and goes on with what
/// failed.
pub(crate) fn undoes_too_early(item: &Item, twin: Twin) -> Result<(), Failure> {
    post("/charges", item.idem_key.clone())?;
    let shipment = http::post(url("/shipments")).body(item.idem_key.clone()).send();
    let is_refused = shipment.as_ref().is_ok_and(|answer| answer.status == 422);
    let shipped = shipment.and_then(http::Response::ok_or_failure).map(drop);
    // guard begin
    if twin.is_fixed() && !is_refused {
        return shipped;
    }
    // guard end
    if shipped.is_err() {
        post("/refunds", item.idem_key.clone())?;
    }
    if is_refused { Ok(()) } else { shipped }
}

/// Cancels a booking and fails when it is gone, which an earlier attempt caused. The twin wants it to be gone.
pub(crate) fn fails_when_gone(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = http::Request::new("DELETE", url(&format!("/bookings/{}", item.idem_key))).send()?;
    // guard begin
    if twin.is_fixed() && answer.status == 404 {
        return Ok(());
    }
    // guard end
    answer.ok_or_failure().map(drop)
}

/// Waits by deferring until a parcel is packed, then ships it without a look at the answer. The twin looks.
pub(crate) fn unchecked_after_waiting(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_packed = http::get(url("/parcels/1")).send()?.ok_or_failure()?.body == b"packed";
    if !is_packed {
        return Err(Failure::defer("parcel.open", "the parcel is not packed yet"));
    }
    let answer = http::post(url("/shipments")).body(item.idem_key.clone()).send()?;
    // guard begin
    if twin.is_fixed() {
        answer.ok_or_failure()?;
    }
    // guard end
    Ok(())
}

/// Sends two requests at the same time and looks at one of the answers. The twin looks at both.
pub(crate) fn lets_go_of_one(item: &Item, twin: Twin) -> Result<(), Failure> {
    let start = |path: &str| http::post(url(path)).body(item.idem_key.clone()).start();
    let (charge, shipment) = (start("/charges")?, start("/shipments")?);
    let (charged, shipped) = (charge.wait(), shipment.wait());
    // guard begin
    if twin.is_fixed() {
        shipped?.ok_or_failure()?;
    }
    // guard end
    charged?.ok_or_failure().map(drop)
}

/// Parses an answer before it looks at the status, and so takes the page that comes with a 500 for a payload that is
/// wrong for ever. The twin looks at the status first.
pub(crate) fn error_page_parsed(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = http::post(url("/parcels")).body(item.payload.clone()).send()?;
    let answer = if twin.is_fixed() { answer.ok_or_failure()? } else { answer }; // guard
    let parcel: Value = serde_json::from_slice(&answer.body)?;
    let Some(tracking) = parcel["tracking"].as_str() else {
        return Err(Failure::permanent("carrier.refused", parcel.to_string()));
    };
    followups::emit(&NewItem::json("receipt", &tracking)?)
}

/// Sends news to all but those on a list, and takes a failed lookup for "not on the list". The twin takes only 404 for
/// that.
pub(crate) fn lookup_error_is_no(_: &Item, twin: Twin) -> Result<(), Failure> {
    for reader in ["ann", "bob"] {
        let listed = http::get(url(&format!("/suppressed/{reader}"))).send()?;
        // guard begin
        if twin.is_fixed() && listed.status != 404 {
            listed.clone().ok_or_failure()?;
        }
        // guard end
        if listed.status != 200 {
            post(&format!("/news/{reader}"), "news")?;
        }
    }
    Ok(())
}
