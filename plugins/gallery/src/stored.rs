//! Exhibits about what the host stores for a handler.

use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, state};

use crate::{Twin, post};

/// Stores in its state that it has charged, then charges, and ignores a failure of the charge. The state then claims a
/// charge that did not happen. The twin charges first and returns the failure.
pub(crate) fn before_the_call(item: &Item, twin: Twin) -> Result<(), Failure> {
    let mark = format!("charged/{}", item.idem_key);
    if state::get(&mark)?.is_some() {
        return Ok(());
    }
    if twin == Twin::Broken {
        state::put(&mark, b"yes")?;
        return post("/charges", item.idem_key.clone()).map(drop).or(Ok(()));
    }
    post("/charges", item.idem_key.clone())?;
    state::put(&mark, b"yes")
}

/// Emits its follow-up in the first attempt only. The twin emits it in every attempt; the host stores it once.
pub(crate) fn emits_once(item: &Item, twin: Twin) -> Result<(), Failure> {
    post("/charges", item.idem_key.clone())?;
    if item.attempt > 1 && twin == Twin::Broken {
        return Ok(());
    }
    followups::emit(&NewItem::json("receipt", &item.idem_key)?)
}

/// Adds the number of the attempt to its counter of charges. The twin adds one for each item.
pub(crate) fn counts_attempts(item: &Item, twin: Twin) -> Result<(), Failure> {
    post("/charges", item.idem_key.clone())?;
    let before = state::get_json::<u32>("charges")?.unwrap_or_default();
    let more = if twin == Twin::Broken { item.attempt } else { 1 };
    state::put_json("charges", &(before + more))
}

/// Forgets a token that is refused and asks for another attempt, which still has it: state is committed only when the
/// item is done. The twin goes on without it in the same attempt.
pub(crate) fn forgets_in_vain(item: &Item, twin: Twin) -> Result<(), Failure> {
    let token = state::get_json::<String>("token")?.unwrap_or_default();
    let answer = crate::order::send_with(&token, item)?;
    if answer.status != 401 {
        return answer.ok_or_failure().map(drop);
    }
    if twin == Twin::Broken {
        state::delete("token")?;
        return Err(Failure::retryable("token.refused", "the token is too old"));
    }
    crate::order::send_with("", item)?.ok_or_failure().map(drop)
}

/// Sends the next number of its state, which another item can draw too before the commit. The twin draws the number
/// and leaves it to a follow-up to send it.
pub(crate) fn draws_a_number(_: &Item, twin: Twin) -> Result<(), Failure> {
    let number = state::get_json::<u32>("number")?.unwrap_or(1);
    match twin {
        Twin::Broken => drop(post("/invoices", number.to_string())?),
        Twin::Fixed => followups::emit(&NewItem::json("receipt", &number)?)?,
    }
    state::put_json("number", &(number + 1))
}

/// Emits two follow-ups under one name, which the host refuses. The twin names them after their readers.
pub(crate) fn one_name_for_two(_: &Item, twin: Twin) -> Result<(), Failure> {
    ["ann", "bob"].into_iter().try_for_each(|reader| {
        let name = if twin == Twin::Broken { "reader" } else { reader };
        followups::emit(&NewItem::json("receipt", &reader)?.name(name))
    })
}
