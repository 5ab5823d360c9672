//! The handlers of `docs/patterns.md`, in one component.

mod contacts;
mod mail;
mod order;
mod quote;
mod transfer;

use outbox_handler::{Failure, Handler, Item, Outcome};

struct Patterns;

impl Handler for Patterns {
    const TYPES: &'static [&'static str] =
        &["campaign", "charge_card", "contacts", "mail", "quote", "release_stock", "reserve_stock", "transfer"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        match item.type_.as_str() {
            "campaign" => mail::campaign(&item),
            "charge_card" => order::charge_card(&item),
            "contacts" => contacts::page(&item),
            "mail" => mail::mail(&item),
            "quote" => quote::quote(&item),
            "release_stock" => order::release_stock(&item),
            "reserve_stock" => order::reserve_stock(&item),
            _ => transfer::transfer(&item),
        }
    }
}

outbox_handler::export!(Patterns);
