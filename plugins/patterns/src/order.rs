use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, Outcome, config, http};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Deserialize, Serialize)]
struct Order {
    order: String,
    cents: u64,
}

pub(crate) fn reserve_stock(item: &Item) -> Result<Outcome, Failure> {
    let order: Order = item.json()?;
    http::Request::new("PUT", reservation(&order)?).json(&order)?.send()?.ok_or_failure()?;
    // The next step is committed together with this one, or not at all.
    followups::emit(&NewItem::json("charge_card", &order)?)?;
    Ok(Outcome::done())
}

pub(crate) fn charge_card(item: &Item) -> Result<Outcome, Failure> {
    let order: Order = item.json()?;
    let charges = format!("{}/charges", config::require("url")?);
    let response = http::post(charges).json(&order)?.send()?;
    if response.status == 402 {
        // Declined is an answer, not a failure: undo what was done before, and say how it went.
        followups::emit(&NewItem::json("release_stock", &order)?)?;
        return Outcome::json(&json!({ "declined": true }));
    }
    response.ok_or_failure()?;
    Outcome::json(&json!({ "declined": false }))
}

pub(crate) fn release_stock(item: &Item) -> Result<Outcome, Failure> {
    let response = http::Request::new("DELETE", reservation(&item.json()?)?).send()?;
    // A reservation that is gone was released by an attempt before this one.
    if response.status != 404 {
        response.ok_or_failure()?;
    }
    Ok(Outcome::done())
}

fn reservation(order: &Order) -> Result<String, Failure> {
    Ok(format!("{}/reservations/{}", config::require("url")?, order.order))
}
