//! Exhibits that take an answer for what it is not.

use outbox_handler::{Failure, Item, http, log};

use crate::{Twin, post, url};

/// Reserves, then ships, and goes on when shipping fails. The twin returns the failure.
pub(crate) fn swallowed(item: &Item, twin: Twin) -> Result<(), Failure> {
    post("/reservations", item.idem_key.clone())?;
    match post("/shipments", item.idem_key.clone()) {
        Err(failure) if twin == Twin::Broken => log::warn(&failure.message),
        shipped => drop(shipped?),
    }
    Ok(())
}

/// Takes 409 for done. The twin comes back later.
pub(crate) fn ignored_409(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = http::post(url("/charges")).body(item.idem_key.clone()).send()?;
    if answer.status == 409 && twin == Twin::Broken {
        return Ok(());
    }
    answer.ok_or_failure().map(drop)
}

/// Gives up for good when it is asked to come back later. The twin comes back later.
pub(crate) fn fatal_429(item: &Item, twin: Twin) -> Result<(), Failure> {
    let answer = http::post(url("/charges")).body(item.idem_key.clone()).send()?;
    if answer.status == 429 && twin == Twin::Broken {
        return Err(Failure::permanent("charge.refused", "the receiver answered 429"));
    }
    answer.ok_or_failure().map(drop)
}

/// Takes for done what an earlier attempt has begun. The twin does it again, under the same key.
pub(crate) fn skips_repeats(item: &Item, twin: Twin) -> Result<(), Failure> {
    if item.maybe_executed && twin == Twin::Broken {
        return Ok(());
    }
    post("/charges", item.idem_key.clone()).map(drop)
}
