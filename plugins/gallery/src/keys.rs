//! Exhibits whose idempotency keys differ between two attempts of the same item.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::SystemTime;

use outbox_handler::{Failure, Item, http};

use crate::{Twin, post, url};

/// Names the effect after the current second. The twin names it after its purpose.
pub(crate) fn clock_in_name(item: &Item, twin: Twin) -> Result<(), Failure> {
    let name = match twin {
        Twin::Broken => format!("charge-{}", now()),
        Twin::Fixed => "charge".to_owned(),
    };
    http::post(url("/charges")).effect(&name).body(item.idem_key.clone()).send()?.ok_or_failure()?;
    Ok(())
}

/// Chooses the id of the new payment at random. The twin uses the item's idempotency key.
pub(crate) fn random_url(item: &Item, twin: Twin) -> Result<(), Failure> {
    let id = match twin {
        Twin::Broken => random().to_string(),
        Twin::Fixed => item.idem_key.clone(),
    };
    http::Request::new("PUT", url(&format!("/payments/{id}"))).body("5").send()?.ok_or_failure()?;
    Ok(())
}

/// Retries inside one attempt, each time with a new key. The twin leaves retries to the host.
pub(crate) fn retry_inside(item: &Item, twin: Twin) -> Result<(), Failure> {
    let tries = if twin == Twin::Broken { 3 } else { 1 };
    let mut last = post("/charges", item.idem_key.clone());
    for _ in 1..tries {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
        last = post("/charges", item.idem_key.clone());
    }
    last.map(drop)
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A number that differs between instances, because the standard library seeds its hashers at random.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// Files a report under the day of the attempt. The twin files it under the day of the item.
pub(crate) fn day_in_url(item: &Item, twin: Twin) -> Result<(), Failure> {
    let seconds = if twin == Twin::Broken { now() } else { item.created_at / 1000 };
    let day = seconds / (24 * 60 * 60);
    http::Request::new("PUT", url(&format!("/days/{day}"))).body("report").send()?.ok_or_failure()?;
    Ok(())
}

/// Orders two equal lines under one name, so that the receiver takes the second for the first. The twin numbers them.
pub(crate) fn equal_lines(_: &Item, twin: Twin) -> Result<(), Failure> {
    lines(twin, ["one apple", "one apple"])
}

/// Orders two different lines under one name. The twin numbers them.
pub(crate) fn different_lines(_: &Item, twin: Twin) -> Result<(), Failure> {
    lines(twin, ["one apple", "one pear"])
}

fn lines(twin: Twin, lines: [&str; 2]) -> Result<(), Failure> {
    (1..).zip(lines).try_for_each(|(number, line)| {
        let name = if twin == Twin::Broken { "line".to_owned() } else { format!("line-{number}") };
        http::post(url("/lines")).effect(&name).body(line).send()?.ok_or_failure().map(drop)
    })
}

/// Sends ten rows in batches that get smaller with each attempt. The twin keeps their size.
pub(crate) fn smaller_batches(item: &Item, twin: Twin) -> Result<(), Failure> {
    let size = if twin == Twin::Broken { (6 / item.attempt).max(1) } else { 5 };
    let rows: Vec<u32> = (1..=10).collect();
    rows.chunks(size as usize).try_for_each(|rows| {
        let batch = http::post(url("/rows")).effect(&format!("from-{}-{}", rows[0], rows.len()));
        batch.body(format!("{rows:?}")).send()?.ok_or_failure().map(drop)
    })
}

/// Sends one name to two receivers, each of which has its own keys.
pub(crate) fn name_at_two_receivers(item: &Item) -> Result<(), Failure> {
    ["http://shop.test/orders", "http://mail.test/orders"].into_iter().try_for_each(|url| {
        http::post(url).effect("order").body(format!("{} {url}", item.idem_key)).send()?.ok_or_failure().map(drop)
    })
}
