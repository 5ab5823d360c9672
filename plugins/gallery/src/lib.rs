//! Handlers with known bugs, each with a fixed twin: `outbox plugin check` must report the bugs and accept the twins.
//! This component is never built into `plugins.d`.
//!
//! An item's type names the exhibit, which is the function of that name; the key `twin` of the configuration chooses
//! the twin. The lines that make the fixed twin are its *guards*: a line that ends in `// guard`, or the lines between
//! `// guard begin` and `// guard end`. `tests/check/guards.rs` removes them one mark at a time, and the checker must
//! convict what is left. A mark without which the handler is just as good says why: `// guard, equivalent: REASON`.

mod answers;
mod keys;
mod order;
mod payloads;
mod receivers;
mod repeats;
mod stored;

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};

struct Gallery;

/// The twin that handles an item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twin {
    Broken,
    Fixed,
}

impl Twin {
    fn is_fixed(self) -> bool {
        self == Self::Fixed
    }

    fn choose<T>(self, broken: T, fixed: T) -> T {
        if self.is_fixed() { fixed } else { broken }
    }
}

/// Declares the exhibits of each module.
macro_rules! exhibits {
    ($($module:ident: $($name:ident),+;)+) => {
        const EXHIBITS: &[&str] = &[$($(stringify!($name)),+),+];

        fn exhibit(item: &Item, twin: Twin) -> Result<(), Failure> {
            match item.type_.as_str() {
                $($(stringify!($name) => $module::$name(item, twin),)+)+
                other => Err(Failure::permanent("gallery.unknown", other)),
            }
        }
    };
}

exhibits! {
    answers: swallowed_error, ignored_409, fatal_429, timeout_for_done, refused_for_done, gateway_for_done,
        undoes_too_early, fails_when_gone, unchecked_after_waiting, lets_go_of_one,
        error_page_parsed, lookup_error_is_no;
    keys: clock_in_name, random_url, day_in_url, equal_lines, different_lines, smaller_batches, name_at_two_receivers,
        key_of_its_own, hosts_by_turns, hash_map_order, channel_by_hour;
    order: charge_then_record, shared_url, emits_outside, many_calls, put_that_adds, creates_if_missing,
        too_late_midway, asks_for_token, sets_a_url_twice, pages_of_a_shrinking_list;
    payloads: random_body, clock_in_body, attempt_in_body, unsorted_body, read_modify_write, rate_of_the_moment,
        counts_at_receiver, takes_the_last_seat, says_when_it_was_seen;
    receivers: lock_left_behind, aborted_upload_returns, batch_answer_kept, suffix_on_conflict, welcome_on_created,
        cursor_moves_first;
    repeats: skips_repeats, retry_inside, resends_what_broke, gives_up_quietly, gives_up_the_lookup, hopes_it_was_done,
        second_refusal_for_done, updates_on_repeat, reverses_first, draws_lots, refuses_repeats, alerts_at_the_end,
        reports_its_failures, counts_if_possible, gives_up_loudly;
    stored: state_before_call, emits_once, counts_attempts, forgets_in_vain, draws_a_number, one_name_for_two,
        line_of_the_attempt, progress_in_state, waits_for_its_share,
        notes_the_time;
}

impl Handler for Gallery {
    const TYPES: &'static [&'static str] = EXHIBITS;

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let twin = if config::get("twin")?.as_deref() == Some("fixed") { Twin::Fixed } else { Twin::Broken };
        exhibit(&item, twin)?;
        Ok(Outcome::done())
    }
}

outbox_handler::export!(Gallery);

/// Sends a POST request to the shop. A failure of the request is the failure of the attempt.
fn post(path: &str, body: impl Into<Vec<u8>>) -> Result<(), Failure> {
    http::post(url(path)).body(body).send()?.ok_or_failure().map(drop)
}

/// Charges the card of the item's order, and says how that went.
fn charge(item: &Item) -> Result<http::Response, Failure> {
    http::post(url("/charges")).body(item.idem_key.clone()).send()
}

/// Sets what a URL of the shop is.
fn put(path: &str, body: impl Into<Vec<u8>>) -> Result<(), Failure> {
    http::Request::new("PUT", url(path)).body(body).send()?.ok_or_failure().map(drop)
}

fn url(path: &str) -> String {
    format!("http://shop.test{path}")
}
