//! One test binary for every promise between modules.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bulk;
mod check;
mod cli;
mod conformance;
mod crash;
mod edge;
mod exactly_once;
mod generations;
mod handlers;
mod hostile;
mod layering;
mod plugin;
mod readme;
mod reload;
mod runbook;
mod sandbox;
mod smoke;
mod sql;
mod store_contract;
mod store_model;
mod support;
mod worker;
