//! One call of a component: what it may reach, what it may use up, and how it ends.

pub(crate) mod cpu_meter;
pub(crate) mod engine;
pub(crate) mod epoch_ticker;
pub(crate) mod failure_mapping;
pub(crate) mod followups;
pub(crate) mod host_state;
pub(crate) mod instance;
pub(crate) mod limiter;
pub(crate) mod observations;
pub(crate) mod output;
pub(crate) mod pool_limits;
pub(crate) mod state_buffer;
