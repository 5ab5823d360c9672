//! The one test binary of the repository: it tests the promises that span several modules.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bulk;
mod check;
mod cli;
mod conformance;
mod crash;
mod decay;
mod documents;
mod edge;
mod exactly_once;
mod generations;
mod handlers;
mod hostile;
mod languages;
mod layering;
mod offers;
mod outages;
mod patterns;
mod plugin;
mod postgres;
mod readme;
mod recording;
mod reload;
mod runbook;
mod sandbox;
mod server;
mod smoke;
mod sql;
mod store_contract;
mod store_model;
mod support;
mod tls;
mod wit;
mod worker;
