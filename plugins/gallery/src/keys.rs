//! Exhibits whose idempotency keys differ between two attempts of the same item.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::SystemTime;

use outbox_handler::{Failure, Item, http};

use crate::{Twin, post, put, url};

/// Names the effect after the current second. The twin names it after its purpose.
pub(crate) fn clock_in_name(item: &Item, twin: Twin) -> Result<(), Failure> {
    let name = format!("charge-{}", now());
    let name = twin.choose(name, "charge".to_owned()); // guard
    http::post(url("/charges")).effect(&name).body(item.idem_key.clone()).send()?.ok_or_failure().map(drop)
}

/// Chooses the id of the new payment at random. The twin uses the item's idempotency key.
pub(crate) fn random_url(item: &Item, twin: Twin) -> Result<(), Failure> {
    let id = random().to_string();
    let id = twin.choose(id, item.idem_key.clone()); // guard
    put(&format!("/payments/{id}"), "5")
}

/// Files a report under the day of the attempt. The twin files it under the day of the item.
pub(crate) fn day_in_url(item: &Item, twin: Twin) -> Result<(), Failure> {
    let seconds = now();
    let seconds = twin.choose(seconds, item.created_at / 1000); // guard
    put(&format!("/days/{}", seconds / (24 * 60 * 60)), "report")
}

/// Orders two equal lines under one name, so that the receiver takes the second for the first. The twin numbers them.
pub(crate) fn equal_lines(_: &Item, twin: Twin) -> Result<(), Failure> {
    for (number, line) in ["one apple", "one apple"].into_iter().enumerate() {
        let name = "line".to_owned();
        let name = twin.choose(name, format!("line-{number}")); // guard
        http::post(url("/lines")).effect(&name).body(line).send()?.ok_or_failure()?;
    }
    Ok(())
}

/// Orders two different lines under one name. The twin names them after what they order.
pub(crate) fn different_lines(_: &Item, twin: Twin) -> Result<(), Failure> {
    for line in ["apple", "pear"] {
        let name = "line";
        let name = twin.choose(name, line); // guard
        http::post(url("/lines")).effect(name).body(line).send()?.ok_or_failure()?;
    }
    Ok(())
}

/// Sends ten rows in batches that get smaller with each attempt. The twin keeps their size.
pub(crate) fn smaller_batches(item: &Item, twin: Twin) -> Result<(), Failure> {
    let size = (6 / item.attempt).max(1);
    let size = twin.choose(size, 5); // guard
    let rows: Vec<u32> = (1..=10).collect();
    rows.chunks(size as usize).try_for_each(|rows| {
        let batch = http::post(url("/rows")).effect(&format!("from-{}-{}", rows[0], rows.len()));
        batch.body(format!("{rows:?}")).send()?.ok_or_failure().map(drop)
    })
}

/// Gives a receiver that has a header of its own for keys a new key in each attempt. The twin gives it the item's key.
pub(crate) fn key_of_its_own(item: &Item, twin: Twin) -> Result<(), Failure> {
    let key = random().to_string();
    let key = twin.choose(key, item.idem_key.clone()); // guard
    http::post(url("/payments")).header("x-request-id", &key).body("5").send()?.ok_or_failure().map(drop)
}

/// Goes to another host in each attempt, and each host has its own keys. The twin stays with one.
pub(crate) fn hosts_by_turns(item: &Item, twin: Twin) -> Result<(), Failure> {
    let host = if item.attempt % 2 == 1 { "shop" } else { "mail" };
    let host = twin.choose(host, "shop"); // guard
    http::post(format!("http://{host}.test/orders")).body(item.idem_key.clone()).send()?.ok_or_failure().map(drop)
}

/// Posts lines one by one to one URL in the order of a hash map, which differs between instances, and with it the number
/// of a line. The twin sorts them.
pub(crate) fn hash_map_order(item: &Item, twin: Twin) -> Result<(), Failure> {
    let lines: HashMap<String, u32> = item.json()?;
    let mut lines: Vec<_> = lines.into_iter().collect();
    // guard begin
    if twin.is_fixed() {
        lines.sort();
    }
    // guard end
    lines.into_iter().try_for_each(|(sku, pieces)| post("/invoices/17/lines", format!("{pieces} {sku}")))
}

/// Tells a customer by text message, and from midnight to seven by mail, by the clock of the attempt. The twin asks when
/// the item was enqueued.
pub(crate) fn channel_by_hour(item: &Item, twin: Twin) -> Result<(), Failure> {
    let seconds = now();
    let seconds = twin.choose(seconds, item.created_at / 1000); // guard
    let is_night = seconds % (24 * 60 * 60) < 7 * 60 * 60;
    let url = if is_night { "http://mail.test/mails" } else { "http://shop.test/sms" };
    http::post(url).body(item.payload.clone()).send()?.ok_or_failure().map(drop)
}

/// Sends one name to two receivers, each of which has its own keys.
pub(crate) fn name_at_two_receivers(item: &Item, _: Twin) -> Result<(), Failure> {
    ["http://shop.test/orders", "http://mail.test/orders"].into_iter().try_for_each(|url| {
        http::post(url).effect("order").body(format!("{} {url}", item.idem_key)).send()?.ok_or_failure().map(drop)
    })
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A number that differs between instances, because the standard library seeds its hashers at random.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
