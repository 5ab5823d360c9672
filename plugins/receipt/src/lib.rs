//! Mails the receipt of an order through the service at the configured `url` and counts the receipts of each customer.
//! For a customer's third receipt it emits an item of type `thanks`.

use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Handler, Item, Outcome, config, http, state};
use serde::{Deserialize, Serialize};

const THANKED_AT: u64 = 3;

#[derive(Deserialize)]
struct Purchase {
    order: String,
    customer: String,
    cents: u64,
}

#[derive(Serialize)]
struct Receipt<'a> {
    to: &'a str,
    subject: String,
    amount: String,
}

#[derive(Serialize)]
struct Thanks<'a> {
    customer: &'a str,
    receipts: u64,
}

#[derive(Serialize)]
struct Sent {
    receipts: u64,
}

struct Receipts;

impl Handler for Receipts {
    const TYPES: &'static [&'static str] = &["receipt"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let purchase: Purchase = item.json()?;
        if !purchase.customer.contains('@') {
            return Err(Failure::permanent("receipt.no_address", format!("{} is no address", purchase.customer)));
        }
        mail(&purchase)?;
        let receipts = count(&purchase.customer)?;
        if receipts == THANKED_AT {
            let thanks = Thanks { customer: &purchase.customer, receipts };
            followups::emit(&NewItem::json("thanks", &thanks)?.name(&purchase.order))?;
        }
        Outcome::json(&Sent { receipts })
    }
}

fn mail(purchase: &Purchase) -> Result<(), Failure> {
    let receipt = Receipt {
        to: &purchase.customer,
        subject: format!("Your order {}", purchase.order),
        amount: format!("{}.{:02}", purchase.cents / 100, purchase.cents % 100),
    };
    http::post(config::require("url")?).json(&receipt)?.send()?.ok_or_failure()?;
    Ok(())
}

fn count(customer: &str) -> Result<u64, Failure> {
    let key = format!("receipts/{customer}");
    let receipts = state::get_json(&key)?.unwrap_or(0) + 1;
    state::put_json(&key, &receipts)?;
    Ok(receipts)
}

outbox_handler::export!(Receipts);
