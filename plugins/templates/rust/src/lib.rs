//! Handles `{{type}}`: tells the receiver at the configured `url` whom to greet.

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Payload {
    user: String,
}

#[derive(Serialize)]
struct Greeting {
    to: String,
}

struct Greeter;

impl Handler for Greeter {
    const TYPES: &'static [&'static str] = &["{{type}}"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let Payload { user } = item.json()?;
        if user.is_empty() {
            return Err(Failure::permanent("user.missing", "the payload names no user"));
        }
        http::post(config::require("url")?).json(&Greeting { to: user })?.send()?.ok_or_failure()?;
        Ok(Outcome::done())
    }
}

outbox_handler::export!(Greeter);
