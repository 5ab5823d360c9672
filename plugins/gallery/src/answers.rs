//! Exhibits that misinterpret an answer.

use outbox_handler::{Failure, Item, http, log};

use crate::{Twin, post, url};

/// Reserves, then ships, and succeeds although shipping fails. The twin returns the failure.
pub(crate) fn swallowed(item: &Item, twin: Twin) -> Result<(), Failure> {
    post("/reservations", item.idem_key.clone())?;
    match post("/shipments", item.idem_key.clone()) {
        Err(failure) if twin == Twin::Broken => log::warn(&failure.message),
        shipped => drop(shipped?),
    }
    Ok(())
}

/// Treats 409 as success. The twin fails retryably.
pub(crate) fn ignored_409(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = http::post(url("/charges")).body(item.idem_key.clone()).send()?;
    if answer.status == 409 && twin == Twin::Broken {
        return Ok(());
    }
    answer.ok_or_failure().map(drop)
}

/// Fails permanently on 429, which asks for a later attempt. The twin fails retryably or defers.
pub(crate) fn fatal_429(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = http::post(url("/charges")).body(item.idem_key.clone()).send()?;
    if answer.status == 429 && twin == Twin::Broken {
        return Err(Failure::permanent("charge.refused", "the receiver answered 429"));
    }
    answer.ok_or_failure().map(drop)
}

/// Treats an effect that an earlier attempt began as done. The twin requests it again under the same key.
pub(crate) fn skips_repeats(item: &Item, twin: Twin) -> Result<(), Failure> {
    if item.maybe_executed && twin == Twin::Broken {
        return Ok(());
    }
    post("/charges", item.idem_key.clone()).map(drop)
}

/// Takes a failure with this code for success. The twin returns it.
pub(crate) fn taken_for_done(item: &Item, twin: Twin, code: &str) -> Result<(), Failure> {
    match http::post(url("/charges")).body(item.idem_key.clone()).send() {
        Err(failure) if failure.code == code && twin == Twin::Broken => Ok(()),
        answer => answer?.ok_or_failure().map(drop),
    }
}

/// Stops trying after four attempts and succeeds. The twin leaves the end of the retries to the host.
pub(crate) fn gives_up_quietly(item: &Item, twin: Twin) -> Result<(), Failure> {
    if item.attempt > 4 && twin == Twin::Broken {
        return Ok(());
    }
    post("/charges", item.idem_key.clone()).map(drop)
}

/// Refunds a charge whenever the shipment fails. The twin refunds only what is refused for good.
pub(crate) fn undoes_too_early(item: &Item, twin: Twin) -> Result<(), Failure> {
    post("/charges", item.idem_key.clone())?;
    let shipment = http::post(url("/shipments")).body(item.idem_key.clone()).send();
    let is_refused = shipment.as_ref().is_ok_and(|answer| answer.status == 422);
    let shipped = shipment.and_then(http::Response::ok_or_failure);
    if is_refused || (twin == Twin::Broken && shipped.is_err()) {
        post("/refunds", item.idem_key.clone())?;
    }
    if is_refused { Ok(()) } else { shipped.map(drop) }
}

/// Cancels a booking and fails when it is gone, which an earlier attempt caused. The twin wants it to be gone.
pub(crate) fn fails_when_gone(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = http::Request::new("DELETE", url(&format!("/bookings/{}", item.idem_key))).send()?;
    if answer.status == 404 && twin == Twin::Fixed {
        return Ok(());
    }
    answer.ok_or_failure().map(drop)
}

/// Waits by deferring until a parcel is packed, then ships it without a look at the answer. The twin looks.
pub(crate) fn unchecked_after_waiting(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_packed = http::get(url("/parcels/1")).send()?.ok_or_failure()?.body == b"packed";
    if !is_packed {
        return Err(Failure::defer("parcel.open", "the parcel is not packed yet"));
    }
    let answer = http::post(url("/shipments")).body(item.idem_key.clone()).send()?;
    if twin == Twin::Broken { Ok(()) } else { answer.ok_or_failure().map(drop) }
}
