//! Handlers with known bugs, each with a fixed twin: `outbox plugin check` must report the bugs and accept the twins.
//! This component is never built into `plugins.d`.
//!
//! An item's type names the exhibit; the key `twin` of the configuration chooses the twin.

mod answers;
mod keys;
mod order;
mod payloads;
mod stored;

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};

struct Gallery;

/// The twin that handles an item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twin {
    Broken,
    Fixed,
}

impl Handler for Gallery {
    const TYPES: &'static [&'static str] = &[
        "charge_then_record",
        "clock_in_name",
        "random_url",
        "random_body",
        "clock_in_body",
        "attempt_in_body",
        "unsorted_body",
        "read_modify_write",
        "shared_url",
        "retry_inside",
        "swallowed_error",
        "state_before_call",
        "ignored_409",
        "fatal_429",
        "skips_repeats",
        "emits_once",
        "emits_outside",
        "counts_attempts",
        "twenty_calls",
    ];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let twin = if config::get("twin")?.as_deref() == Some("fixed") { Twin::Fixed } else { Twin::Broken };
        exhibit(&item, twin)?;
        Ok(Outcome::done())
    }
}

outbox_handler::export!(Gallery);

fn exhibit(item: &Item, twin: Twin) -> Result<(), Failure> {
    match item.type_.as_str() {
        "charge_then_record" => order::charge_then_record(item, twin),
        "shared_url" => order::shared_url(item, twin),
        "emits_outside" => order::emits_outside(item, twin),
        "twenty_calls" => order::twenty_calls(item),
        "clock_in_name" => keys::clock_in_name(item, twin),
        "random_url" => keys::random_url(item, twin),
        "retry_inside" => keys::retry_inside(item, twin),
        "random_body" => payloads::random(item, twin),
        "clock_in_body" => payloads::clock(item, twin),
        "attempt_in_body" => payloads::attempt(item, twin),
        "unsorted_body" => payloads::unsorted(item, twin),
        "read_modify_write" => payloads::read_modify_write(item, twin),
        "swallowed_error" => answers::swallowed(item, twin),
        "ignored_409" => answers::ignored_409(item, twin),
        "fatal_429" => answers::fatal_429(item, twin),
        "skips_repeats" => answers::skips_repeats(item, twin),
        "state_before_call" => stored::before_the_call(item, twin),
        "emits_once" => stored::emits_once(item, twin),
        "counts_attempts" => stored::counts_attempts(item, twin),
        other => Err(Failure::permanent("gallery.unknown", other)),
    }
}

/// Sends a POST request to the shop. A failure of the request is the failure of the attempt.
fn post(path: &str, body: String) -> Result<http::Response, Failure> {
    http::post(url(path)).body(body).send()?.ok_or_failure()
}

fn url(path: &str) -> String {
    format!("http://shop.test{path}")
}
