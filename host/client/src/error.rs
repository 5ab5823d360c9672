//! Why an item was not enqueued. It names no driver.

use std::error::Error;

use outbox_item::{InvalidItem, ItemId};

/// Why an item was not enqueued. The item is not stored.
///
/// After [`Invalid`](Self::Invalid) and [`Conflict`](Self::Conflict) the transaction can go on.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// A field breaks a rule. The database was not asked.
    #[error(transparent)]
    Invalid(#[from] InvalidItem),
    /// Another item has the key, with other content: another type, payload, content type, saga or ordering key.
    #[error("idem_key {idem_key:?} is already used by item {first} with other content")]
    Conflict {
        /// The key of both items.
        idem_key: String,
        /// The id of the item that is stored.
        first: ItemId,
    },
    /// The driver or the database failed. `source` is the driver's own error; `downcast_ref` gives its type back, for
    /// example to see whether the application should begin its transaction again.
    #[error("enqueueing an item failed")]
    Database(#[source] Box<dyn Error + Send + Sync>),
}

#[cfg(any(feature = "rusqlite", feature = "tokio-postgres", feature = "sqlx-postgres"))]
impl EnqueueError {
    pub(crate) fn conflict(item: &outbox_item::NewItem, first: ItemId) -> Self {
        Self::Conflict { idem_key: item.idem_key.clone(), first }
    }

    pub(crate) fn database(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Database(Box::new(source))
    }
}

/// Other transactions created and removed the key each time that this one looked at it.
#[cfg(any(feature = "tokio-postgres", feature = "sqlx-postgres"))]
#[derive(Debug, thiserror::Error)]
#[error("other transactions were faster again and again")]
pub(crate) struct LostRace;
