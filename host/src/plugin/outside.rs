//! What lies beyond an attempt's sandbox: where admitted requests go, and what clocks and dice say.
//!
//! Everything that judges a guest (grants, limits, keys, denials) stands before this seam, so that it is
//! the same whether the network is behind it or a scripted world.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};
use wasmtime_wasi_http::{Error, WasiBody};

use super::bindings::outbox::handler::followups::NewItem;
use super::evidence::Denial;
use super::lab::Staged;

/// What lies beyond the sandbox.
pub(super) trait Outside: fmt::Debug + Send + Sync + 'static {
    /// Sends a request that was admitted and stamped. `wish` is how long the guest waits for the head
    /// of the answer, when that is less than the attempt has.
    fn send(&self, request: Request<WasiBody>, wish: Option<Duration>) -> Sending;

    /// Hears that the guest calls the host for something that is not sent. An error ends the attempt
    /// before the call has done anything.
    fn enter(&self, _call: HostCall<'_>) -> wasmtime::Result<()> {
        Ok(())
    }

    /// Hears that the call that was entered last is done. An error ends the attempt before the guest
    /// learns of it.
    fn leave(&self) -> wasmtime::Result<()> {
        Ok(())
    }

    /// The clocks and the dice of a guest, where they are not the system's.
    fn staged(&self) -> Option<&Staged> {
        None
    }

    /// Returns when a guest has waited so long by staged clocks.
    fn wait(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// A request on its way.
pub(super) type Sending = Pin<Box<dyn Future<Output = Result<Response<WasiBody>, Unanswered>> + Send>>;

/// A request that has no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// What the guest is told.
    pub(super) error: Error,
    /// Whether it left the host, so that it may have had an effect.
    pub(super) was_sent: bool,
    /// What the host would not let it do, if that is why.
    pub(super) denial: Option<Denial>,
}

/// A call of the host by which a guest reads or writes what is stored for it.
#[derive(Clone, Copy, Debug)]
pub(super) enum HostCall<'a> {
    /// It reads a key of its state.
    Get(&'a str),
    /// It sets a key of its state.
    Put(&'a str, &'a [u8]),
    /// It removes a key of its state.
    Delete(&'a str),
    /// It emits a follow-up.
    Emit(&'a NewItem),
}
