//! Exhibits that repeat a request wrongly, or do something else when an attempt is a repetition.

use outbox_handler::{Failure, Item, http, log};

use crate::keys::random;
use crate::{Twin, charge, post, url};

/// Treats an effect that an earlier attempt began as done. The twin requests it again under the same key.
pub(crate) fn skips_repeats(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_done = item.maybe_executed;
    let is_done = twin.choose(is_done, false); // guard
    if is_done { Ok(()) } else { charge(item)?.ok_or_failure().map(drop) }
}

/// Retries inside one attempt, each time with a new key. The twin leaves retries to the host.
pub(crate) fn retry_inside(item: &Item, twin: Twin) -> Result<(), Failure> {
    let tries = 3;
    let tries = twin.choose(tries, 1); // guard
    let mut last = charge(item)?.ok_or_failure();
    for _ in 1..tries {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
        last = charge(item)?.ok_or_failure();
    }
    last.map(drop)
}

/// Sends a request once more when the connection fails, because then nothing was sent: but a connection can break after
/// the request. The twin sends it under one name.
pub(crate) fn resends_what_broke(item: &Item, twin: Twin) -> Result<(), Failure> {
    let request = http::post(url("/charges")).body(item.idem_key.clone());
    let request = twin.choose(request.clone(), request.effect("charge")); // guard
    let mut answer = request.clone().send();
    if answer.as_ref().is_err_and(|failure| failure.code == "upstream.connect") {
        answer = request.send();
    }
    answer?.ok_or_failure().map(drop)
}

/// Stops trying after four attempts and succeeds. The twin leaves the end of the retries to the host.
pub(crate) fn gives_up_quietly(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_enough = item.attempt > 4;
    let is_enough = twin.choose(is_enough, false); // guard
    if is_enough { Ok(()) } else { charge(item)?.ok_or_failure().map(drop) }
}

/// Looks for fraud before it charges, and does nothing more when that fails in the fourth attempt. The twin returns the
/// failure.
pub(crate) fn gives_up_the_lookup(item: &Item, twin: Twin) -> Result<(), Failure> {
    let looked = http::get(url("/fraud/17")).send().and_then(http::Response::ok_or_failure);
    let is_enough = item.attempt > 3;
    let is_enough = twin.choose(is_enough, false); // guard
    if looked.is_err() && is_enough {
        log::warn("the fraud check does not answer");
        return Ok(());
    }
    looked?;
    charge(item)?.ok_or_failure().map(drop)
}

/// Takes a charge that does not answer for done if it may have been done before. The twin returns the failure.
pub(crate) fn hopes_it_was_done(item: &Item, twin: Twin) -> Result<(), Failure> {
    let charged = charge(item);
    let is_done = item.maybe_executed && charged.as_ref().is_err_and(|failure| failure.code == "upstream.timeout");
    let is_done = twin.choose(is_done, false); // guard
    if is_done { Ok(()) } else { charged?.ok_or_failure().map(drop) }
}

/// Takes a receiver that cannot be reached twice for one that is gone. The twin returns the failure.
pub(crate) fn second_refusal_for_done(item: &Item, twin: Twin) -> Result<(), Failure> {
    let charged = charge(item);
    let is_gone = item.attempt == 2 && charged.as_ref().is_err_and(|failure| failure.code == "upstream.connect");
    let is_gone = twin.choose(is_gone, false); // guard
    if is_gone { Ok(()) } else { charged?.ok_or_failure().map(drop) }
}

/// Creates a customer, and changes the customer in an attempt that is a repetition. The twin creates in every attempt.
pub(crate) fn updates_on_repeat(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_there = item.maybe_executed;
    let is_there = twin.choose(is_there, false); // guard
    if is_there {
        let update = http::Request::new("PATCH", url("/customers/17")).body(item.idem_key.clone());
        return update.send()?.ok_or_failure().map(drop);
    }
    post("/customers", item.idem_key.clone())
}

/// Reverses a charge that an attempt before may have made, and charges again: the charge that is carried out once under
/// its key is reversed. The twin leaves it to the key.
pub(crate) fn reverses_first(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_charged = item.maybe_executed;
    let is_charged = twin.choose(is_charged, false); // guard
    if is_charged {
        post("/reversals", item.idem_key.clone())?;
    }
    post("/charges", item.idem_key.clone())
}

/// Reports one charge in ten, chosen by lot in each attempt. The twin chooses by the key of the item.
pub(crate) fn draws_lots(item: &Item, twin: Twin) -> Result<(), Failure> {
    charge(item)?.ok_or_failure()?;
    let is_drawn = random().is_multiple_of(10);
    let is_drawn = twin.choose(is_drawn, item.idem_key.ends_with('0')); // guard
    if is_drawn { post("/audits", item.idem_key.clone()) } else { Ok(()) }
}

/// Believes that no attempt is a repetition, and traps in one that is. The twin does its work.
pub(crate) fn refuses_repeats(item: &Item, twin: Twin) -> Result<(), Failure> {
    let is_first = !item.maybe_executed;
    let is_first = twin.choose(is_first, true); // guard
    assert!(is_first, "an item is attempted once");
    charge(item)?.ok_or_failure().map(drop)
}

/// Tells an operator when its last attempt fails too. An outage that ends before lets that attempt succeed.
pub(crate) fn alerts_at_the_end(item: &Item, _: Twin) -> Result<(), Failure> {
    let charged = charge(item).and_then(http::Response::ok_or_failure);
    if charged.is_err() && item.attempt == 9 {
        post("/alerts", item.idem_key.clone())?;
    }
    charged.map(drop)
}

/// Reports each attempt that fails to whom it may concern, and fails as it would otherwise.
pub(crate) fn reports_its_failures(item: &Item, _: Twin) -> Result<(), Failure> {
    let charged = charge(item).and_then(http::Response::ok_or_failure);
    if let Err(failure) = &charged {
        post("/failures", failure.code.clone()).unwrap_or_else(|failure| log::warn(failure.message));
    }
    charged.map(drop)
}

/// Counts a charge where that is possible, and charges in any case.
pub(crate) fn counts_if_possible(item: &Item, _: Twin) -> Result<(), Failure> {
    post("/counts", "1").unwrap_or_else(|failure| log::warn(failure.message));
    charge(item)?.ok_or_failure().map(drop)
}

/// Gives up in its fifth attempt, so that an operator sees the item early.
pub(crate) fn gives_up_loudly(item: &Item, _: Twin) -> Result<(), Failure> {
    let charged = charge(item).and_then(http::Response::ok_or_failure);
    if charged.is_err() && item.attempt == 5 {
        return Err(Failure::permanent("charge.hopeless", "five attempts have failed"));
    }
    charged.map(drop)
}
