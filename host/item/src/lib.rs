//! The item of a durable outbox: what it consists of, what makes it valid, and how it looks as JSON.
//!
//! An application and the host share this crate. It has no I/O, no clock and no async code, and it knows no store
//! and no handler.

mod item;
mod json;

pub use item::{
    DELAY_MAX, IllegalTransition, InvalidItem, Item, ItemId, JSON, KEY_MAX, Millis, NewItem, Status, Transition,
    UnknownStatus, validate_key, validate_saga, validate_type,
};
pub use json::{ItemDocument, PayloadEncoding, payload_fields};
