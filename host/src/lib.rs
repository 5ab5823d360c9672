//! A durable outbox whose side-effect handlers are WebAssembly components.
//!
//! Read the modules in the order in which data flows: [`item`] → [`store`] → [`worker`] → [`handler`]
//! → [`plugin`], with [`edge`] and [`cli`] as the two ways in.

pub mod check;
pub mod cli;
pub mod config;
pub mod edge;
pub mod handler;
pub mod item;
pub mod plugin;
pub mod retry;
pub mod saga;
pub mod store;
pub mod telemetry;
pub mod worker;
