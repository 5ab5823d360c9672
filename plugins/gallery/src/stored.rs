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
