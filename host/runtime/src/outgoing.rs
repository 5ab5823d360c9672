//! Requests that a component sends: what is granted, what the host adds, how they reach the network.

pub(crate) mod address;
pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod grant;
pub(crate) mod host_headers;
pub(crate) mod network;
pub(crate) mod policy;
pub(crate) mod recorder;
pub(crate) mod redact;
pub(crate) mod resolve;
