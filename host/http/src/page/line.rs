//! Where an item is in the line of its ordering key: which items it waits for, and what waits behind a dead one.

use outbox_item::{Item, ItemId, Status};
use outbox_store::{Filter, Inspect, Page, StoreError};

use crate::page::words::count;

/// Items behind a dead one, and dead ones that block a key, that are looked at one by one.
const COUNTED_MAX: u32 = 1_000;

/// What an item waits for in its ordering key, or holds up.
pub(super) struct InLine {
    pub(super) text: String,
    /// The key, where an unblocking would let items go on.
    pub(super) blocked: Option<String>,
}

impl InLine {
    fn of(text: String) -> Self {
        Self { text, blocked: None }
    }
}

/// The place of the item; `None` when nothing is ahead of it and it holds nothing up. A look of a few rows.
pub(super) async fn place_in_line(store: &dyn Inspect, item: &Item) -> Result<Option<InLine>, StoreError> {
    let Some(key) = &item.ordering_key else { return Ok(None) };
    match item.status {
        Status::Dlq => behind(store, item.id, key).await,
        Status::Pending => ahead(store, item.id, key).await,
        Status::Claimed | Status::Done => Ok(None),
    }
}

/// What waits behind a dead item.
async fn behind(store: &dyn Inspect, id: ItemId, key: &str) -> Result<Option<InLine>, StoreError> {
    if !is_blocking(store, id, key).await? {
        return Ok(Some(InLine::of(format!("It does not block its key {key}: items behind it went on."))));
    }
    let text = format!("It blocks the key {key}: {} behind it.", waiting(store, key).await?);
    Ok(Some(InLine { text, blocked: Some(key.to_owned()) }))
}

/// What a waiting item is behind.
async fn ahead(store: &dyn Inspect, id: ItemId, key: &str) -> Result<Option<InLine>, StoreError> {
    let newest = async |status: Status, before: Option<ItemId>| {
        let filter = Filter { status: vec![status], ordering_key: Some(key.to_owned()), ..Filter::default() };
        let page = store.list(&filter, &Page { limit: 1, before }).await?;
        Ok::<_, StoreError>(page.items.into_iter().next().map(|summary| summary.item.id))
    };
    if let Some(claimed) = newest(Status::Claimed, None).await? {
        let text = format!("Item {claimed} of its key {key} is being handled; this one comes after it.");
        return Ok(Some(InLine::of(text)));
    }
    if let Some(dead) = store.blocking(key, 1).await?.first() {
        let text = format!("Item {dead} of its key {key} is dead and blocks it.");
        return Ok(Some(InLine { text, blocked: Some(key.to_owned()) }));
    }
    let ahead = newest(Status::Pending, Some(id)).await?;
    Ok(ahead.map(|ahead| InLine::of(format!("Item {ahead} of its key {key} was enqueued before it."))))
}

/// Whether the dead item blocks the key.
pub(super) async fn is_blocking(store: &dyn Inspect, id: ItemId, key: &str) -> Result<bool, StoreError> {
    Ok(store.blocking(key, COUNTED_MAX).await?.contains(&id))
}

/// How many items of the key wait, in words: `3 items wait`.
pub(super) async fn waiting(store: &dyn Inspect, key: &str) -> Result<String, StoreError> {
    let filter = Filter { status: vec![Status::Pending], ordering_key: Some(key.to_owned()), ..Filter::default() };
    let page = store.list(&filter, &Page { limit: COUNTED_MAX, before: None }).await?;
    Ok(match (page.items.len(), page.next) {
        (1, None) => "one item waits".to_owned(),
        (number, None) => format!("{} items wait", count(number as u64)),
        (number, Some(_)) => format!("{} items or more wait", count(number as u64)),
    })
}
