#![cfg_attr(not(doctest), doc = include_str!("../README.md"))]
#![cfg_attr(doctest, doc = "The examples of the README are those of `readme`.")]
#![deny(missing_docs)]

mod error;
#[cfg(feature = "tokio-postgres")]
pub mod postgres;
#[cfg(any(feature = "tokio-postgres", feature = "sqlx-postgres"))]
pub mod postgres_sql;
#[cfg(feature = "rusqlite")]
pub mod sqlite;
#[cfg(feature = "sqlx-postgres")]
pub mod sqlx_postgres;

pub use outbox_item::{InvalidItem, ItemId, NewItem};

pub use crate::error::EnqueueError;

/// Compiles the examples of the README, which need every driver.
#[cfg(all(doctest, feature = "rusqlite", feature = "tokio-postgres", feature = "sqlx-postgres"))]
#[doc = include_str!("../README.md")]
mod readme {}
