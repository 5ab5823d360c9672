//! Runs one call of a component: what the guest can reach, what it may use, and how the call ends.

pub(crate) mod cpu_meter;
pub(crate) mod engine;
pub(crate) mod engine_errors;
pub(crate) mod epoch_ticker;
pub(crate) mod failure_mapping;
pub(crate) mod fixed_limits;
pub(crate) mod followups;
pub(crate) mod guest_log;
pub(crate) mod host_functions;
pub(crate) mod host_state;
pub(crate) mod instance;
pub(crate) mod limiter;
pub(crate) mod observations;
pub(crate) mod output;
pub(crate) mod state_buffer;
