//! Tells a user that an order has left.

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};

#[derive(serde::Deserialize)]
struct Payload {
    user: String,
}

struct Notify;

impl Handler for Notify {
    const TYPES: &'static [&'static str] = &["notify"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let Payload { user } = item.json()?;
        let url = config::require("url")?;
        let text = serde_json::json!({ "to": user, "text": "Your order has left." });
        http::post(url).json(&text)?.send()?.ok_or_failure()?;
        Ok(Outcome::done())
    }
}

outbox_handler::export!(Notify);
