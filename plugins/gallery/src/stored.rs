//! Exhibits about what the host stores for a handler.

use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, http, state};

use crate::keys::now;
use crate::{Twin, charge, post, put, url};

/// Stores in its state that it has charged, then charges, and ignores a failure of the charge. The state then claims a
/// charge that did not happen. The twin returns the failure, and then nothing of the attempt is stored.
pub(crate) fn state_before_call(item: &Item, twin: Twin) -> Result<(), Failure> {
    let mark = format!("charged/{}", item.idem_key);
    if state::get(&mark)?.is_some() {
        return Ok(());
    }
    state::put(&mark, b"yes")?;
    let charged = post("/charges", item.idem_key.clone());
    // guard begin
    if twin.is_fixed() {
        return charged;
    }
    // guard end
    drop(charged);
    Ok(())
}

/// Emits its follow-up in the first attempt only. The twin emits it in every attempt; the host stores it once.
pub(crate) fn emits_once(item: &Item, twin: Twin) -> Result<(), Failure> {
    charge(item)?.ok_or_failure()?;
    let is_first = item.attempt == 1;
    let is_first = twin.choose(is_first, true); // guard
    if is_first { followups::emit(&NewItem::json("receipt", &item.idem_key)?) } else { Ok(()) }
}

/// Adds the number of the attempt to its counter of charges. The twin adds one for each item.
pub(crate) fn counts_attempts(item: &Item, twin: Twin) -> Result<(), Failure> {
    charge(item)?.ok_or_failure()?;
    let before = state::get_json::<u32>("charges")?.unwrap_or_default();
    let more = item.attempt;
    let more = twin.choose(more, 1); // guard
    state::put_json("charges", &(before + more))
}

/// Forgets a token that is refused and asks for another attempt, which still has it: state is committed only when the
/// item is done. The twin goes on without it in the same attempt.
pub(crate) fn forgets_in_vain(item: &Item, twin: Twin) -> Result<(), Failure> {
    let token = state::get_json::<String>("token")?.unwrap_or_default();
    let answer = send_with(&token, item)?;
    if answer.status != 401 {
        return answer.ok_or_failure().map(drop);
    }
    // guard begin
    if twin.is_fixed() {
        return send_with("", item)?.ok_or_failure().map(drop);
    }
    // guard end
    state::delete("token")?;
    Err(Failure::retryable("token.refused", "the token is too old"))
}

/// Sends a message with a token. Its name keeps its key the same, however often an attempt has sent it before.
fn send_with(token: &str, item: &Item) -> Result<http::Response, Failure> {
    http::post(url("/messages")).effect("message").header("x-token", token).body(item.idem_key.clone()).send()
}

/// Sends the next number of its state, which another item can draw too before the commit. The twin draws the number
/// and leaves it to a follow-up to send it.
pub(crate) fn draws_a_number(_: &Item, twin: Twin) -> Result<(), Failure> {
    let number = state::get_json::<u32>("number")?.unwrap_or(1);
    state::put_json("number", &(number + 1))?;
    // guard begin
    if twin.is_fixed() {
        return followups::emit(&NewItem::json("receipt", &number)?);
    }
    // guard end
    post("/invoices", number.to_string())
}

/// Emits two follow-ups under one name, which the host refuses. The twin names them after their readers.
pub(crate) fn one_name_for_two(_: &Item, twin: Twin) -> Result<(), Failure> {
    ["ann", "bob"].into_iter().try_for_each(|reader| {
        let name = "reader";
        let name = twin.choose(name, reader); // guard
        followups::emit(&NewItem::json("receipt", &reader)?.name(name))
    })
}

/// Puts its follow-up into a line of its own in each attempt, so that it overtakes others. The twin keeps to the line
/// of its item.
pub(crate) fn line_of_the_attempt(item: &Item, twin: Twin) -> Result<(), Failure> {
    charge(item)?.ok_or_failure()?;
    let line = format!("attempt-{}", item.attempt);
    let line = twin.choose(line, item.idem_key.clone()); // guard
    followups::emit(&NewItem::json("receipt", &item.idem_key)?.ordering_key(line))
}

/// Notes in its state whom it has told through a gateway that ignores keys: the note is committed only when the item is
/// done, so there is none in the next attempt. The twin puts each message under a name of its own.
pub(crate) fn progress_in_state(item: &Item, twin: Twin) -> Result<(), Failure> {
    // guard begin
    if twin.is_fixed() {
        return STAFF.into_iter().try_for_each(|name| put(&format!("/sms/{}-{name}", item.idem_key), "open"));
    }
    // guard end
    let note = format!("told/{}", item.idem_key);
    let mut told: Vec<String> = state::get_json(&note)?.unwrap_or_default();
    for name in STAFF {
        if told.iter().all(|known| known != name) {
            http::post(url("/sms")).effect(name).body(format!("{name}: open")).send()?.ok_or_failure()?;
            told.push(name.to_owned());
            state::put_json(&note, &told)?;
        }
    }
    Ok(())
}

/// Whom `progress_in_state` tells.
const STAFF: [&str; 3] = ["ann", "bob", "eve"];

/// Waits until its state has something left for it, which another item can take first.
pub(crate) fn waits_for_its_share(item: &Item, _: Twin) -> Result<(), Failure> {
    let left = state::get_json::<u32>("left")?.unwrap_or_default();
    if left == 0 {
        return Err(Failure::defer("share.none", "nothing is left for this hour"));
    }
    charge(item)?.ok_or_failure()?;
    state::put_json("left", &(left - 1))
}

/// Notes when it last worked. Any time of an attempt is right, because the host stores one.
pub(crate) fn notes_the_time(item: &Item, _: Twin) -> Result<(), Failure> {
    charge(item)?.ok_or_failure()?;
    state::put_json("last", &now())
}
