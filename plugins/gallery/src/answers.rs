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
