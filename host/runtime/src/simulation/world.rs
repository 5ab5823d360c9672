//! The world that a simulated attempt runs in, as the caller makes it up.

use std::ops::ControlFlow;

use crate::simulation::call::{GuestCall, OutgoingRequest, WorldResponse};

/// What an attempt finds outside its sandbox. The simulator calls these methods in the order of the guest's calls.
pub trait SimulatedWorld: Send + Sync + 'static {
    /// Called when a call begins, before it has had an effect. `Break` ends the attempt here, as a crash of the
    /// process would.
    fn before_call(&self, call: &GuestCall) -> ControlFlow<()>;

    /// Receives a request. Its effect happens now. Returns what the guest gets.
    fn respond(&self, request: &OutgoingRequest) -> WorldResponse;

    /// Called when a call has had its effect, before the guest sees the result. `Break` ends the attempt here.
    fn after_call(&self, call: &GuestCall) -> ControlFlow<()>;
}
