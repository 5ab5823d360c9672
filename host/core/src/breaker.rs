//! Breakers: what keeps the outage of a receiver from using up the attempts of its items.

pub(crate) mod attempt_origins;
pub(crate) mod breakers;
pub(crate) mod of_types;
pub(crate) mod origin;
pub(crate) mod origins;
pub(crate) mod policy;
pub(crate) mod status;
