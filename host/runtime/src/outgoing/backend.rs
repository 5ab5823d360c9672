//! What is outside an attempt's sandbox: where authorized requests go, and where time and randomness come from.
//!
//! Everything that judges a guest (grants, limits, keys, denials) is on the guest's side of this seam. So a simulated
//! world replaces the network without a change of what the guest may do.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::bindings::outbox::handler::followups::NewItem as EmitRequest;
use crate::sandbox::observations::{Denial, NetworkFault};

/// The outside of one plugin's sandbox. The default methods are those of a real world.
pub(crate) trait HostBackend: fmt::Debug + Send + Sync + 'static {
    /// Sends a request that was authorized and has the host's headers. `requested_timeout` is how long the guest
    /// waits for the head of the response; `None` means until the attempt's deadline.
    fn send(&self, request: Request<WasiBody>, requested_timeout: Option<Duration>) -> ResponseFuture;

    /// Called before the host carries out a [`HostCall`]. An error ends the attempt before the call has had an effect.
    fn before_call(&self, _call: HostCall<'_>) -> wasmtime::Result<()> {
        Ok(())
    }

    /// Called after the host has carried out the call that [`HostBackend::before_call`] announced. An error ends the
    /// attempt before the guest sees the result.
    fn after_call(&self) -> wasmtime::Result<()> {
        Ok(())
    }

    /// Replaces the clocks and the randomness of a guest, if they are not the system's.
    fn install_clocks(&self, _wasi: &mut WasiCtxBuilder) {}

    /// The time since the attempt began by the virtual clock; zero if the guest has the system's clocks.
    fn virtual_elapsed(&self) -> Duration {
        Duration::ZERO
    }

    /// Returns when a guest has waited for `time`, by the virtual clock if there is one.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// A request on its way.
pub(crate) type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<WasiBody>, SendError>> + Send>>;

/// A request without a response.
#[derive(Debug)]
pub(crate) struct SendError {
    /// The error that the guest gets.
    pub(crate) error: Error,
    /// Whether the request left the host, so that it may have had an effect.
    pub(crate) was_sent: bool,
    /// What the host denied, if that is the reason.
    pub(crate) denial: Option<Denial>,
    /// What went wrong on the way, in words.
    pub(crate) fault: Option<Box<NetworkFault>>,
}

/// A call by which a guest reads or writes what the host stores for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostCall<'a> {
    /// The guest reads a key of its state.
    Get(&'a str),
    /// The guest sets a key of its state.
    Put(&'a str, &'a [u8]),
    /// The guest removes a key of its state.
    Delete(&'a str),
    /// The guest emits a follow-up.
    Emit(&'a EmitRequest),
}
