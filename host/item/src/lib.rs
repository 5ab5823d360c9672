//! The item of a durable outbox: its fields, its statuses, the rules for its fields, and its JSON shape.
//!
//! An application and the host share this crate. It has no I/O, no clock and no async code, and it knows no store and
//! no handler.
//!
//! ```
//! use outbox_item::{NewItem, Status, Transition};
//!
//! let mut item = NewItem::new("send_mail", "order-17", r#"{"to":"a@example.org"}"#);
//! item.ordering_key = Some("customer-4".to_owned());
//! item.validate()?;
//! assert_eq!(item.correlation_id(), "order-17");
//!
//! // A transition that does not exist is an error.
//! assert_eq!(Status::Pending.next(Transition::Claim)?, Status::Claimed);
//! assert!(Status::Pending.next(Transition::Complete).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod exact_json;
mod id;
mod item;
mod json;
mod status;
mod time;
mod validate;

pub use crate::exact_json::exact_object;
pub use crate::id::ItemId;
pub use crate::item::{Item, JSON, NewItem};
pub use crate::json::{ItemDocument, ItemSummary, PayloadEncoding, payload_fields, payload_value, reformat};
pub use crate::status::{IllegalTransition, Status, Transition, UnknownStatus};
pub use crate::time::{Millis, millis};
pub use crate::validate::{
    DELAY_MAX, InvalidAt, InvalidItem, KEY_MAX, is_header, validate_items, validate_key, validate_saga, validate_type,
};
