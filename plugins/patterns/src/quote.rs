use std::time::Duration;

use outbox_handler::{Failure, Item, Outcome, config, http};
use serde::Deserialize;

/// How long to stay away when the API does not say.
const PAUSE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Quote {
    symbol: String,
}

pub(crate) fn quote(item: &Item) -> Result<Outcome, Failure> {
    let Quote { symbol } = item.json()?;
    let response = http::get(format!("{}/quotes/{symbol}", config::require("url")?)).send()?;
    if response.status == 429 && response.header("retry-after").is_none() {
        return Err(Failure::defer("quotes.limited", "the API is busy and does not say how long").after(PAUSE));
    }
    // 429 and 503 with `Retry-After` become a deferral for as long as the API asks.
    Ok(Outcome::bytes(response.ok_or_failure()?.body))
}
