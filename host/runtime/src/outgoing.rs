//! The requests that a component sends: which are granted, what the host adds, and how they reach the network.

pub(crate) mod address;
pub(crate) mod authorities;
pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod connect_error;
mod connection;
pub(crate) mod grant;
mod happy_eyeballs;
pub(crate) mod host_headers;
pub(crate) mod host_want;
pub(crate) mod idempotency_key;
pub(crate) mod network;
pub(crate) mod policy;
pub(crate) mod recorder;
pub(crate) mod redact;
mod repeatable_body;
pub(crate) mod resolve;
mod send_failure;
