//! The requests that a component sends: which are granted, what the host adds, and how they reach the network.

pub(crate) mod address;
pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod grant;
pub(crate) mod host_headers;
pub(crate) mod idempotency_key;
pub(crate) mod network;
pub(crate) mod policy;
pub(crate) mod recorder;
pub(crate) mod redact;
pub(crate) mod resolve;
