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
