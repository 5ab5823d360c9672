//! Where an item is in the line of its ordering key: which items it waits for.

use outbox_item::{Item, ItemId, Status};
use outbox_store::{Filter, Inspect, Page, StoreError};

/// What a PENDING item waits for in its ordering key; `None` when nothing is ahead of it. A look of a few rows: the items
/// of the key that are claimed, that are dead, and the one that was enqueued just before.
pub(super) async fn place_in_line(store: &dyn Inspect, item: &Item) -> Result<Option<String>, StoreError> {
    let Some(key) = &item.ordering_key else { return Ok(None) };
    if item.status == Status::Dlq {
        return Ok(Some(format!("Items behind it in the key {key} may wait for the decision.")));
    }
    if item.status != Status::Pending {
        return Ok(None);
    }
    let newest = async |status: Status, before: Option<ItemId>| {
        let filter = Filter { status: vec![status], ordering_key: Some(key.clone()), ..Filter::default() };
        let page = store.list(&filter, &Page { limit: 1, before }).await?;
        Ok::<_, StoreError>(page.items.into_iter().next().map(|summary| summary.item.id))
    };
    let ahead = newest(Status::Pending, Some(item.id)).await?;
    let (claimed, dead) = (newest(Status::Claimed, None).await?, newest(Status::Dlq, None).await?);
    Ok(match (claimed, dead, ahead) {
        (Some(claimed), ..) => Some(format!("Item {claimed} of the key {key} is being handled; this one follows it.")),
        (None, Some(dead), Some(ahead)) => {
            Some(format!("It follows item {ahead} of the key {key}; item {dead} of the key is dead and may block it."))
        }
        (None, Some(dead), None) => Some(format!("Item {dead} of the key {key} is dead and may block this one.")),
        (None, None, Some(ahead)) => Some(format!("It follows item {ahead} of the key {key}.")),
        (None, None, None) => None,
    })
}
