//! What only the implementers of a store need: decisions and words that every engine shares, never SQL statements.

pub mod alerts;
pub mod attempt_record;
pub mod operator_actions;
pub mod schema_version;
pub mod sql_filter;
pub mod stuck;
pub mod token_bucket;

pub use crate::long_poll::{LongPollSlot, long_poll};
pub use crate::overview::POD_SHOWN_MS;
pub use crate::transfer::{
    ATTEMPT_COLUMNS, BINARY_COLUMNS, COUNTER_COLUMNS, ITEM_COLUMNS, SAGA_COLUMNS, STATE_COLUMNS, from_bytes,
    integer_column, item_conflict, refuse_claimed, state_conflict, text_column, to_bytes,
};

use std::time::Duration;

use outbox_item::{Millis, NewItem};

use crate::{InvalidAt, StoreError};

/// A duration in the store's unit.
pub fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

pub fn validate(items: &[NewItem]) -> Result<(), StoreError> {
    for (index, item) in items.iter().enumerate() {
        item.validate().map_err(|source| InvalidAt { index, source })?;
    }
    Ok(())
}
