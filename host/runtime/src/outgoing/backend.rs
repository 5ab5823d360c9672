//! What lies beyond an attempt's sandbox: where authorized requests go, and where time and randomness come from.
//!
//! Everything that judges a guest (grants, limits, keys, denials) stands before this seam, so that it is
//! the same whether the network is behind it or a simulated world.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::bindings::outbox::handler::followups::NewItem as EmitRequest;
use crate::sandbox::observations::Denial;
use crate::simulation::virtual_clock::VirtualClock;

/// What lies beyond the sandbox.
pub(crate) trait HostBackend: fmt::Debug + Send + Sync + 'static {
    /// Sends a request that was authorized and has the host's headers. `requested_timeout` is how long the
    /// guest waits for the head of the answer, when that is less than the attempt has.
    fn send(&self, request: Request<WasiBody>, requested_timeout: Option<Duration>) -> ResponseFuture;

    /// Hears that the guest calls the host for something that is not sent. An error ends the attempt
    /// before the call has done anything.
    fn before_call(&self, _call: HostCall<'_>) -> wasmtime::Result<()> {
        Ok(())
    }

    /// Hears that the call that was entered last is done. An error ends the attempt before the guest
    /// learns of it.
    fn after_call(&self) -> wasmtime::Result<()> {
        Ok(())
    }

    /// The clock and the randomness of a guest, where they are not the system's.
    fn virtual_clock(&self) -> Option<&VirtualClock> {
        None
    }

    /// Returns when a guest has waited for this long by the virtual clock.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// A request on its way.
pub(crate) type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<WasiBody>, SendError>> + Send>>;

/// A request that has no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    /// The error that the guest gets.
    pub(crate) error: Error,
    /// Whether it left the host, so that it may have had an effect.
    pub(crate) was_sent: bool,
    /// What the host would not let it do, if that is why.
    pub(crate) denial: Option<Denial>,
}

/// A call of the host by which a guest reads or writes what is stored for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostCall<'a> {
    /// It reads a key of its state.
    Get(&'a str),
    /// It sets a key of its state.
    Put(&'a str, &'a [u8]),
    /// It removes a key of its state.
    Delete(&'a str),
    /// It emits a follow-up.
    Emit(&'a EmitRequest),
}
