//! The backend of one simulated attempt: it passes every call to the world and does what the world answers.

use std::fmt;
use std::future::pending;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request as HttpRequest, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::watch;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::outgoing::backend::{HostBackend, HostCall, ResponseFuture, SendError};
use crate::outgoing::connect_error::CONNECT_TIMEOUT;
use crate::sandbox::observations::SideEffects;
use crate::simulation::call::{GuestCall, OutgoingRequest, WorldResponse};
use crate::simulation::virtual_clock::VirtualClock;
use crate::simulation::world::SimulatedWorld;

/// Why an attempt ended before its guest returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EarlyEnd {
    /// The world simulated a crash of the process.
    Crashed,
    /// The guest waited until its deadline.
    OutOfTime,
}

/// The backend of one attempt.
#[derive(Clone)]
pub(crate) struct SimulatedBackend(Arc<BackendState>);

struct BackendState {
    world: Arc<dyn SimulatedWorld>,
    virtual_clock: VirtualClock,
    attempt_time: Duration,
    end: watch::Sender<Option<EarlyEnd>>,
    has_side_effects: AtomicBool,
    current: Mutex<Option<GuestCall>>,
}

impl fmt::Debug for SimulatedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedBackend")
            .field("virtual_clock", &self.0.virtual_clock)
            .field("end", &*self.0.end.borrow())
            .finish()
    }
}

impl SimulatedBackend {
    /// A backend whose attempt begins now and may take `attempt_time` by the virtual clock.
    pub(crate) fn new(world: Arc<dyn SimulatedWorld>, virtual_clock: VirtualClock, attempt_time: Duration) -> Self {
        let (end, has_side_effects, current) = (watch::Sender::new(None), AtomicBool::new(false), Mutex::default());
        Self(Arc::new(BackendState { world, virtual_clock, attempt_time, end, has_side_effects, current }))
    }

    /// Resolves when the attempt ends before its guest returns; never otherwise.
    pub(crate) async fn ended_early(&self) -> EarlyEnd {
        let mut end = self.0.end.subscribe();
        match end.wait_for(Option::is_some).await.map(|end| *end) {
            Ok(Some(end)) => end,
            _ => pending().await,
        }
    }

    /// Why the attempt ended before its guest returned, if it did.
    pub(crate) fn early_end(&self) -> Option<EarlyEnd> {
        *self.0.end.borrow()
    }

    /// Whether a request that may have had an effect was sent.
    pub(crate) fn side_effects(&self) -> SideEffects {
        if self.0.has_side_effects.load(Ordering::Relaxed) { SideEffects::Possible } else { SideEffects::None }
    }

    fn end(&self, end: EarlyEnd) {
        self.0.end.send_if_modified(|known| known.is_none() && known.replace(end).is_none());
    }

    /// Continues, or hangs until the attempt is dropped: a crashed guest must not run on.
    async fn continue_or_hang(&self, flow: ControlFlow<()>) {
        if flow.is_break() {
            self.end(EarlyEnd::Crashed);
        }
        if self.early_end().is_some() {
            pending::<()>().await;
        }
    }

    async fn exchange(
        self,
        request: HttpRequest<WasiBody>,
        requested_timeout: Option<Duration>,
    ) -> Result<Response<WasiBody>, SendError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(sent_without_response)?.to_bytes();
        let call = GuestCall::Request(OutgoingRequest::new(&head, body.to_vec()));
        let GuestCall::Request(request) = &call else { return Err(sent_without_response(Error::HttpProtocolError)) };
        self.continue_or_hang(ControlFlow::Continue(())).await;
        self.continue_or_hang(self.0.world.before_call(&call)).await;
        self.0.has_side_effects.fetch_or(!request.is_safe(), Ordering::Relaxed);
        let answer = self.0.world.respond(request);
        self.continue_or_hang(self.0.world.after_call(&call)).await;
        self.deliver(answer, requested_timeout).await
    }

    async fn deliver(
        &self,
        answer: WorldResponse,
        requested_timeout: Option<Duration>,
    ) -> Result<Response<WasiBody>, SendError> {
        match answer {
            WorldResponse::Response { status, headers, body } => response(status, &headers, body),
            WorldResponse::Refused => {
                Err(SendError { error: Error::ConnectionRefused, was_sent: false, denial: None, fault: None })
            }
            WorldResponse::Broken => Err(sent_without_response(Error::ConnectionTerminated)),
            WorldResponse::Vanished => Err(self.vanish(requested_timeout).await),
            WorldResponse::Silence => {
                self.sleep(requested_timeout.unwrap_or(self.0.attempt_time)).await;
                Err(sent_without_response(Error::HttpResponseTimeout))
            }
        }
    }
}

impl SimulatedBackend {
    /// Waits for the receiver of a request that got lost. Without a timeout of the guest, a wait for a response would
    /// last until the deadline, and the guest would not see that it failed: then it is the connection that fails.
    async fn vanish(&self, requested_timeout: Option<Duration>) -> SendError {
        self.sleep(requested_timeout.unwrap_or(CONNECT_TIMEOUT)).await;
        match requested_timeout {
            Some(_) => sent_without_response(Error::HttpResponseTimeout),
            None => SendError { error: Error::ConnectionTimeout, was_sent: false, denial: None, fault: None },
        }
    }
}

fn sent_without_response(error: Error) -> SendError {
    SendError { error, was_sent: true, denial: None, fault: None }
}

fn response(status: u16, headers: &[(String, String)], body: Vec<u8>) -> Result<Response<WasiBody>, SendError> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    response.body(body).map_err(|_| sent_without_response(Error::HttpProtocolError))
}

impl HostBackend for SimulatedBackend {
    fn send(&self, request: HttpRequest<WasiBody>, requested_timeout: Option<Duration>) -> ResponseFuture {
        Box::pin(self.clone().exchange(request, requested_timeout))
    }

    fn before_call(&self, call: HostCall<'_>) -> wasmtime::Result<()> {
        let call = GuestCall::from_host_call(call);
        let flow = self.0.world.before_call(&call);
        *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
        self.stop_if_ended(flow)
    }

    fn after_call(&self) -> wasmtime::Result<()> {
        let call = self.0.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.stop_if_ended(call.map_or(ControlFlow::Continue(()), |call| self.0.world.after_call(&call)))
    }

    fn install_clocks(&self, wasi: &mut WasiCtxBuilder) {
        self.0.virtual_clock.install(wasi);
    }

    fn virtual_elapsed(&self) -> Duration {
        self.0.virtual_clock.elapsed()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            self.0.virtual_clock.advance(time);
            if self.0.virtual_clock.elapsed() >= self.0.attempt_time {
                self.end(EarlyEnd::OutOfTime);
                pending::<()>().await;
            }
        })
    }
}

impl SimulatedBackend {
    fn stop_if_ended(&self, flow: ControlFlow<()>) -> wasmtime::Result<()> {
        if flow.is_break() {
            self.end(EarlyEnd::Crashed);
        }
        match self.early_end() {
            None => Ok(()),
            Some(end) => Err(wasmtime::Error::msg(format!("the attempt is over: {end:?}"))),
        }
    }
}
