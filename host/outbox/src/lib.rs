//! A durable outbox whose side-effect handlers are WebAssembly components.

pub mod bench;
pub mod cli;
pub mod config;
mod open_store;
pub mod telemetry;

pub use outbox_check as check;
pub use outbox_client as client;
pub use outbox_core as core;
pub use outbox_http as http;
pub use outbox_item as item;
pub use outbox_postgres as postgres;
pub use outbox_runtime as runtime;
pub use outbox_sqlite as sqlite;
pub use outbox_store as store;
pub use outbox_worker as worker;
