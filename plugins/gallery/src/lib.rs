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
        "timeout_for_done",
        "refused_for_done",
        "gives_up_quietly",
        "undoes_too_early",
        "fails_when_gone",
        "unchecked_after_waiting",
        "day_in_url",
        "equal_lines",
        "different_lines",
        "smaller_batches",
        "rate_of_the_moment",
        "counts_at_receiver",
        "takes_the_last_seat",
        "put_that_adds",
        "too_late_midway",
        "forgets_in_vain",
        "draws_a_number",
        "one_name_for_two",
        "name_at_two_receivers",
        "creates_if_missing",
        "asks_for_token",
        "sets_a_url_twice",
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
        "timeout_for_done" => answers::taken_for_done(item, twin, "upstream.timeout"),
        "refused_for_done" => answers::taken_for_done(item, twin, "upstream.connect"),
        "gives_up_quietly" => answers::gives_up_quietly(item, twin),
        "undoes_too_early" => answers::undoes_too_early(item, twin),
        "fails_when_gone" => answers::fails_when_gone(item, twin),
        "unchecked_after_waiting" => answers::unchecked_after_waiting(item, twin),
        "day_in_url" => keys::day_in_url(item, twin),
        "equal_lines" => keys::equal_lines(item, twin),
        "different_lines" => keys::different_lines(item, twin),
        "smaller_batches" => keys::smaller_batches(item, twin),
        "rate_of_the_moment" => payloads::rate_of_the_moment(item, twin),
        "counts_at_receiver" => payloads::counts_at_receiver(item, twin),
        "takes_the_last_seat" => payloads::takes_the_last_seat(item, twin),
        "put_that_adds" => order::put_that_adds(item, twin),
        "too_late_midway" => order::too_late_midway(item, twin),
        "forgets_in_vain" => stored::forgets_in_vain(item, twin),
        "draws_a_number" => stored::draws_a_number(item, twin),
        "one_name_for_two" => stored::one_name_for_two(item, twin),
        "name_at_two_receivers" => keys::name_at_two_receivers(item),
        "creates_if_missing" => order::creates_if_missing(item),
        "asks_for_token" => order::asks_for_token(item),
        "sets_a_url_twice" => order::sets_a_url_twice(item),
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
