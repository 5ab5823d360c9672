//! Exhibits that send a different request under the same idempotency key when an attempt is repeated.

use std::collections::{BTreeMap, HashMap};

use outbox_handler::{Failure, Item, http};
use serde_json::json;

use crate::{Twin, keys, post, url};

/// Sends a random number. The twin derives the value from the item.
pub(crate) fn random(item: &Item, twin: Twin) -> Result<(), Failure> {
    let nonce = if twin == Twin::Broken { keys::random().to_string() } else { item.idem_key.clone() };
    post("/orders", json!({ "nonce": nonce }).to_string()).map(drop)
}

/// Sends the current time. The twin sends the time at which the item was enqueued.
pub(crate) fn clock(item: &Item, twin: Twin) -> Result<(), Failure> {
    let at = if twin == Twin::Broken { keys::now() } else { item.created_at / 1000 };
    post("/orders", json!({ "at": at }).to_string()).map(drop)
}

/// Sends the number of the attempt. The twin leaves it out.
pub(crate) fn attempt(item: &Item, twin: Twin) -> Result<(), Failure> {
    let body = match twin {
        Twin::Broken => json!({ "order": item.idem_key, "attempt": item.attempt }),
        Twin::Fixed => json!({ "order": item.idem_key }),
    };
    post("/orders", body.to_string()).map(drop)
}

/// Writes lines in the order of a hash map, which differs between instances. The twin sorts them.
pub(crate) fn unsorted(_: &Item, twin: Twin) -> Result<(), Failure> {
    let lines = (1..=9).map(|line| (format!("line {line}"), line));
    let body: Vec<String> = match twin {
        Twin::Broken => lines.collect::<HashMap<_, _>>().into_keys().collect(),
        Twin::Fixed => lines.collect::<BTreeMap<_, _>>().into_keys().collect(),
    };
    post("/orders", body.join("\n")).map(drop)
}

/// Reads a balance and sends the new value. The twin sends the difference.
pub(crate) fn read_modify_write(_: &Item, twin: Twin) -> Result<(), Failure> {
    if twin == Twin::Fixed {
        return post("/balance", json!({ "add": 5 }).to_string()).map(drop);
    }
    let balance: i64 = http::get(url("/balance")).send()?.ok_or_failure()?.json()?;
    post("/balance", json!({ "set": balance + 5 }).to_string()).map(drop)
}

/// Sends a sum at the rate of the moment. The twin sends the sum of the item.
pub(crate) fn rate_of_the_moment(_: &Item, twin: Twin) -> Result<(), Failure> {
    let rate: f64 = match twin {
        Twin::Broken => http::get(url("/rates/usd")).send()?.ok_or_failure()?.json()?,
        Twin::Fixed => 1.5,
    };
    post("/charges", json!({ "amount": rate * 100.0 }).to_string()).map(drop)
}

/// Reads a counter and sets it to one more. The twin adds an entry of its own.
pub(crate) fn counts_at_receiver(item: &Item, twin: Twin) -> Result<(), Failure> {
    let (path, body) = match twin {
        Twin::Broken => {
            let count: u64 = http::get(url("/counter")).send()?.ok_or_failure()?.json()?;
            ("/counter".to_owned(), (count + 1).to_string())
        }
        Twin::Fixed => (format!("/counter/{}", item.idem_key), "1".to_owned()),
    };
    http::Request::new("PUT", url(&path)).body(body).send()?.ok_or_failure().map(drop)
}

/// Books a seat if one is free, and fails for good if none is: its own booking may have been the last. The twin leaves
/// the decision to the receiver.
pub(crate) fn takes_the_last_seat(item: &Item, twin: Twin) -> Result<(), Failure> {
    if twin == Twin::Broken {
        let free: u64 = http::get(url("/seats")).send()?.ok_or_failure()?.json()?;
        if free == 0 {
            return Err(Failure::permanent("seats.none", "every seat is taken"));
        }
    }
    post("/bookings", item.idem_key.clone()).map(drop)
}
