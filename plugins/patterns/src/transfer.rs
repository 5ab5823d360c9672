use outbox_handler::{Failure, Item, Outcome, config, http};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Transfer {
    from: String,
    to: String,
    cents: u64,
}

pub(crate) fn transfer(item: &Item) -> Result<Outcome, Failure> {
    let Transfer { from, to, cents } = item.json()?;
    let entries = format!("{}/entries", config::require("url")?);
    let debit = json!({ "account": from, "cents": cents, "side": "debit" });
    let credit = json!({ "account": to, "cents": cents, "side": "credit" });
    // Two different things go to one URL, so each has a name of its own.
    http::post(&entries).effect("debit").json(&debit)?.send()?.ok_or_failure()?;
    http::post(&entries).effect("credit").json(&credit)?.send()?.ok_or_failure()?;
    Ok(Outcome::done())
}
